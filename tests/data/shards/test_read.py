"""Reading shards: each image is compared with its checksum, few files stay open, large sets are read by rules alone."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
from shard_files import CLASSES, contents, image, samples, toy, write_tar

from mixonomy.data import (
    BadImages,
    EvalData,
    Source,
    Split,
    default_workers,
    loading,
    open_source,
    plan_splits,
    splits,
    train_data,
)
from mixonomy.data.shards import store
from mixonomy.data.shards.index import COLUMNS, NAME, NoIndex, open_index, write
from mixonomy.data.shards.pack import Options, pack
from mixonomy.data.shuffle import WindowedOrder
from mixonomy.data.sources import lazy, shards
from mixonomy.data.sources.base import Chained, Picked, prefetch, read_ahead
from mixonomy.data.sources.lazy import LazyLabels
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

PREPROCESSING = Preprocessing((8, 8), resize=1.0)
CPU = torch.device("cpu")


@pytest.fixture
def packed(tmp_path):
    """A pack of 40 training images in several shards and 9 validation images."""
    pack(toy(), tmp_path / "out", Options(shard_bytes=20_480))
    return tmp_path / "out"


def opened(folder):
    return open_source(f"shards:{folder}")


def flip_in_image(folder, split: str, index: int) -> str:
    """Changes one bit in the middle of an image; returns its name."""
    part = opened(folder).splits[split]
    wanted = part.images._ranges(np.array([index]))[0]
    with open(folder / wanted.shard, "r+b") as file:
        file.seek(wanted.start + wanted.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    return part.names[index]


def test_a_flipped_bit_is_an_error_or_left_out_as_any_bad_image(packed):
    name = flip_in_image(packed, "train", 17)
    source = opened(packed)
    with pytest.raises(OSError, match=r"its bytes in shard train-00000\d.tar do not match their checksum"):
        source.splits["train"].images[17]
    with pytest.raises(
        ValueError, match=rf"image '{name}': its file cannot be read \(its bytes in shard .* checksum\); re"
    ):
        first_batches(source.splits["train"], 4, BadImages())
    bad = BadImages("skip")
    found = first_batches(source.splits["train"], 4, bad)
    assert list(bad.errors) == [name] and sum(len(batch.labels) for batch in found) == 39


def first_batches(split, count, bad, workers=0, position=0):
    augment = Augment(crop="inception", randaugment_layers=1, randaugment_magnitude=5)  # which goes through workers
    data = train_data(split, augment, PREPROCESSING, seed=3, device=CPU, workers=workers, bad=bad)
    assert data.kind == "decoded by workers"
    return list(islice(data.batches(position, 10), count))


def test_a_shard_that_is_cut_off_or_goes_while_training_counts_as_bad_images(packed):
    source = opened(packed)
    part = source.splits["train"]
    shard = packed / "train-000001.tar"
    before = len([i for i in range(40) if part.images._ranges(np.array([i]))[0].shard == shard.name])
    os.truncate(shard, 3000)
    bad = BadImages("skip")
    first_batches(part, 4, bad)
    assert 0 < len(bad.errors) < before and "ends before it; the shard was cut off" in next(iter(bad.errors.values()))
    shard.unlink()
    with pytest.raises(OSError, match="shard train-000001.tar: No such file or directory"):
        for index in range(40):
            opened_again(packed, part).images[index]


def opened_again(folder, part):
    """The same split by a store that has no file open yet."""
    return Split(
        type(part.images)(part.images.index, store.LocalStore(str(folder)), part.images.images), part.labels, ()
    )


def test_what_is_missing_cut_off_or_another_file_is_refused_at_once(packed):
    shard = packed / "train-000001.tar"
    whole = shard.read_bytes()
    os.truncate(shard, len(whole) // 2)
    with pytest.raises(ValueError, match=r"train-000001.tar was cut off: it has [\d,]+ bytes and its index says"):
        opened(packed)
    shard.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="train-000001.tar is another file"):
        opened(packed)
    shard.unlink()
    with pytest.raises(ValueError, match="train-000001.tar is missing, and its index says that it belongs there"):
        opened(packed)


def test_a_damaged_index_is_one_sentence(packed):
    path = packed / NAME
    whole = path.read_bytes()
    for content in (whole[:-10], whole[:5], b"", b"\xff" * 100, whole[:8] + b"x" * (len(whole) - 8)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no index of shards, or damaged .*; remove it, and it is made again"):
            opened(packed)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ValueError, match="has format 9, this version reads up to 1"):
        opened(packed)


def test_few_files_stay_open_whatever_the_number_of_shards_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_OPEN", 5)
    pack(toy(train=60), tmp_path / "out", Options(shard_bytes=1))
    part = opened(tmp_path / "out").splits["train"]
    assert len(list((tmp_path / "out").glob("*.tar"))) == 60
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    expected = [part.images[index] for index in range(60)]
    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).integers(0, 60, 600).tolist()
        assert all(a == expected[i] for a, i in zip(pool.map(part.images.__getitem__, order), order, strict=True))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 5


def test_order_is_that_of_windows_and_workers_and_restarts_change_nothing(packed):
    part = opened(packed).splits["train"]
    assert isinstance(loading.order_of(part, 3), WindowedOrder)
    by_none, by_two, late = (
        first_batches(part, count, BadImages(), workers, position)
        for count, workers, position in ((9, 0, 0), (9, min(2, default_workers()), 0), (5, 1, 40))
    )
    visits = WindowedOrder(3, 40).at(0, 90)
    assert np.array_equal(np.concatenate([batch.labels.numpy() for batch in by_none]), part.labels[visits.indices])
    for a, b in zip(by_none, by_two, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and np.array_equal(a.keys, b.keys)
    for a, b in zip(by_none[4:], late, strict=True):
        assert torch.equal(a.images, b.images) and np.array_equal(a.keys, b.keys)


def test_held_out_images_and_both_paths_follow_the_same_order(packed):
    plan = plan_splits(opened(packed), 0.2)
    in_memory = train_data(plan.train, Augment(), PREPROCESSING, seed=3, device=CPU, workers=0)
    assert in_memory.kind == "in memory"
    by_workers = loading.WorkerData(
        plan.train, Augment(), PREPROCESSING, loading.order_of(plan.train, 3), 0, BadImages()
    )
    for a, b in zip(islice(in_memory.batches(0, 7), 9), islice(by_workers.batches(0, 7), 9), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and np.array_equal(a.keys, b.keys)


def test_evaluation_gives_the_images_of_the_source(packed, monkeypatch):
    ours, theirs = opened(packed).splits["val"], toy().splits["val"]
    for memory in (2**30, 0):
        monkeypatch.setattr(loading, "MEMORY_BYTES", memory)
        a, b = (list(EvalData(part, PREPROCESSING).batches()) for part in (ours, theirs))
        for (images, labels, at), (images_b, labels_b, at_b) in zip(a, b, strict=True):
            assert torch.equal(images, images_b) and torch.equal(labels, labels_b) and torch.equal(at, at_b)
            assert labels.dtype == torch.int64


def test_images_that_will_be_read_soon_are_announced(packed, monkeypatch):
    told, later = [], []
    monkeypatch.setattr(store.LocalStore, "read_ahead", lambda self, wanted: told.extend(wanted))
    monkeypatch.setattr(store.LocalStore, "prefetch", lambda self, wanted, num_bytes: later.extend(wanted))
    plan = plan_splits(opened(packed), 0.2)
    first_batches(plan.train, 1, BadImages())
    indices = plan.train.images.indices[WindowedOrder(3, len(plan.train)).at(0, 20).indices]
    assert told == plan.train.images.images._ranges(indices)  # this batch and the next
    assert [one.shard for one in later] == sorted(path.name for path in packed.glob("train-*.tar"))  # in sequence
    told.clear()
    joined = splits.joined_splits(plan.train, opened(packed).splits["val"])
    read_ahead(joined.images, np.array([0, len(plan.train) + 2]))
    assert [one.shard[:3] for one in told] == ["tra", "val"]


def test_stretches_are_read_in_sequence_by_the_system_if_memory_has_room_for_them(packed, monkeypatch):
    advised = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: advised.append(call[1:3]), raising=False)
    monkeypatch.setattr(store, "_in_background", lambda do: do())
    images = opened(packed).splits["train"].images
    images.prefetch([range(1, 4), range(0)])
    wanted = images._ranges(np.array([1, 3]))
    assert advised == [(wanted[0].start, wanted[1].start + wanted[1].length - wanted[0].start)]
    advised.clear()
    monkeypatch.setattr(store, "memory_bytes", lambda: 10**6)
    images.prefetch([range(1, 4)])
    assert advised == []


def test_stretches_of_some_images_are_those_around_them(packed):
    asked = []

    class Images:
        def __len__(self):
            return 100

        def __getitem__(self, index):
            return b""

        def read_ahead(self, indices):
            pass

        def prefetch(self, stretches):
            asked.extend(stretches)

    images = Images()
    prefetch(Picked(images, np.array([0, 1, 3, 4, 50, 99])), [range(1, 4), range(3, 6), range(0)])
    assert asked == [range(1, 5)]  # of the others few are wanted of what lies between
    asked.clear()
    prefetch(Chained(images, images), [range(90, 110), range(20, 30), range(150, 160)])
    assert asked == [range(90, 100), range(20, 30), range(0, 10), range(50, 60)]


def test_what_goes_to_other_processes_is_small_and_opens_the_files_itself(packed):
    part = opened(packed).splits["val"]
    images = pickle.dumps(part.images)
    assert len(images) < 2000 and contents(Split(pickle.loads(images), part.labels, part.names)) == contents(part)


# Sets too large to look at: the same code with a smaller limit. (tests/benchmarks has 300 million images.)


@pytest.fixture
def large(monkeypatch):
    for module in (lazy, splits, shards):
        monkeypatch.setattr(module, "LARGE", 20)


@pytest.mark.parametrize("val_share", [0.0, 0.1, 0.25])
def test_large_sets_are_divided_by_place_and_lose_nothing(packed, large, val_share):
    source = opened(packed)
    assert isinstance(source.splits["train"].labels, LazyLabels) and not isinstance(
        source.splits["val"].labels, LazyLabels
    )
    plan = plan_splits(source, val_share)
    parts = [contents(part) for part in (plan.train, plan.val) if part is not None]
    assert sum(map(len, parts)) == 40 and {k: v for part in parts for k, v in part.items()} == contents(
        toy().splits["train"]
    )
    assert plan.train.counts(3).sum() == len(plan.train) and contents(plan.test) == contents(toy().splits["val"])
    if plan.val is not None:
        assert len(plan.val) == 40 // round(1 / val_share)


def test_large_sets_without_test_images_give_a_bounded_number_of_their_own(tmp_path, large, monkeypatch):
    monkeypatch.setattr(splits, "MAX_TEST", 2)
    pack(toy(train=40), tmp_path / "out", Options())
    plan = plan_splits(opened(tmp_path / "out"), 0.0)
    assert len(plan.test) == 2 and len(plan.train) == 38 and plan.test_name == "2 images of toy"
    assert {**contents(plan.train), **contents(plan.test)} == contents(toy(train=40).splits["train"])


def test_large_sets_train_as_small_ones_do(packed, large):
    plan = plan_splits(opened(packed), 0.1)
    found = first_batches(plan.train, 4, BadImages())
    assert len({int(key) for batch in found for key in batch.keys}) == 40
    indices = WindowedOrder(3, 36).at(0, 40).indices
    assert np.array_equal(torch.cat([batch.labels for batch in found]).numpy(), plan.train.labels[indices])
    assert plan.val is not None and len(list(EvalData(plan.val, PREPROCESSING).batches())) == 1


def test_what_large_sets_cannot_do_is_refused(packed, large):
    source = opened(packed)
    with pytest.raises(ValueError, match="train_images chooses by name, and 40 images are too many for that"):
        plan_splits(source, 0.1, train_images=10)
    three = Source("three", CLASSES, {**source.splits, "test": source.splits["val"]})
    with pytest.raises(
        ValueError, match=r"train \(40 images\) and val \(9\) are too many to join; pack them as one split"
    ):
        plan_splits(three, 0.1, train_on_val=True)
    with pytest.raises(ValueError, match="40 images are too many to be drawn equally often by class"):
        train_data(
            source.splits["train"], Augment(), PREPROCESSING, seed=0, device=CPU, workers=0, is_balanced=True
        )  # fmt: skip


def test_several_labels_of_many_classes_stay_on_disk_and_are_read_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "DENSE_BYTES", 50)
    labels = np.random.default_rng(0).random((30, 6)) < 0.3
    part = Split([image(i) for i in range(30)], labels, [f"{i}.png" for i in range(30)])
    source = Source("many", tuple("abcdef"), {"train": part})
    pack(source, tmp_path / "out", Options())
    found = opened(tmp_path / "out")
    assert isinstance(found.splits["train"].labels, LazyLabels) and found.is_multilabel
    assert contents(found.splits["train"]) == contents(part)
    ours, theirs = plan_splits(found, 0.2), plan_splits(source, 0.2)
    for name in ("train", "val", "test"):
        assert contents(getattr(ours, name)) == contents(getattr(theirs, name))
        assert np.array_equal(getattr(ours, name).counts(6), getattr(theirs, name).counts(6))
    again = splits.joined_splits(found.splits["train"], found.splits["train"].pick(np.arange(3)))
    assert np.array_equal(again.labels[30:], found.splits["train"].labels[:3])
    batch = first_batches(ours.train, 1, BadImages())[0]
    assert batch.labels.shape == (10, 6) and batch.labels.dtype == torch.bool


def test_an_index_of_nothing_opens_and_what_is_none_does_not(tmp_path):
    write(tmp_path / NAME, {name: (0, []) for name in COLUMNS}, {"splits": {}})
    index = open_index(tmp_path / NAME)
    assert len(index) == index.num_shards == 0 and all(len(column) == 0 for column in index.columns.values())
    with pytest.raises(NoIndex):
        open_index(tmp_path / "nowhere")


def test_shards_of_others_have_no_checksums_and_are_read_all_the_same(tmp_path):
    write_tar(tmp_path / "a.tar", samples(range(4), cls=lambda number: str(number % 2)))
    part = opened(tmp_path).splits["train"]
    assert "checksums" not in part.images.index.columns and part.images[2] == image(2)
