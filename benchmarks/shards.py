"""Shards: how fast packing and reading are, what memory they hold, and what an order of very many samples costs.

    python benchmarks/shards.py [--parts pack read memory order] [--quick] [--results FILE]

pack    The data sets of `SOURCES` written as shards, bytes unchanged and (photographs) resized to a shorter side of 96:
        images and bytes per second, and how much larger the tar files are than the images in them.
read    Files as large as ImageNet's photographs, read when the operating system has forgotten them: a file after the
        other in random order, and from shards in the order of training. No decoding.
memory  `WorkerData` over many small images in shards, two passes: memory early and late. Proportional set size of the
        process and its workers, which counts shared pages once.
order   Opening the index of 300 million and 3 billion images (a sparse file), dividing it, and taking batches of 4,096:
        seconds and peak memory of Python's objects, and the pages of the index that were read.

How `shards:` compares with torchvision's ImageFolder, timm and webdataset with decoding is in `data.py`, whose settings
"ours (shards)" and "webdataset" read the same tar files.
"""

import argparse
import math
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from memory import memory_bytes
from mixonomy.bench.image_files import synthetic
from mixonomy.data import BadImages, Source, Split, default_workers, open_source, plan_splits
from mixonomy.data.loading import VisitSampler, WorkerData, order_of
from mixonomy.data.shards.images import ShardImages
from mixonomy.data.shards.index import COLUMNS, NAME, header, open_index
from mixonomy.data.shards.pack import Options, pack
from mixonomy.data.shards.store import LocalStore
from mixonomy.data.sources.base import read_ahead
from mixonomy.data.sources.lazy import LazyLabels, Stretch
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment
from rows import RESULTS, Row, append, make_row, middle, origin

PARTS = ("pack", "read", "memory", "order")
SOURCES = ("imagenette", "cifar10")
SHORT_SIDE = 96
BATCH = 256
FILE_BYTES = 110_000  # about the mean of ImageNet's training images

Found = dict[str, tuple[float, float | None, str, int]]
"""metric -> (value, spread, unit, n)."""


def packing(source: Source, folder: Path, options: Options, rounds: int) -> Found:
    """Speed of packing a data set, whose files are in memory, to `folder`."""
    seconds, num_images, num_bytes, image_bytes = [], 0, 0, 0
    for number in range(rounds):
        start = time.perf_counter()
        packed = pack(source, folder / str(number), options, workers=default_workers())
        seconds.append(time.perf_counter() - start)
        num_images, num_bytes = len(packed), packed.num_bytes
        image_bytes = int(open_index(folder / str(number) / NAME).columns["lengths"].sum(dtype=np.int64))
    rate, spread = middle([num_images / each for each in seconds])
    return {
        "images_per_s": (rate, spread, "images/s", rounds),
        "bytes_per_s": (num_bytes / median(seconds), None, "bytes/s", rounds),
        "overhead": (num_bytes / image_bytes - 1, None, "share", 1),
        "shards_bytes": (num_bytes, None, "B", 1),
    }


