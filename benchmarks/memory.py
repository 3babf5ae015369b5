"""Trains on a folder of many image files and watches the memory of the command and its workers.

    python benchmarks/memory.py --files 100000 --data-root ../shared/data

The folder holds CIFAR-100's images again and again, every other one with a row of pixels cut off, so that they differ
in size and each is decoded when its turn comes. Memory is the proportional set size of the process and its children,
which counts shared pages once. Flat means: late in training it holds what it held early, within a few percent.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from mixonomy.data import open_source
from rows import RESULTS, append, make_row, origin

MODEL = "--model.patch-size 8 --model.hidden-dim 64 --model.num-blocks 2 --model.tokens-mlp-dim 16".split()
OPTIONS = [*MODEL, "--model.channels-mlp-dim", "128", "--image-size", "32", "--epochs", "2", "--batch-size", "256"]


def write(folder: Path, count: int, root: str | None) -> None:
    """Writes class folders with `count` files in all."""
    source = open_source("cifar100", root)
    split = source.splits["train"]
    names = [f"class {name}" for name in source.class_names]  # one of them is "train"
    for name in names:
        (folder / name).mkdir(parents=True)
    for i in range(count):
        image = bytes(split.images[i % len(split)])
        if i % 2:
            cut, file = Image.open(io.BytesIO(image)).crop((0, 0, 32, 31)), io.BytesIO()
            cut.save(file, "JPEG")
            image = file.getvalue()
        (folder / names[split.labels[i % len(split)]] / f"{i:06d}.jpg").write_bytes(image)


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


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--results", type=Path, default=RESULTS / "memory.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "images", options.files, options.data_root)
        command = [sys.executable, "-m", "mixonomy", "train", "--data", str(folder / "images"), *OPTIONS]
        command += ["--workers", str(options.workers), "--out", str(folder / "run")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        readings: list[int] = []
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if line.startswith("step"):
                readings.append(memory_bytes(process.pid))
        if process.wait():
            return 1
    tenth = max(len(readings) // 10, 1)
    early, late = median(readings[tenth : 3 * tenth]), median(readings[-2 * tenth :])
    about: dict[str, Any] = {
        "study": "memory",
        "model": "train, 2 epochs",
        "data": f"{options.files:,} files",
        "n": len(readings),
    }
    values = {"early_bytes": (early, "B"), "late_bytes": (late, "B"), "growth": (late / early - 1, "share")}
    append(
        options.results,
        [
            make_row(origin(), metric=metric, value=value, unit=unit, **about)
            for metric, (value, unit) in values.items()
        ],
    )
    print(*(f"{metric} {value}" for metric, (value, _) in values.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
