"""Many image files in a folder: how long indexing and checking them takes, and what memory training on them holds.

    python benchmarks/memory.py index train
    python benchmarks/memory.py check

Training reads CIFAR-100's images, those of the second round mirrored, every other one with a row of pixels cut off: so
they differ in size, and each is decoded when its turn comes. A check reads those, and as many photographs of
500 x 375 pixels: Imagenette's and Flowers-102's, enlarged, with grain, which makes files of the usual size, whole, cut
and mirrored, so that they are no copies of one another.

Memory is what the process and its children have of their own, pages that they share counted once. The code of libraries
is left out: other programs share it, and the kernel drops what has not been used for a while, so how much of it counts
for one process changes with what else runs. Flat means: in its last epoch training holds what it held in the second.
The first ends with the first evaluation, whose decoded images stay.
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from mixonomy.data import open_source, plan_splits
from rows import RESULTS, Row, append, make_row, origin

MODEL = "--model.patch-size 8 --model.hidden-dim 64 --model.num-blocks 2 --model.tokens-mlp-dim 16".split()
OPTIONS = [*MODEL, "--model.channels-mlp-dim", "128", "--image-size", "32", "--batch-size", "256"]
PARTS = ("index", "train", "check")
PHOTOGRAPHS = ("imagenette", "flowers102")
SIZE = (500, 375)  # pixels, the commonest in ImageNet
GRAIN = 14  # standard deviation in grey levels; with it a file has about 90 kB, as ImageNet's
CORNERS = ((0.0, 0.0), (0.25, 0.0), (0.0, 0.25), (0.25, 0.25))  # of boxes of three quarters a side


def write_small(folder: Path, count: int, root: str | None) -> None:
    """Writes class folders with `count` files of 32 x 32 and 32 x 31 pixels in all."""
    source = open_source("cifar100", root)
    split = source.splits["train"]
    names = [f"class {name}" for name in source.class_names]  # one of them is "train"
    for name in names:
        (folder / name).mkdir(parents=True)
    for i in range(count):
        image, is_again = bytes(split.images[i % len(split)]), i // len(split) % 2
        if i % 2 or is_again:
            pixels = Image.open(io.BytesIO(image))
            pixels = ImageOps.mirror(pixels) if is_again else pixels
            file = io.BytesIO()
            pixels.crop((0, 0, 32, 32 - i % 2)).save(file, "JPEG")
            image = file.getvalue()
        (folder / names[split.labels[i % len(split)]] / f"{i:06d}.jpg").write_bytes(image)


def write_photographs(folder: Path, count: int, root: str | None) -> None:
    """Writes class folders with `count` photographs of `SIZE` in all.

    Raises:
      ValueError: if there are too few for so many.
    """
    pool: list[tuple[bytes, str]] = []
    for source in (open_source(name, root) for name in PHOTOGRAPHS):
        for split in source.splits.values():
            pool += [
                (bytes(split.images[i]), f"class {source.class_names[split.labels[i]]}") for i in range(len(split))
            ]
    boxes = [(0.0, 0.0, 1.0, 1.0), *((x, y, x + 0.75, y + 0.75) for x, y in CORNERS)]
    ways = [(box, is_mirrored) for box in boxes for is_mirrored in (False, True)]
    if count > len(ways) * len(pool):
        raise ValueError(f"--files is {count:,}, and there are {len(pool):,} photographs in {len(ways)} ways.")
    for name in {name for _, name in pool}:
        (folder / name).mkdir(parents=True)
    width, height = SIZE
    noise = np.random.default_rng(0).normal(128.0, GRAIN, (2 * height, 2 * width))
    grain = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB")
    for i in range(count):
        (image, name), (box, is_mirrored) = pool[i % len(pool)], ways[i // len(pool)]
        pixels = Image.open(io.BytesIO(image)).convert("RGB")
        (left, top, right, bottom), (wide, high) = box, pixels.size
        edges = (left * wide, top * high, right * wide, bottom * high)
        pixels = pixels.resize(SIZE, Image.Resampling.BICUBIC, box=edges)
        pixels = ImageOps.mirror(pixels) if is_mirrored else pixels
        y, x = i % height, i % width
        pixels = ImageChops.add(pixels, grain.crop((x, y, x + width, y + height)), offset=-128)
        pixels.save(folder / name / f"{i:06d}.jpg", quality=90)


def watched(arguments: list[str], *, at: tuple[str, ...] = ()) -> tuple[str, list[tuple[str, int]]]:
    """Runs mixonomy; what it printed on standard output, and its memory in bytes, each with the line it was read at.

    Args:
      at: beginnings of the lines on standard error at which memory is read; once a second if not given.
    """
    command = [sys.executable, "-m", "mixonomy", *arguments]
    readings: list[tuple[str, int]] = []
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE if at else None, text=True)
        if process.stderr is not None:
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                if line.startswith(at):
                    readings.append((line, memory_bytes(process.pid)))
        else:
            while process.poll() is None:
                readings.append(("", memory_bytes(process.pid)))
                time.sleep(1)
        if process.wait() not in (0, 1):  # a check that found something exits with 1
            raise SystemExit(f"mixonomy {arguments[0]} ended with {process.returncode}")
        printed.seek(0)
        return printed.read(), readings


def memory_bytes(pid: int) -> int:
    """Memory of their own that a process and all below it hold, without mapped files; 0 once it is gone."""
    total = 0
    for each in [pid, *_below(pid)]:
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith(OWN))
    return total


OWN = ("Pss_Anon:", "Pss_Shmem:")  # proportional set sizes: a page that n processes share is 1/n for each


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it is gone
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # this thread is gone
                found += (int(child) for child in (task / "children").read_text().split())
    return [*found, *(below for child in found for below in _below(child))]


def index(images: Path) -> dict[str, tuple[float, str, int]]:
    """CPU seconds to open and divide the folder when the operating system has seen it before."""
    seconds = []
    for _ in range(4):
        start = time.process_time()
        plan_splits(open_source(str(images)), 0.1)
        seconds.append(time.process_time() - start)
    return {"seconds": (median(seconds[1:]), "s", len(seconds) - 1)}


def train(images: Path, folder: Path, epochs: int, workers: int) -> dict[str, tuple[float, str, int]]:
    """Memory in the first epoch, the second and the last, and how much more it is in the last than in the second."""
    options = ["--epochs", str(epochs), "--workers", str(workers), "--out", str(folder / "run"), "--json"]
    _, readings = watched(["train", "--data", str(images), *OPTIONS, *options], at=("step", "epoch"))
    by_epoch: list[list[int]] = [[]]
    for line, reading in readings:
        by_epoch[-1].append(reading)
        if line.startswith("epoch"):  # said after its evaluation
            print("MB:", *(f"{reading / 1e6:.0f}" for reading in by_epoch[-1]))
            by_epoch.append([])
    first, second, last = (by_epoch[epoch] for epoch in (0, 1, epochs - 1))
    early, after, late = median(first[:-1] or first), median(second), median(last)
    return {
        "early_bytes": (early, "B", len(first)),
        "second_bytes": (after, "B", len(second)),
        "late_bytes": (late, "B", len(last)),
        "peak_bytes": (max(reading for _, reading in readings), "B", len(readings)),
        "growth": (late / after - 1, "share", len(readings)),
    }


def check(source: Path) -> dict[str, tuple[float, str, int]]:
    """Time and memory of `mixonomy data check`, and how many images it took for copies of others."""
    printed, readings = watched(["data", "check", str(source), "--json"])
    result = json.loads(printed.splitlines()[-1])
    copies = sum(
        len(case["images"]) - 1
        for finding in result["findings"]
        if finding["kind"] in ("duplicate", "contradiction")
        for case in finding["cases"]
    )
    return {
        "seconds": (result["seconds"], "s", 1),
        "images_per_s": (result["images_per_s"], "images/s", 1),
        "peak_bytes": (max(reading for _, reading in readings), "B", len(readings)),
        "copies": (copies, "images", 1),
    }


def rows_of(model: str, data: str, values: dict[str, tuple[float, str, int]]) -> list[Row]:
    """One row for each value, printed too."""
    about: dict[str, Any] = {"study": "memory", "model": model, "data": data}
    print(f"{model}, {data}:", *(f"{metric} {value:.4g}" for metric, (value, _, _) in values.items()), flush=True)
    return [
        make_row(origin(), metric=metric, value=value, unit=unit, n=n, **about)
        for metric, (value, unit, n) in values.items()
    ]


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"of {', '.join(PARTS)}; all if not given")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=4, help="3 or more")
    parser.add_argument("--workers", type=int, default=2, help="of training; a check uses all cores")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument(
        "--folder", type=Path, help="write the files here and keep them; those of a run before are used"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "memory.jsonl")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")
    if options.epochs < 3:
        parser.error(
            f"--epochs is {options.epochs}; growth is that from the second epoch to the last, so give 3 or more"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        small = _written(write_small, folder / f"small-{options.files}", options)
        if "index" in options.parts:
            append(options.results, rows_of("index and divide, again (CPU time)", _small(options), index(small)))
        if "train" in options.parts:
            values = train(small, Path(temporary), options.epochs, options.workers)
            append(options.results, rows_of(f"train, {options.epochs} epochs", _small(options), values))
        if "check" in options.parts:
            append(options.results, rows_of("data check", _small(options), check(small)))
            photographs = _written(write_photographs, folder / f"photographs-{options.files}", options)
            kilobytes = sum(file.stat().st_size for file in photographs.rglob("*.jpg")) / options.files / 1e3
            about = f"{options.files:,} photographs of {SIZE[0]} x {SIZE[1]} pixels, {kilobytes:.0f} kB each"
            append(options.results, rows_of("data check", about, check(photographs)))
    return 0


def _small(options: argparse.Namespace) -> str:
    return f"{options.files:,} files of 32 x 32 pixels"


def _written(write: Callable[[Path, int, str | None], None], folder: Path, options: argparse.Namespace) -> Path:
    if not folder.exists():
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished, options.files, options.data_root)
        unfinished.rename(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