def reading(folder: Path, count: int, rounds: int) -> dict[str, Found]:
    """Bytes read from a cold disk, from files and from shards, in turns."""
    few, random = synthetic(8), np.random.default_rng(0)
    names = [f"{index:06d}.jpg" for index in range(count)]
    files = folder / "files"
    for index, name in enumerate(names):
        path = files / "ab"[index % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = bytes(few.images[index % len(few)])  # behind whose end mark anything may follow
        path.write_bytes(image + random.bytes(FILE_BYTES - len(image)))
    pack(open_source(str(files)), folder / "shards", Options())
    of_files = open_source(str(files)).splits["train"]
    of_shards = open_source(f"shards:{folder / 'shards'}").splits["train"]
    found: dict[str, list[float]] = {"files, random order": [], "shards": []}
    num_bytes = sum(path.stat().st_size for path in files.rglob("*.jpg"))
    for _ in range(rounds):
        for name, split in zip(found, (of_files, of_shards), strict=True):
            forget(folder)
            start = time.perf_counter()
            total = 0
            sampler = VisitSampler(split.images, order_of(split, 0), 0, BATCH, 1, 1, slice(BATCH))
            for number, (_, visits, soon) in zip(range(math.ceil(count / BATCH)), sampler, strict=False):
                read_ahead(split.images, soon)
                wanted = visits.indices[: count - number * BATCH].tolist()
                total += sum(len(split.images[index]) for index in wanted)
            found[name].append(time.perf_counter() - start)
            assert total == num_bytes, "each file once"
    return {
        name: {
            "images_per_s": (*middle([count / each for each in seconds]), "images/s", rounds),
            "bytes_per_s": (*middle([num_bytes / each for each in seconds]), "bytes/s", rounds),
        }
        for name, seconds in found.items()
    }


def forget(folder: Path) -> None:
    """Lets the operating system drop what it keeps of files that are on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def held(folder: Path, count: int, passes: int, root: str | None) -> Found:
    """Memory while training reads small images from shards."""
    train = open_source("cifar10", root).splits["train"]
    indices = np.arange(count, dtype=np.int64) % len(train)
    names = [f"{place}.png" for place in range(count)]
    part = Split(train.pick(indices).images, train.labels[indices], names)
    source = Source("small", tuple("0123456789"), {"train": part})
    pack(source, folder / "held", Options(shard_bytes=8_000_000), workers=default_workers())
    split = open_source(f"shards:{folder / 'held'}").splits["train"]
    data = WorkerData(split, Augment(), Preprocessing((32, 32)), order_of(split, 0), 2, BadImages())
    readings, steps = [], passes * count // BATCH
    for step, _ in zip(range(steps), data.batches(0, BATCH), strict=False):
        if step % max(steps // 40, 1) == 0:
            readings.append(memory_bytes(os.getpid()))
    tenth = max(len(readings) // 10, 1)
    early, late = median(readings[tenth : 3 * tenth]), median(readings[-2 * tenth :])
    print("MB:", *(f"{reading / 1e6:.0f}" for reading in readings), file=sys.stderr)
    return {
        "early_bytes": (early, None, "B", len(readings)),
        "late_bytes": (late, None, "B", len(readings)),
        "peak_bytes": (max(readings), None, "B", len(readings)),
        "growth": (late / early - 1, None, "share", len(readings)),
    }


def sparse(path: Path, num_images: int, per_shard: int) -> Path:
    """The index of so many images in a file of holes, which takes next to no room: places, lengths and labels are 0."""
    num_shards = num_images // per_shard
    lengths = dict.fromkeys(("blocks", "lengths", "checksums", "labels", "name_ends"), num_images)
    lengths |= dict.fromkeys(("shard_ends", "shard_bytes", "shard_name_ends"), num_shards)
    lengths |= {"names": 12 * num_images, "shard_names": 16 * num_shards}
    about = {"class_names": ["a", "b"], "is_multilabel": False, "splits": {"train": [0, num_shards]}}
    text, size = header(lengths, about)
    assert next(iter(COLUMNS)) == "shard_ends", "the first column comes right behind the header"
    with open(path, "wb") as file:
        file.write(text)
        file.write((np.arange(1, num_shards + 1, dtype=np.int64) * per_shard).data)
        file.truncate(len(text) + size)
    return path


def at_scale(folder: Path, num_images: int) -> Found:
    """Cost of the index and of the order of very many images."""
    path = sparse(folder / f"{num_images}.safetensors", num_images, per_shard=10_000)
    size = path.stat().st_size

    def set_up() -> tuple[ShardImages, Any]:
        index = open_index(path)
        images = ShardImages(index, LocalStore(str(folder)), index.images("train"))
        labels: Any = LazyLabels(index.columns["labels"], None, 2, Stretch(0, len(images)))
        few = Split([b""] * 2, np.array([0, 1]), ["a", "b"])
        train = Split(images, labels, index.names(index.images("train")))
        source = Source("many", ("a", "b"), {"train": train, "test": few})
        plan = plan_splits(source, 0.001)
        return images, (plan.train, order_of(plan.train, 0))

    def batches(train: Split, order: Any, first: int, count: int) -> Iterator[int]:
        for number in range(count):
            visits = order.at((first + number) * 4096, 4096)
            picked: Any = train.images
            yield len(picked.images._ranges(picked.indices[visits.indices])) + len(train.labels[visits.indices])

    set_ups = [seconds_of(set_up) for _ in range(5)]
    images, (train, order) = set_up()
    middle_of_all = 7 * num_images // 4096 // 2
    per_batch = [seconds_of(lambda n=n: list(batches(train, order, middle_of_all + 10 * n, 10))) / 10 for n in range(5)]
    only_order = [seconds_of(lambda n=n: order.at((middle_of_all + n) * 4096, 4096)) for n in range(20)]
    tracemalloc.start()
    _, (train, order) = set_up()
    list(batches(train, order, middle_of_all, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(images) == num_images
    path.unlink()
    return {
        "set_up_s": (*middle(set_ups), "s", 5),
        "batch_s": (*middle(per_batch), "s", 50),
        "order_s": (*middle(only_order), "s", 20),
        "peak_bytes": (peak, None, "B", 1),
        "index_bytes": (size, None, "B", 1),
        "index_bytes_per_image": (size / num_images, None, "B", 1),
    }


def seconds_of(do: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photographs", type=int, default=4096, help="of the part read")
    parser.add_argument("--images", type=int, default=200_000, help="of the part memory")
    parser.add_argument("--quick", action="store_true", help="few images, one round, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "shards.jsonl")
    options = parser.parse_args()
    where = origin()
    rounds = 1 if options.quick else options.rounds
    photographs, small = (64, 2048) if options.quick else (options.photographs, options.images)

    def keep(model: str, data: str, found: Found) -> None:
        rows: list[Row] = []
        for metric, (value, spread, unit, n) in found.items():
            about: dict[str, Any] = {"study": "shards", "model": model, "data": data, "metric": metric}
            rows.append(make_row(where, **about, value=value, spread=spread, unit=unit, n=n))
            print(f"{model:44}{data:44}{metric:22}{value:>16,.6g} {unit}")
        append(options.results, rows)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "pack" in options.parts:
            for name in SOURCES:
                whole = open_source(name, options.data_root)
                part = whole.splits["train"].pick(np.arange(256 if options.quick else len(whole.splits["train"])))
                source = Source(name, whole.class_names, {"train": part})
                keep("pack, bytes unchanged", name, packing(source, folder / name, Options(), rounds))
                if name == "imagenette":
                    resizing = Options(short_side=SHORT_SIDE)
                    found = packing(source, folder / f"{name}-resized", resizing, rounds)
                    keep(f"pack, resized to {SHORT_SIDE} pixels", name, found)
        if "read" in options.parts:
            for name, found in reading(folder, photographs, rounds).items():
                keep(f"read, cold: {name}", f"{photographs:,} files of {FILE_BYTES // 1000} kB", found)
        if "memory" in options.parts:
            data = f"{small:,} images of 32 x 32 pixels"
            keep("two passes, 2 workers", data, held(folder, small, 2, options.data_root))
        if "order" in options.parts:
            for num_images in (300_000_000, 3_000_000_000):
                keep("index and order", f"{num_images:,} images", at_scale(folder, num_images))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
