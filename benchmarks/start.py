"""How long a command takes to begin: `train` until its first steps are done, `predict` of one image until its answer.

    python benchmarks/start.py --data-root ../shared/data

Each command is started anew several times, after once that is not counted. `train` is timed until it has noted its
first ten steps, of eight images each, so the first was done before; it is then killed. `predict` is timed to its end.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mixonomy.data import open_source
from rows import RESULTS, append, make_row, middle, origin

MIXONOMY = [sys.executable, "-m", "mixonomy"]
LIMIT_S = 120


def train_seconds(source: str, folder: Path, data_root: list[str]) -> float:
    """From the command to the first line of metrics.jsonl.

    Raises:
      ValueError: if training ends or takes too long before that.
    """
    noted, said = folder / "metrics.jsonl", folder.with_suffix(".err")
    command = [*MIXONOMY, "train", "--data", source, "--batch-size", "8", "--out", str(folder), *data_root]
    with said.open("w") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while not (noted.exists() and noted.stat().st_size):
                if process.poll() is not None or time.perf_counter() - begun > LIMIT_S:
                    raise ValueError(f"{' '.join(command)} noted no step: {said.read_text()[-300:]}")
                time.sleep(0.01)
            return time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()


def predict_seconds(run: Path, image: Path) -> float:
    """Of the whole command."""
    begun = time.perf_counter()
    subprocess.run([*MIXONOMY, "predict", str(run), str(image)], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits", "fashion-mnist", "cifar10", "imagenette"])
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--times", type=int, default=7, help="of each command that count")
    parser.add_argument("--results", type=Path, default=RESULTS / "start.jsonl")
    options = parser.parse_args()
    root = ["--data-root", options.data_root] if options.data_root else []

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, image = folder / "run", folder / "image.png"
        quick = ["--data", "digits", "--duration", "20 steps", "--out", str(run)]
        subprocess.run([*MIXONOMY, "train", *quick], check=True, capture_output=True)
        image.write_bytes(bytes(open_source("digits").splits["train"].images[0]))
        jobs: list[tuple[str, str, Callable[[int], float]]] = [
            ("train", source, lambda i, s=source: train_seconds(s, folder / f"{s}{i}", root)) for source in options.data
        ]
        jobs.append(("predict", "one image", lambda _: predict_seconds(run, image)))
        for command, data, job in jobs:
            seconds = [job(i) for i in range(1 + options.times)][1:]
            (value, spread), note = middle(seconds), f"slowest {max(seconds):.2f} s"
            about = {"study": "start", "model": f"mixonomy {command}", "data": data, "n": len(seconds), "note": note}
            row = make_row(origin(), **about, metric="start_s", value=value, unit="s", spread=spread)
            append(options.results, [row])
            print(f"{row['model']}, {data}: {row['value']:.2f} s, {row['note']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
