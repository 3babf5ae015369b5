"""Many image files in a folder: how long indexing and checking them takes, and what memory training on them holds.

    python benchmarks/memory.py index train --files 100000
    python benchmarks/memory.py check --files 100000

The folder holds CIFAR-100's images, those of the second round mirrored, every other one with a row of pixels cut off:
so they differ in size, and each is decoded when its turn comes. Memory is the proportional set size of the process and
its children, which counts shared pages once. Flat means: late in training it holds what it held early, within a few
percent. `check` also checks Imagenette, as it is: photographs of 128 pixels, where decoding takes the time.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, ImageOps

from mixonomy.data import open_source, plan_splits
from rows import RESULTS, Row, append, make_row, origin

MODEL = "--model.patch-size 8 --model.hidden-dim 64 --model.num-blocks 2 --model.tokens-mlp-dim 16".split()
OPTIONS = [*MODEL, "--model.channels-mlp-dim", "128", "--image-size", "32", "--batch-size", "256"]
PHOTOGRAPHS = "imagenette"
PARTS = ("index", "train", "check")


def write(folder: Path, count: int, root: str | None) -> None:
    """Writes class folders with `count` files in all."""
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


def watched(arguments: list[str], *, at: str = "") -> tuple[str, list[int]]:
    """Runs mixonomy; what it printed on standard output, and its memory in bytes.

    Args:
      at: beginning of the lines on standard error at which memory is read; once a second if not given.
    """
    command = [sys.executable, "-m", "mixonomy", *arguments]
    readings: list[int] = []
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE if at else None, text=True)
        if process.stderr is not None:
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                if line.startswith(at):
                    readings.append(memory_bytes(process.pid))
        else:
            while process.poll() is None:
                readings.append(memory_bytes(process.pid))
                time.sleep(1)
        if process.wait() not in (0, 1):  # a check that found something exits with 1
            raise SystemExit(f"mixonomy {arguments[0]} ended with {process.returncode}")
        printed.seek(0)
        return printed.read(), readings


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it; 0 once it is gone."""
    total = 0
    for each in [pid, *_below(pid)]:
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _below(pid: int) -> list[int]:
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in _below(child))]


def index(images: Path) -> dict[str, tuple[float, str, int]]:
    """CPU seconds to open and divide the folder when the operating system has seen it before."""
    seconds = []
    for _ in range(4):
        start = time.process_time()
        plan_splits(open_source(str(images)), 0.1)
        seconds.append(time.process_time() - start)
    return {"seconds": (median(seconds[1:]), "s", len(seconds) - 1)}


def train(images: Path, folder: Path, epochs: int, workers: int) -> dict[str, tuple[float, str, int]]:
    """Memory early and late in training, and how much more it is late; evaluation and report are left out."""
    options = ["--epochs", str(epochs), "--workers", str(workers), "--out", str(folder / "run"), "--json"]
    printed, readings = watched(["train", "--data", str(images), *OPTIONS, *options], at="step")
    tenth = max(len(readings) // 10, 1)
    print("MB:", *(f"{reading / 1e6:.0f}" for reading in readings))
    early, late = median(readings[tenth : 3 * tenth]), median(readings[-2 * tenth :])
    n = len(readings)
    return {
        "seconds": (json.loads(printed.splitlines()[-1])["seconds"], "s", 1),
        "early_bytes": (early, "B", n),
        "late_bytes": (late, "B", n),
        "peak_bytes": (max(readings), "B", n),
        "growth": (late / early - 1, "share", n),
    }


def check(source: str, root: str | None) -> dict[str, tuple[float, str, int]]:
    """Time and memory of `mixonomy data check`."""
    printed, readings = watched(["data", "check", source, "--json", *(["--data-root", root] if root else [])])
    result = json.loads(printed.splitlines()[-1])
    return {
        "seconds": (result["seconds"], "s", 1),
        "images_per_s": (result["images_per_s"], "images/s", 1),
        "peak_bytes": (max(readings), "B", len(readings)),
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
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of training; a check uses all cores")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--results", type=Path, default=RESULTS / "memory.jsonl")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = folder / "images"
        write(images, options.files, options.data_root)
        files = f"{options.files:,} files of 32 x 32 pixels"
        if "index" in options.parts:
            append(options.results, rows_of("index and divide, again (CPU time)", files, index(images)))
        if "train" in options.parts:
            append(
                options.results,
                rows_of(
                    f"train, {options.epochs} epochs", files, train(images, folder, options.epochs, options.workers)
                ),
            )
        if "check" in options.parts:
            append(options.results, rows_of("data check", files, check(str(images), None)))
            count = len(open_source(PHOTOGRAPHS, options.data_root))
            photographs = f"{count:,} photographs of {PHOTOGRAPHS}"
            append(options.results, rows_of("data check", photographs, check(PHOTOGRAPHS, options.data_root)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
