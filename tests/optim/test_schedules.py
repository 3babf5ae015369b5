"""Schedules: endpoints, shapes, and that the end is a share of the peak."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixonomy.optim import lr_factor


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule):
    factors = [lr_factor(step, total=100, warmup=10, schedule=schedule) for step in range(11)]
    assert factors == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("end", [0.0, 1e-5, 0.3])
@pytest.mark.parametrize("warmup", [0, 20])
def test_decay_begins_at_the_peak_and_ends_at_its_share(schedule, end, warmup):
    def factor(step):
        return lr_factor(step, total=100, warmup=warmup, schedule=schedule, end=end)

    assert factor(warmup) == 1.0
    assert factor(100) == pytest.approx(end, abs=1e-12)
    assert factor(warmup + (100 - warmup) // 2) == pytest.approx((1 + end) / 2)


def test_cosine_and_linear_follow_their_formulas():
    for step in range(100):
        assert lr_factor(step, total=100, warmup=0, schedule="linear") == pytest.approx(1 - step / 100)
        expected = 0.5 * (1 + math.cos(math.pi * step / 100))
        assert lr_factor(step, total=100, warmup=0, schedule="cosine") == pytest.approx(expected)


def test_constant_stays_at_the_peak():
    assert {lr_factor(step, total=50, warmup=0, schedule="constant") for step in range(50)} == {1.0}


@given(st.integers(1, 200), st.integers(0, 250), st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 0.99))
def test_factor_is_a_share_that_rises_then_falls(total, warmup, schedule, end):
    factors = [lr_factor(step, total=total, warmup=warmup, schedule=schedule, end=end) for step in range(total)]
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    peak = min(warmup, total)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
