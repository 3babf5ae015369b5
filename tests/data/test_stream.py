"""The stream: an order and random numbers that are pure functions of (seed, epoch, index)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixonomy.data.stream import Order, balanced_epoch, epoch_order, mix64, sample_keys, uniforms

SEEDS = st.integers(0, 2**31 - 1)
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix64_by_python(x: int) -> int:
    """splitmix64's finaliser with integers of any size, from the published formula."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.integers(0, MASK))
def test_mix64_is_the_published_function(x):
    with np.errstate(over="ignore"):
        assert int(mix64(np.array([x], dtype=np.uint64))[0]) == mix64_by_python(x)


def test_mix64_gives_the_published_first_number_of_splitmix64():
    with np.errstate(over="ignore"):
        assert int(mix64(np.array([GOLDEN], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF


@given(SEEDS, st.integers(0, 1000), st.integers(0, 10**9), st.integers(0, 4))
def test_keys_and_uniforms_follow_their_formula_by_plain_integers(seed, epoch, index, purpose):
    key = mix64_by_python((seed * GOLDEN + 1) & MASK)
    key = mix64_by_python((key + (epoch + 1) * GOLDEN) & MASK)
    key = mix64_by_python((key + (index + 1) * GOLDEN) & MASK)
    keys = sample_keys(seed, np.array([epoch]), np.array([index]))
    assert int(keys[0]) == key
    expected = [(mix64_by_python((key + (j + (purpose << 32)) * GOLDEN) & MASK) >> 11) * 2.0**-53 for j in (1, 2, 3)]
    assert uniforms(keys, 3, purpose)[0].tolist() == expected


@given(SEEDS, st.integers(0, 50), st.integers(1, 300))
def test_each_epoch_is_a_permutation(seed, epoch, num_samples):
    assert sorted(epoch_order(seed, epoch, num_samples).tolist()) == list(range(num_samples))


def test_order_is_a_pure_function_and_differs_between_epochs_and_seeds():
    first = epoch_order(0, 0, 100).copy()
    assert np.array_equal(epoch_order(0, 0, 100), first)
    assert not np.array_equal(epoch_order(0, 1, 100), first)
    assert not np.array_equal(epoch_order(1, 0, 100), first)


@given(SEEDS, st.integers(1, 20), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 60))
def test_batches_of_any_sizes_concatenate_to_the_same_stream(seed, num_samples, sizes, start):
    pieces, position, order = [], start, Order(seed, num_samples)
    for size in sizes:
        pieces.append(order.at(position, size))
        position += size
    whole = Order(seed, num_samples).at(start, sum(sizes))
    assert np.array_equal(np.concatenate([piece.indices for piece in pieces]), whole.indices)
    assert np.array_equal(np.concatenate([piece.keys for piece in pieces]), whole.keys)


def test_a_batch_that_crosses_epochs_takes_the_rest_of_one_and_the_begin_of_the_next():
    visits = Order(3, 10).at(7, 15)
    expected = [*epoch_order(3, 0, 10)[7:], *epoch_order(3, 1, 10), *epoch_order(3, 2, 10)[:2]]
    assert visits.indices.tolist() == expected
    epochs = np.repeat([0, 1, 2], [3, 10, 2])
    assert np.array_equal(visits.keys, sample_keys(3, epochs, visits.indices))


def test_position_far_in_the_stream_needs_no_walk():
    indices = Order(0, 50).at(10**12, 4).indices
    assert indices.tolist() == epoch_order(0, 2 * 10**10, 50)[:4].tolist()


def test_keys_differ_between_seeds_epochs_and_samples():
    seeds, epochs, indices = np.meshgrid(range(20), range(20), range(20), indexing="ij")
    keys = [sample_keys(seed, epochs[seed].ravel(), indices[seed].ravel()) for seed in range(20)]
    assert len(np.unique(np.concatenate(keys))) == seeds.size


def test_uniforms_are_uniform_and_independent_of_each_other():
    n = 20_000
    draws = uniforms(sample_keys(0, np.zeros(n, np.int64), np.arange(n)), 8, purpose=1)
    other = uniforms(sample_keys(0, np.zeros(n, np.int64), np.arange(n)), 8, purpose=2)
    assert draws.min() >= 0 and draws.max() < 1
    assert np.abs(draws.mean(0) - 1 / 2).max() < 4 * math.sqrt(1 / 12 / n)
    assert np.abs(draws.var(0) - 1 / 12).max() < 4 * math.sqrt(1 / 180 / n)
    correlations = np.corrcoef(np.concatenate([draws, other], axis=1).T) - np.eye(16)
    assert np.abs(correlations).max() < 5 / math.sqrt(n)
    successive = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(successive) < 4 / math.sqrt(n)
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    chi_squared = ((counts - 8 * n / 100) ** 2 / (8 * n / 100)).sum()
    assert chi_squared == pytest.approx(99, abs=4 * math.sqrt(2 * 99))


def test_more_uniforms_begin_with_the_same_ones():
    keys = sample_keys(0, np.array([0, 1]), np.array([5, 6]))
    assert np.array_equal(uniforms(keys, 9)[:, :4], uniforms(keys, 4))


def test_order_and_augmentation_share_no_numbers():
    every, zeros = np.arange(1000), np.zeros(1000, np.int64)
    assert not np.array_equal(np.argsort(sample_keys(0, zeros, every), kind="stable"), epoch_order(0, 0, 1000))


@given(SEEDS, st.integers(0, 9), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_balanced_epoch_has_every_class_and_within_it_every_sample_equally_often(seed, epoch, sizes):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    indices, rounds = balanced_epoch(seed, epoch, labels)
    assert len(indices) == len(labels)
    of_class = [int((labels[indices] == label).sum()) for label in np.unique(labels)]
    assert max(of_class) - min(of_class) <= 1
    for label in np.unique(labels):
        of_sample = np.bincount(indices[labels[indices] == label], minlength=len(labels))[labels == label]
        assert of_sample.max() - of_sample.min() <= 1
    visits = list(zip(indices.tolist(), rounds.tolist(), strict=True))
    assert len(set(visits)) == len(visits) and all((i, r - 1) in visits for i, r in visits if r)


def test_balanced_order_is_pure_shuffled_and_gives_repeated_samples_keys_of_their_own():
    labels = np.array([0] * 18 + [1] * 2)
    first, again = Order(1, 20, labels).at(3, 57), Order(1, 20, labels).at(20, 20)
    assert np.array_equal(first.indices[17:37], again.indices) and np.array_equal(first.keys[17:37], again.keys)
    assert len(set(first.keys.tolist())) == 57
    runs = np.diff(labels[again.indices] != 0).astype(bool).sum()
    assert runs > 3  # the classes do not come one after the other
    assert not np.array_equal(again.indices, Order(1, 20, labels).at(40, 20).indices)
    assert not np.array_equal(again.indices, Order(2, 20, labels).at(20, 20).indices)
