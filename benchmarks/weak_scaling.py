"""Weak scaling from one process on one core to two processes on two cores: images per second, memory of each.

    python benchmarks/weak_scaling.py [--cases NAME ...] [--rounds N] [--quick] [--results FILE]

The same number of images for each process, one thread each, by `mixonomy train` on photographs of its own making:

1 process    on one core.
2 alone      two such runs at the same time, each on a core of its own, that know nothing of each other: what sharing
             the memory and the rest of the machine costs.
2 ranks      one run of two processes, each on a core of its own (DDP, gradients summed by gloo): what training
             together costs besides.

Images per second are those between the first and the last row of metrics.jsonl, so without the start. Memory is the
most that a process had of its own.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from faults.place import photographs
from memory import memory_bytes
from mixonomy.runs import read_metrics
from rows import RESULTS, append, make_row, middle, origin

SMALL = (
    *("--model.name", "mixer", "--model.patch-size", "4", "--model.hidden-dim", "256", "--model.num-blocks", "8"),
    *("--model.tokens-mlp-dim", "128", "--model.channels-mlp-dim", "1024", "--image-size", "32"),
)
CASES = {  # images of each process, steps, and the model
    "mixer-s/16 at 224 pixels": (8, 20, ("--model", "mixer-s/16", "--image-size", "224")),
    "mixer of 8 blocks of 256 channels at 32 pixels": (64, 40, SMALL),
}
SETTINGS = ("1 process", "2 alone", "2 ranks")


def started(words: list[str], core: int, rank: int, size: int, port: int) -> subprocess.Popen[bytes]:
    """A process of a training, on one core, as torchrun starts it where there are several."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    ranks = {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}} if size > 1 else {}
    return subprocess.Popen(
        [sys.executable, "-m", "mixonomy", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **ranks},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def measure(
    setting: str, folder: Path, photos: Path, images: int, steps: int, model: tuple[str, ...]
) -> tuple[float, float]:
    """Images per second of all processes together, and bytes of the largest."""
    processes = 1 if setting == "1 process" else 2
    size = processes if setting == "2 ranks" else 1
    cores = sorted(os.sched_getaffinity(0))[-processes:]
    if len(cores) < processes:
        raise SystemExit("two processes need two cores; this process may use one.")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    outs = [folder / (str(number) if size == 1 else "both") for number in range(processes)]
    length = ("--duration", f"{steps} steps", "--eval-every", f"{steps} steps", "--batch-size", f"{images * size}")
    common = ["--recipe", "folder", "--data", str(photos), *model, "--optim.name", "adamw", "--workers", "0", *length]
    running = [
        started([*common, "--device", "cpu", "--precision", "fp32", "--out", str(out)], core, number, size, port)
        for number, (out, core) in enumerate(zip(outs, cores, strict=True))
    ]
    most = 0
    while any(process.poll() is None for process in running):
        most = max(most, *(memory_bytes(process.pid) for process in running))
        time.sleep(0.5)
    if any(process.returncode for process in running):
        raise SystemExit(f"{setting}: a process ended with {[process.returncode for process in running]}")
    rates = []
    for out in outs[:1] if size > 1 else outs:
        told = [row for row in read_metrics(out / "metrics.jsonl") if "images_per_s" in row]
        rates.append((told[-1]["seen"] - told[0]["seen"]) / (told[-1]["seconds"] - told[0]["seconds"]))
    return sum(rates), most


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the small model with few images, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "weak_scaling.jsonl")
    options = parser.parse_args()
    where = origin()
    cases = {"tiny": (4, 20, SMALL)} if options.quick else {name: CASES[name] for name in options.cases}
    with tempfile.TemporaryDirectory() as temporary:
        photographs(Path(temporary, "photos"))
        for name, (images, steps, model) in cases.items():
            found: dict[str, list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
            for number in range(options.rounds):
                for setting in SETTINGS:
                    folder = Path(temporary, f"{len(name)}-{number}-{setting.replace(' ', '-')}")
                    folder.mkdir()
                    each = measure(setting, folder, Path(temporary, "photos"), images, steps, model)
                    found[setting].append(each)
                    print(f"{name:50}{setting:12}{each[0]:10.1f} images/s{each[1] / 1e6:10.0f} MB", flush=True)
            for setting, measured in found.items():
                rate, spread = middle([rate for rate, _ in measured])
                one = median(rate for rate, _ in found["1 process"])
                about = {"study": "weak", "model": f"{name}, {images} images each", "data": setting, "n": len(measured)}
                append(
                    options.results,
                    [
                        make_row(where, **about, metric="images_per_s", value=rate, spread=spread, unit="images/s"),
                        make_row(where, **about, metric="ratio", value=rate / one, unit="ratio"),
                        make_row(where, **about, metric="rank_bytes", value=max(b for _, b in measured), unit="B"),
                    ],
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
