"""Time and memory of RidgeProbe at the sizes of ImageNet, on random features.

    python benchmarks/ridge.py [--threads 1] [--results FILE]

Each case runs once, in this order, so that the largest memory so far is that of the case. `few-shot` is 1,000 classes
of 10 images; `large` is 100,000 images. Both also score 50,000 images, as many as ImageNet's validation has. Where
other programs use the machine, `*_cpu_s`, the time on a core, says what the work takes, and `*_s` how long it took.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from mixonomy.evals import Features, RidgeProbe, top1
from rows import RESULTS, Row, append, make_row, origin

NUM_TEST = 50_000
CASES = {
    "few-shot: 10,000 x 768, 1,000 classes": (10_000, 768, 1000),
    "large: 100,000 x 1,024, 100 classes": (100_000, 1024, 100),
}


def features(num_images: int, dim: int, num_classes: int, seed: int) -> Features:
    """Random features around a centre for each class."""
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(num_images) % num_classes
    values = torch.randn(num_images, dim, generator=torch.Generator().manual_seed(seed)).mul_(3.0).add_(centres[labels])
    return Features(values, labels, torch.arange(num_images))


def peak_bytes() -> int:
    """The most memory this process has had so far."""
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def residual(probe: RidgeProbe, data: Features, num_classes: int, l2: float = 1024.0) -> float:
    """How far the weights are from solving the normal equations, relative to their right side."""
    x = torch.nn.functional.pad((data.values.double() - probe.mean) / probe.std, (0, 1), value=100.0)
    targets = 2.0 * torch.nn.functional.one_hot(data.labels, num_classes).double() - 1.0
    right: Tensor = x.T @ targets
    return float((x.T @ (x @ probe.weights) + l2 * probe.weights - right).norm() / right.norm())


def measure(num_images: int, dim: int, num_classes: int) -> dict[str, float]:
    """Seconds to fit and to score, by the clock and on the core, and peak memory; the solution is checked first."""
    small = features(2 * dim, dim, num_classes, seed=3)
    error = residual(RidgeProbe.fit(small.values, small.labels, num_classes), small, num_classes)
    if error > 1e-9:
        raise SystemExit(f"the normal equations are not solved: relative residual {error:.1e}")
    del small
    train, test = (features(n, dim, num_classes, seed) for n, seed in ((num_images, 1), (NUM_TEST, 2)))
    clocks = [(time.perf_counter(), time.process_time())]
    probe = RidgeProbe.fit(train.values, train.labels, num_classes)
    clocks.append((time.perf_counter(), time.process_time()))
    accuracy = top1(probe, test)
    clocks.append((time.perf_counter(), time.process_time()))
    print(f"  top-1 {accuracy:.4f}, relative residual {error:.1e}", file=sys.stderr)
    (fit_s, fit_cpu_s), (score_s, score_cpu_s) = (
        (after[0] - before[0], after[1] - before[1]) for before, after in zip(clocks, clocks[1:], strict=False)
    )
    return {
        "fit_s": fit_s,
        "fit_cpu_s": fit_cpu_s,
        "score_s": score_s,
        "score_cpu_s": score_cpu_s,
        "peak_memory_bytes": float(peak_bytes()),
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS / "ridge.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where, rows = origin(), list[Row]()
    for name, sizes in CASES.items():
        for metric, value in measure(*sizes).items():
            unit = "bytes" if metric.endswith("bytes") else "s"
            print(f"{name}: {metric} {value:,.2f}", file=sys.stderr)
            rows.append(
                make_row(where, study="ridge", model="RidgeProbe", data=name, metric=metric, value=value, unit=unit)
            )
    append(options.results, rows)


if __name__ == "__main__":
    main()
