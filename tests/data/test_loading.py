"""Batches: the same samples in the same order, whatever the path, the number of workers and the start.

Axes: B images, c image channels, H and W pixels.
"""

import gc
import io
import os
import signal
import subprocess
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mixonomy import parallel
from mixonomy.data import BadImages, Batch, EvalData, Split, default_workers, loading, train_data
from mixonomy.data.decode import decode
from mixonomy.data.loading import InMemoryData, WorkerData
from mixonomy.data.stream import Order
from mixonomy.data.transforms import evaluation_crop
from mixonomy.data.workers import worker_options
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

PREPROCESSING = Preprocessing((8, 8), resize=1.0)
CPU = torch.device("cpu")


def png_split(count: int = 23, sizes=((8, 8),)) -> Split:
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        buffer = io.BytesIO()
        height, width = sizes[i % len(sizes)]
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return Split(files, np.arange(count) % 5, [f"{i}.png" for i in range(count)])


def first(data: loading.TrainData, count: int, position: int = 0, batch_size: int = 6) -> list[Batch]:
    return list(islice(data.batches(position, batch_size), count))


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and np.array_equal(x.keys, y.keys)


def open_(augment: Augment, split: Split | None = None, workers: int = 0, seed: int = 7) -> loading.TrainData:
    split = png_split() if split is None else split
    return train_data(split, augment, PREPROCESSING, seed=seed, device=CPU, workers=workers)


def test_both_paths_visit_the_same_samples_with_the_same_keys():
    split = png_split()
    in_memory = open_(Augment(), split)
    by_workers = WorkerData(split, Augment(), PREPROCESSING, Order(7, 23), 0, BadImages())
    assert isinstance(in_memory, InMemoryData)
    assert_equal(first(in_memory, 9), first(by_workers, 9))  # without augmentation the pixels are equal too


