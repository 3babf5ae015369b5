"""Labels and choices that are computed where they are asked for: the same as in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixonomy.data.sources import lazy
from mixonomy.data.sources.lazy import LazyLabels, OneOfEach, PickedNames, Stretch, joined_labels

SETS = st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=30)


def several(sets: list[set[int]], first: int = 0) -> tuple[LazyLabels, np.ndarray]:
    """Labels of which an image may have several, and the same as bool [N, K]; `first` images are stored before."""
    stored = [{0, 4}] * first + sets
    values = np.array([number for numbers in stored for number in sorted(numbers)], dtype=np.int32)
    ends = np.cumsum([len(numbers) for numbers in stored], dtype=np.int64)
    dense = np.array([[number in numbers for number in range(5)] for numbers in sets], dtype=bool)
    return LazyLabels(values, ends, 5, Stretch(first, len(sets))), dense


@given(st.integers(0, 500), st.integers(2, 50))
def test_one_of_each_block_and_the_others_are_all_of_them_once(num_samples, block):
    one, others = (OneOfEach(num_samples, block, is_rest=rest) for rest in (False, True))
    chosen, rest = (each[np.arange(len(each))] for each in (one, others))
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(num_samples))
    assert (np.diff(chosen) > 0).all() and (np.diff(rest) > 0).all()
    assert np.array_equal(chosen // block, np.arange(num_samples // block))
    assert all(others[place] == rest[place] for place in range(len(rest)))


def test_which_one_of_a_block_is_chosen_is_uniform_and_does_not_depend_on_how_many_there_are():
    chosen = OneOfEach(100_000, 10)[np.arange(10_000)] % 10
    counts = np.bincount(chosen, minlength=10)
    assert ((counts - 1000) ** 2 / 1000).sum() < 9 + 4 * np.sqrt(18)
    assert np.array_equal(chosen[:500], OneOfEach(5_003, 10)[np.arange(500)] % 10)


@given(SETS, st.integers(0, 3), st.data())
def test_several_labels_are_read_as_from_memory(sets, first, data):
    labels, dense = several(sets, first)
    assert labels.ndim == 2 and labels.shape == dense.shape and labels.dtype == bool and len(labels) == len(dense)
    places = data.draw(st.lists(st.integers(0, len(sets) - 1), max_size=9))
    assert np.array_equal(labels[np.array(places, dtype=np.int64)], dense[places])
    assert np.array_equal(labels[1:], dense[1:]) and np.array_equal(np.asarray(labels), dense)
    assert all(np.array_equal(labels[place], dense[place]) for place in places)
    assert np.array_equal(labels.counts(), dense.sum(0))
    assert np.array_equal(np.asarray(LazyLabels.of(dense)), dense)


@given(SETS)
def test_rarest_class_is_that_of_memory(sets):
    from mixonomy.data.splits import _strata

    labels, dense = several(sets)
    assert np.array_equal(labels.rarest(), _strata(dense))


@given(SETS, SETS, st.integers(2, 4))
def test_parts_of_labels_and_several_together_are_those_of_memory(sets, others, block):
    (labels, dense), (more, dense_more) = several(sets, 2), several(others)
    assert np.array_equal(np.asarray(joined_labels(labels, more)), np.concatenate([dense, dense_more]))
    rest = OneOfEach(len(sets), block, is_rest=True)
    picked = labels.pick(rest)
    assert np.array_equal(np.asarray(picked), dense[rest[np.arange(len(rest))]])
    assert np.array_equal(picked.counts(), np.asarray(picked).sum(0))


def test_one_label_each_and_counts_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(lazy, "CHUNK", 7)
    values = np.random.default_rng(0).integers(0, 5, 100).astype(np.int32)
    labels = LazyLabels(values, None, 5, Stretch(10, 80))
    assert labels.ndim == 1 and labels.shape == (80,) and labels.dtype == np.int64
    assert np.array_equal(np.asarray(labels), values[10:90]) and labels[3] == values[13]
    assert np.array_equal(labels.counts(), np.bincount(values[10:90], minlength=5))
    assert np.array_equal(np.asarray(labels, dtype=np.float32), values[10:90].astype(np.float32))


def test_picked_names():
    names = PickedNames([f"n{i}" for i in range(10)], OneOfEach(10, 3, is_rest=True))
    assert list(names) == names[:] and len(names) == 7 and names[-1] == "n9"
    with pytest.raises(IndexError):
        names[7]
