"""What a Mixer costs against its size: tokens (beside a ViT of the same width and depth), width, depth, batch.

    python benchmarks/curves.py [--sweeps tokens width depth batch] [--device cuda] [--quick] [--results FILE]

One point is one process: forward passes, then training steps, as mixonomy runs them; medians and half interquartile
ranges, and the most memory that one more repetition holds.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mixonomy.bench import cost
from mixonomy.bench.step import Case
from rows import RESULTS, Row, append, make_row, middle, origin

PATCH, DIM, BLOCKS, TOKENS_DIM, BATCH, SIDE = 16, 512, 8, 256, 4, 224  # of Mixer-S/16
VALUES = {
    "tokens": tuple((side // PATCH) ** 2 for side in (64, 96, 128, 192, 256, 384, 512, 768)),
    "width": (128, 256, 512, 1024),
    "depth": (2, 4, 8, 16),
    "batch": (1, 2, 4, 8, 16, 32),
}
METRICS = {"forward_s": "s", "step_s": "s", "forward_bytes": "bytes", "step_bytes": "bytes"}
TURN_S = 1.0


class Point(NamedTuple):
    """One place on one curve."""

    sweep: str
    model: str
    value: int
    case: Case


def points(sweep: str, *, quick: bool = False) -> Iterator[Point]:
    """The points of a sweep; all else is that of Mixer-S/16 at 224 pixels."""
    for value in VALUES[sweep][: 2 if quick else None]:
        side = round(value**0.5) * PATCH if sweep == "tokens" else 32 if quick else SIDE
        dim = 32 if quick else value if sweep == "width" else DIM
        common = {"patch_size": PATCH, "hidden_dim": dim, "channels_mlp_dim": 4 * dim, "gelu": "erf"}
        common["num_blocks"] = value if sweep == "depth" else 2 if quick else BLOCKS
        tokens_dim = dim // 2 if sweep == "width" or quick else TOKENS_DIM
        models: dict[str, dict[str, Any]] = {"Mixer": {"name": "mixer", "tokens_mlp_dim": tokens_dim, **common}}
        if sweep == "tokens":
            models["ViT"] = {"name": "vit", "num_heads": max(dim // 64, 1), "pool": "mean", **common}
        for name, model in models.items():
            size = value if sweep == "batch" else BATCH
            yield Point(sweep, name, value, Case(model, (side, side), size, 1000, 0.0 if quick else TURN_S))


def rows_of(point: Point, found: cost.Cost, where: Any) -> list[Row]:
    """Rows of time and products per image, and of the memory of the whole batch."""
    about: dict[str, Any] = {"study": "curves", "model": f"{point.sweep}: {point.model}", "data": f"{point.value}"}
    made = []
    for metric, unit in METRICS.items():
        measured = getattr(found, metric)
        value, spread = middle(measured) if isinstance(measured, list) else (measured, None)
        n = len(measured) if isinstance(measured, list) else 1
        images = point.case.batch_size if unit == "s" else 1
        spread = None if spread is None else spread / images
        note = f"per image, {found.precision}" if unit == "s" else f"batch {point.case.batch_size}, {found.precision}"
        made.append(
            make_row(where, **about, metric=metric, value=value / images, unit=unit, spread=spread, n=n, note=note)
        )
    flops = found.flops / point.case.batch_size
    made.append(make_row(where, **about, metric="flops", value=flops, unit="FLOP", note="per image"))
    return made


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sweeps", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--quick", action="store_true", help="tiny models and two points of each, in one process")
    parser.add_argument("--results", type=Path, default=RESULTS / "curves.jsonl")
    options = parser.parse_args()
    where = origin(options.device)
    for sweep in options.sweeps:
        for point in points(sweep, quick=options.quick):
            try:
                if options.quick:
                    from mixonomy import devices

                    found = cost.measure(point.case, devices.resolve_device(options.device))
                else:
                    found = cost.in_a_process(point.case, options.device)
            except ValueError as error:
                print(f"{sweep} {point.value}, {point.model}: {error}", file=sys.stderr)
                return 1
            append(options.results, rows_of(point, found, where))
            seconds = [middle(each)[0] / point.case.batch_size for each in (found.forward_s, found.step_s)]
            print(
                f"{sweep} {point.value}, {point.model}: forward {seconds[0]:.4f} s, step {seconds[1]:.4f} s per image"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
