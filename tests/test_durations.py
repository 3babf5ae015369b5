"""Durations: texts with a unit, and the number of steps that they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mixonomy.durations import Duration, Length, num_steps, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14 epochs", (14.0, "epoch")),
        ("1 epoch", (1.0, "epoch")),
        ("500 steps", (500.0, "step")),
        ("50000 examples", (50000.0, "example")),
        ("1e6 examples", (1e6, "example")),
        (" 0.5epochs ", (0.5, "epoch")),
        ("10 %", (10.0, "%")),
        ("10%", (10.0, "%")),
        ("0 steps", (0.0, "step")),
    ],
)
def test_text_is_split_into_amount_and_unit(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "14", "epochs", "-1 epochs", "14 days", "ten epochs", "nan steps", "inf steps",
                                  "1 epochs 2 steps", "1,5 epochs", "1e400 epochs"])  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="is not a duration; write it like '14 epochs'"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 epochs", 20),
        ("0.1 epochs", 1),
        ("0.11 epochs", 2),
        ("7 steps", 7),
        ("1 examples", 1),
        ("100 examples", 1),
        ("101 examples", 2),
        ("0 steps", 0),
        ("10 %", 5),
        ("100 %", 50),
        ("0 %", 0),
    ],
)
def test_steps_of_a_thousand_examples_in_batches_of_a_hundred(text, expected):
    assert num_steps(text, batch_size=100, num_examples=1000, total_steps=50) == expected


@given(st.integers(1, 10_000), st.integers(1, 512), st.integers(1, 60_000))
def test_whole_numbers_are_rounded_up_exactly(amount, batch_size, num_examples):
    assert num_steps(f"{amount} steps", batch_size=batch_size, num_examples=num_examples) == amount
    steps = num_steps(f"{amount} examples", batch_size=batch_size, num_examples=num_examples)
    assert steps == -(-amount // batch_size)
    steps = num_steps(f"{amount} epochs", batch_size=batch_size, num_examples=num_examples)
    assert steps == -(-amount * num_examples // batch_size)


@pytest.mark.parametrize(("text", "expected"), [("10 %", 3), ("1 %", 1), ("0.01 %", 1), ("30 %", 8)])
def test_share_of_25_steps_is_rounded_up_as_the_others_are(text, expected):
    assert num_steps(text, batch_size=1, num_examples=1, total_steps=25) == expected


def test_share_without_a_whole_is_refused():
    with pytest.raises(ValueError, match="'10 %' is a share; a training length is given in epochs"):
        num_steps("10 %", batch_size=1, num_examples=1)


def test_a_training_length_is_no_share_and_not_nothing():
    length, duration = TypeAdapter(Length), TypeAdapter(Duration)
    for text in ("10 %", "0 steps", "0.0 epochs"):
        assert duration.validate_python(text) == text
        with pytest.raises(ValueError, match="is not a training length"):
            length.validate_python(text)
    assert length.validate_python("14 epochs") == "14 epochs"
