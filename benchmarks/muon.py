"""One step of our Muon beside torch.optim.Muon, on the matrices of the CIFAR recipe's Mixer.

    python benchmarks/muon.py [--device cuda] [--steps 10] [--results FILE]

The updates are compared first: torch always computes them in bfloat16, ours in float32 on a CPU, so they agree to
bfloat16's precision only. Then the two take turns, step by step; times are medians, spreads half the
interquartile range.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.models import create_from
from mixonomy.optim import make_optimizers
from mixonomy.optim.muon import Muon
from mixonomy.recipes.cifar10 import recipe
from rows import RESULTS, Row, append, make_row, middle, origin

# bfloat16 keeps 8 bits, and the iteration's slope at 0 (3.44 in each of 5 rounds) enlarges what it rounds away.
RELATIVE_TOLERANCE = 0.05


def matrices() -> list[Tensor]:
    """What the recipe trains by Muon, with its initial values; torch's Muon refuses kernels, so these are flattened."""
    torch.manual_seed(0)
    assert recipe.height_width is not None
    model = create_from(recipe.model, num_classes=10, image_size=recipe.height_width, in_channels=3)
    muon = make_optimizers(model, recipe.optim)[0]
    assert isinstance(muon, Muon)
    return [p.detach().flatten(1) for p in _parameters(muon)]


def optimizer_with_gradients(kind: type[Muon] | type[torch.optim.Muon], device: torch.device) -> torch.optim.Optimizer:
    """A Muon over copies of the matrices, whose gradients are random and the same at every call."""
    generator = torch.Generator().manual_seed(1)
    copies = [nn.Parameter(p.clone().to(device)) for p in matrices()]
    for copy in copies:
        copy.grad = torch.randn(copy.shape, generator=generator).to(device)
    return kind(copies, lr=recipe.optim.lr or 0.02, weight_decay=recipe.optim.weight_decay, momentum=0.95)


def difference(device: torch.device) -> float:
    """The largest relative difference between the two updates of a matrix, in two steps."""
    ours, torchs = (optimizer_with_gradients(kind, device) for kind in (Muon, torch.optim.Muon))
    starts = [p.detach().clone() for p in _parameters(ours)]
    for _ in range(2):
        ours.step()
        torchs.step()
    moves = [
        (a.detach() - start, b.detach() - start)
        for a, b, start in zip(_parameters(ours), _parameters(torchs), starts, strict=True)
    ]
    return max(float((a - b).norm() / b.norm()) for a, b in moves)


def step_seconds(num_steps: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step, the two in turns, after one step each that is not counted."""
    kinds = {"ours": Muon, "torch.optim.Muon": torch.optim.Muon}
    optimizers = {name: optimizer_with_gradients(kind, device) for name, kind in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(num_steps + 1):
        for name, optimizer in optimizers.items():
            _wait(device)
            start = time.perf_counter()
            optimizer.step()
            _wait(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rows_of(seconds: Mapping[str, Sequence[float]], device: str) -> list[Row]:
    """Latency of both, and how many times as fast as torch's ours is."""
    where, rows = origin(device), []
    data = f"{len(matrices())} matrices of the CIFAR Mixer"
    about: dict[str, Any] = {"study": "muon", "data": data, "n": len(seconds["ours"])}
    for name, values in seconds.items():
        value, spread = middle([1000 * s for s in values])
        rows.append(make_row(where, **about, model=name, metric="latency_ms", value=value, unit="ms", spread=spread))
    ratio, spread = middle([b / a for a, b in zip(seconds["ours"], seconds["torch.optim.Muon"], strict=True)])
    rows.append(
        make_row(where, **about, model="ours", metric="ratio_default", value=ratio, unit="ratio", spread=spread)
    )
    return rows


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return optimizer.param_groups[0]["params"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--results", type=Path, default=RESULTS / "muon.jsonl")
    options = parser.parse_args()
    device = devices.resolve_device(options.device)
    devices.prepare(device)  # as in training
    found = difference(device)
    print(f"largest relative difference between the updates: {found:.1e}", file=sys.stderr)
    if not found <= RELATIVE_TOLERANCE:
        print(f"nothing was timed: that is more than {RELATIVE_TOLERANCE}.", file=sys.stderr)
        return 1
    rows = rows_of(step_seconds(options.steps, device), options.device)
    append(options.results, rows)
    for row in rows:
        print(f"{row['model']:20}{row['metric']:16}{row['value']:10.2f} {row['unit']}, spread {row['spread']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
