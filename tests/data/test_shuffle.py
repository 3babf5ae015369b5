"""Order at scale: permutations computed on the fly, each sample once an epoch, read from few places at a time."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mixonomy.data.shuffle import PIECE, WINDOW, Permutation, WindowedOrder
from mixonomy.data.stream import sample_keys

SEEDS = st.integers(0, 2**31 - 1)
KEYS = st.integers(0, 2**64 - 1)
LENGTH = PIECE * WINDOW


def keys(count: int) -> list[int]:
    return [int(key) for key in sample_keys(5, np.arange(count), np.zeros(count, dtype=np.int64))]


@given(KEYS, st.integers(1, 3000))
def test_permutation_is_a_bijection(key, size):
    assert sorted(Permutation(key, size)(np.arange(size)).tolist()) == list(range(size))


@given(KEYS, st.integers(2**61, 2**62), st.lists(st.integers(0, 2**61 - 1), min_size=2, max_size=9, unique=True))
def test_permutation_of_very_many_stays_within_them_and_apart(key, size, places):
    found = Permutation(key, size)(np.array(places)).tolist()
    assert len(set(found)) == len(places) and all(0 <= place < size for place in found)


def test_every_permutation_of_four_is_equally_likely():
    counts = Counter(tuple(Permutation(key, 4)(np.arange(4)).tolist()) for key in keys(4800))
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 23 + 4 * np.sqrt(2 * 23)


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, 300])
def test_places_and_steps_between_neighbours_are_uniform(size):
    trials = 900
    found = np.array([Permutation(key, size)(np.arange(size)) for key in keys(trials)])  # [trials, size]
    for place in (0, size // 2, size - 1):
        counts = np.bincount(found[:, place], minlength=size)
        expected = trials / size
        assert ((counts - expected) ** 2 / expected).sum() < size - 1 + 4 * np.sqrt(2 * (size - 1))
    steps = np.bincount(((found[:, 1:] - found[:, :-1]) % size).ravel(), minlength=size)[1:]
    assert np.abs(steps - trials).max() < 5 * np.sqrt(trials)


@given(SEEDS, st.integers(0, 50), st.integers(1, 3 * LENGTH))
@example(0, 0, LENGTH - 1)
@example(0, 1, LENGTH)
@example(0, 2, 2 * LENGTH + 1)
def test_each_epoch_has_every_sample_once(seed, epoch, num_samples):
    indices = WindowedOrder(seed, num_samples).at(epoch * num_samples, num_samples).indices
    assert np.array_equal(np.sort(indices), np.arange(num_samples))


@given(SEEDS, st.integers(1, 900), st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 2000))
def test_batches_of_any_sizes_concatenate_to_the_same_stream(seed, num_samples, sizes, start):
    order, position, parts = WindowedOrder(seed, num_samples), start, []
    for size in sizes:
        parts.append(order.at(position, size))
        position += size
    whole = WindowedOrder(seed, num_samples).at(start, sum(sizes))
    assert np.array_equal(np.concatenate([part.indices for part in parts]), whole.indices)
    assert np.array_equal(np.concatenate([part.keys for part in parts]), whole.keys)
    epochs = np.arange(start, position) // num_samples
    assert np.array_equal(whole.keys, sample_keys(seed, epochs, whole.indices))


def test_order_differs_between_epochs_and_seeds_and_mixes_neighbours_apart():
    size = 3 * LENGTH + 77
    epochs = [WindowedOrder(0, size).at(epoch * size, size).indices for epoch in range(2)]
    other = WindowedOrder(1, size).at(0, size).indices
    for a, b in ((epochs[0], epochs[1]), (epochs[0], other)):
        assert (a == b).mean() < 20 / size
    pairs = [set(zip(found[:-1].tolist(), found[1:].tolist(), strict=True)) for found in epochs]
    assert len(pairs[0] & pairs[1]) < 20
    assert (np.diff(epochs[0]) == 1).mean() < 0.002  # one step in 16,384 of a window, a few of chance


def test_at_any_time_few_stretches_of_the_data_are_read():
    size = 20 * LENGTH
    indices = WindowedOrder(2, size).at(3 * LENGTH, LENGTH).indices
    assert len(np.unique(indices)) == LENGTH
    stretches = 1 + int((np.diff(np.sort(indices)) > 1).sum())
    assert stretches <= WINDOW
    assert indices.min() < size // 10 and indices.max() > size - size // 10  # from all over the data
    batch = indices[:1024]
    assert len(np.unique(batch // PIECE)) > WINDOW * 0.9  # and each batch from nearly all of them


@pytest.mark.parametrize("num_samples", [5 * LENGTH, 3 * LENGTH + 777, LENGTH + 1])
def test_stretches_are_the_pieces_that_windows_take_their_samples_from(num_samples):
    order = WindowedOrder(4, num_samples)
    stretches = order.stretches(num_samples, num_samples)  # of the second epoch
    assert sorted(index for stretch in stretches for index in stretch) == list(range(num_samples))
    assert len(stretches) <= num_samples // PIECE + 3
    for window in range(num_samples // LENGTH - 1):  # but for the last, which takes what is left over
        start = num_samples + window * LENGTH
        inside = {index for stretch in order.stretches(start, LENGTH) for index in stretch}
        assert inside == set(order.at(start, LENGTH).indices.tolist())
    parts = [order.stretches(position, 1000) for position in range(num_samples, 2 * num_samples, 1000)]
    assert [stretch for part in parts for stretch in part][: len(stretches)] == stretches


@pytest.mark.parametrize("num_samples", [300_000_000, 3_000_000_000])
def test_order_of_hundreds_of_millions_takes_milliseconds_and_next_to_no_memory(num_samples):
    WindowedOrder(0, 10).at(0, 1)
    tracemalloc.start()
    start = time.process_time()  # not the clock: others may use the machine
    order = WindowedOrder(3, num_samples)
    visits = order.at(5 * num_samples - 500, 1024)  # across two epochs, far from the start
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.5 and peak < 2**21
    assert 0 <= visits.indices.min() and visits.indices.max() < num_samples
    assert len(np.unique(visits.indices[:500])) == 500