@pytest.mark.parametrize("path", ["in memory", "workers"])
def test_batches_follow_the_stream_through_epochs(path):
    split = png_split()
    data = (
        open_(Augment(), split)
        if path == "in memory"
        else WorkerData(split, Augment(), PREPROCESSING, Order(7, 23), 0, BadImages())
    )
    batches = first(data, 9)
    indices = Order(7, 23).at(0, 54).indices
    assert torch.cat([batch.labels for batch in batches]).tolist() == split.labels[indices].tolist()
    pixels = torch.stack([decode(split.images[i]) for i in indices])
    assert torch.equal(torch.cat([batch.images for batch in batches]), pixels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_number_of_workers_changes_no_bit():
    augment = Augment(crop="inception", flip=True, randaugment_layers=1, erase_prob=0.3)
    alone = first(open_(augment, workers=0), 8)
    for workers in (1, 2):
        assert_equal(first(open_(augment, workers=workers), 8), alone)


@pytest.mark.parametrize(
    "augment",
    [Augment(crop="pad", flip=True, erase_prob=0.5), Augment(randaugment_layers=1, flip=True)],
    ids=["in memory", "decoded by workers"],
)
def test_starting_at_a_position_equals_skipping_to_it(augment, request):
    data = open_(augment)
    assert data.kind in request.node.name
    assert_equal(first(data, 5, position=24), first(data, 9)[4:])


@pytest.mark.parametrize("augment", [Augment(flip=True, crop="pad"), Augment(randaugment_layers=1)])
def test_batch_size_changes_no_sample(augment):
    data = open_(augment)
    small, large = first(data, 12, batch_size=5), first(data, 3, batch_size=20)
    assert torch.equal(torch.cat([b.images for b in small]), torch.cat([b.images for b in large]))


@pytest.mark.parametrize("augment", [Augment(), Augment(randaugment_layers=1)], ids=["in memory", "workers"])
def test_the_order_is_computed_for_the_part_of_a_rank_alone(augment, monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    asked, at = [], Order.at
    monkeypatch.setattr(Order, "at", lambda self, *places: asked.append(places) or at(self, *places))
    assert [len(batch.keys) for batch in first(open_(augment), 2, batch_size=8)] == [3, 3]
    assert asked[:2] == [(2, 3), (10, 3)] and {count for _, count in asked} == {3}


def test_another_seed_gives_another_order():
    assert not torch.equal(first(open_(Augment(), seed=7), 1)[0].images, first(open_(Augment(), seed=8), 1)[0].images)


@pytest.mark.parametrize(
    ("augment", "sizes", "kind"),
    [
        (Augment(), ((8, 8),), "in memory"),
        (Augment(crop="pad", flip=True), ((8, 8), (10, 12)), "in memory"),
        (Augment(crop="inception"), ((12, 10),), "in memory"),
        (Augment(crop="inception"), ((8, 8), (10, 12)), "decoded by workers"),
        (Augment(crop="resmall"), ((12, 16), (24, 32)), "in memory"),
        (Augment(crop="resmall"), ((8, 8), (10, 12)), "decoded by workers"),
        (Augment(randaugment_layers=2), ((8, 8),), "decoded by workers"),
    ],
)
def test_path_is_in_memory_where_sizes_and_augmentation_allow_it(augment, sizes, kind):
    assert open_(augment, png_split(sizes=sizes)).kind == kind


def test_images_that_do_not_fit_into_memory_are_decoded_by_workers(monkeypatch):
    monkeypatch.setattr(loading, "MEMORY_BYTES", 23 * 3 * 8 * 8 - 1)
    assert open_(Augment()).kind == "decoded by workers"
    monkeypatch.setattr(loading, "MEMORY_BYTES", 23 * 3 * 8 * 8)
    assert open_(Augment()).kind == "in memory"


@pytest.mark.parametrize("count", [1, 249, 250, 251, 700])
@pytest.mark.parametrize("fits", [True, False], ids=["in memory", "by workers"])
def test_evaluation_sees_every_image_once_in_order(monkeypatch, count, fits):
    if not fits:
        monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    split = Split(images, np.arange(count), [str(i) for i in range(count)])
    data = EvalData(split, PREPROCESSING)
    for _ in range(2):  # the second pass may come from memory
        batches = list(data.batches())
        assert torch.equal(torch.cat([labels for _, labels, _ in batches]), torch.arange(count))
        seen = torch.cat([images for images, *_ in batches])
        assert torch.equal(seen, torch.from_numpy(images).permute(0, 3, 1, 2))
        assert len(batches[-1][1]) == (count % 250 or 250)


def test_evaluation_crops_images_of_any_size():
    split = png_split(sizes=((8, 8), (20, 30), (5, 3)))
    ((images, *_),) = EvalData(split, PREPROCESSING).batches()
    expected = [evaluation_crop(decode(split.images[i]), PREPROCESSING) for i in range(len(split))]
    assert torch.equal(images, torch.stack(expected))


@pytest.mark.parametrize("augment", [Augment(), Augment(randaugment_layers=1)], ids=["in memory", "by workers"])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_unreadable_image_is_named(augment, workers):
    split = png_split(12)
    split.images[5] = b"not an image"
    with pytest.raises(ValueError, match=r"image '5.png': .*remove or replace it, or leave out"):
        first(open_(augment, split, workers), 2)
    with pytest.raises(ValueError, match=r"image '5.png': .*remove or replace it, or leave out"):
        list(EvalData(split, PREPROCESSING, workers=workers).batches())


@pytest.mark.parametrize("augment", [Augment(), Augment(crop="inception")], ids=["pad", "inception"])
def test_error_where_nothing_can_be_read_names_an_image(augment):
    split = Split([b"x"] * 6, np.zeros(6, np.int64), [f"{i}.png" for i in range(6)])
    bad = BadImages("skip")
    with pytest.raises(ValueError, match="none of the 6 images tried, such as '0.png', can be read"):
        list(EvalData(split, PREPROCESSING, bad=bad).batches())
    with pytest.raises(ValueError, match="none of the 6 images tried, such as '0.png', can be read"):
        first(train_data(split, augment, PREPROCESSING, seed=0, device=CPU, workers=0, bad=bad), 3, batch_size=4)


def test_images_in_memory_are_decoded_when_a_batch_first_needs_them():
    split, decoded = png_split(12), []

    class Noted(list):
        def __getitem__(self, index):
            decoded.append(index)
            return super().__getitem__(index)

    split = Split(Noted(split.images), split.labels, split.names)
    batches = open_(Augment(crop="pad", flip=True), split).batches(0, 4)
    seen = []
    for count in (4, 8, 12, 12, 12):
        seen.append(next(batches))
        assert len(decoded) == len(set(decoded)) == count
    again = open_(Augment(crop="pad", flip=True), png_split(12)).batches(12, 4)
    assert_equal(seen[3:], [next(again), next(again)])


def test_image_that_cannot_be_read_is_left_out_of_its_batches_and_noted_once():
    split, bad = png_split(6), BadImages("skip")
    split.images[5] = b"not an image"
    for augment in (Augment(crop="pad", flip=True), Augment(crop="inception")):
        data = train_data(split, augment, PREPROCESSING, seed=0, device=CPU, workers=0, bad=bad)
        assert isinstance(data, loading.InMemoryData)
        assert [len(batch.images) for batch in first(data, 3)] == [5, 5, 5]
    assert list(bad.errors) == ["5.png"]


def test_grey_images_stay_grey():
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
    split = Split(images, np.arange(10), [str(i) for i in range(10)])
    grey = Preprocessing((8, 8), channels=1, resize=1.0, mean=(0.5,), std=(0.5,))
    for augment in (Augment(crop="pad", flip=True, erase_prob=0.5), Augment(crop="inception", randaugment_layers=1)):
        data = train_data(split, augment, grey, seed=0, device=CPU, workers=0)
        assert next(data.batches(0, 4)).images.shape == (4, 1, 8, 8)


def test_default_number_of_workers_is_that_of_the_cores_at_most_eight():
    assert 1 <= default_workers() <= 8


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_evaluation_by_workers_needs_few_open_files(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    images = np.zeros((1000, 8, 8, 3), dtype=np.uint8)
    data = EvalData(Split(images, np.zeros(1000, dtype=np.int64), [str(i) for i in range(1000)]), PREPROCESSING)
    data.workers = 2
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        seen = torch.cat([indices for *_, indices in data.batches()])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert torch.equal(seen, torch.arange(1000))


@dataclass(frozen=True)
class Deadly:
    """Images of which reading one ends the process, as the system does when memory is full."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> np.ndarray:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((8, 8, 3), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_worker_that_is_killed_is_one_sentence(monkeypatch, kind):
    monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    split = Split(Deadly(20), np.zeros(20, dtype=np.int64), [str(i) for i in range(20)])
    with pytest.raises(ValueError, match="a process that decodes images was ended from outside.*give fewer --workers"):
        if kind == "training":
            first(open_(Augment(), split, workers=1), 9)
        else:
            list(EvalData(split, PREPROCESSING, workers=1).batches())


@dataclass(frozen=True)
class Asked(Deadly):
    """Images of which reading the sixth brings the process a SIGTERM from a scheduler."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        if index == 5:
            subprocess.run(["kill", "-TERM", str(os.getpid())], check=True)
        return np.zeros((8, 8, 3), dtype=np.uint8)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="nothing tells who sends a signal")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_worker_stays_when_a_scheduler_asks_all_processes_to_end(monkeypatch):
    monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    split = Split(Asked(20), np.zeros(20, dtype=np.int64), [str(i) for i in range(20)])
    assert sum(len(images) for images, *_ in EvalData(split, PREPROCESSING, workers=1).batches()) == 20


@dataclass(frozen=True)
class Collecting:
    """A data set of one item: by how many bytes a full garbage collection adds to the process's memory of its own."""

    def __getitem__(self, index: int) -> int:
        before = own_bytes()
        gc.collect()
        return own_bytes() - before


def own_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_garbage_collection_in_a_worker_copies_nothing_of_its_parent():
    loader = DataLoader(Collecting(), batch_size=None, sampler=[0], collate_fn=None, **worker_options(1))
    assert next(iter(loader)) < 16 * 2**20  # what these tests import is several times that


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_parent_of_workers_collects_no_garbage_among_what_they_share(monkeypatch):
    monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    split = png_split()
    assert gc.get_freeze_count() == 0
    with closing(open_(Augment(), split, workers=1).batches(0, 6)) as batches:
        next(batches)
        frozen = gc.get_freeze_count()
        list(EvalData(split, PREPROCESSING, workers=1).batches())  # another loader, which ends before
        assert gc.get_freeze_count() == frozen > 0
    assert gc.get_freeze_count() == 0
