"""Rows of what the scripts here measure; what a row is stands in `mixonomy.rows`."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixonomy.bench.limits import Limits
from mixonomy.bench.turns import middle
from mixonomy.rows import KEYS, Origin, Row, append, check, machine, make_row, origin_of, read

__all__ = [
    "KEYS",
    "RESULTS",
    "Origin",
    "Row",
    "append",
    "check",
    "limit_rows",
    "machine",
    "make_row",
    "middle",
    "number_rows",
    "origin",
    "read",
]

RESULTS = Path(__file__).resolve().parents[1] / "results"

# Keys of the numbers of one setting of `mixonomy bench` that become rows -> unit.
UNITS = {
    "images_per_s": "images/s",
    "ratio_default": "ratio",
    "ratio_best": "ratio",
    "ratio_best_peer": "ratio",
    "peak_memory_bytes": "bytes",
    "share_of_limit": "share",
    "first_s": "s",
    "difference": "share",
    "top1_agreement": "share",
}


def origin(device: str = "cpu") -> Origin:
    """The origin of rows that this process measures on a device such as "cpu" or "cuda"."""
    from mixonomy.runs import environment

    return origin_of(environment(), device, command_line())


def command_line() -> str:
    """How this script was started, from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def number_rows(where: Origin, numbers: Mapping[str, Any], **about: Any) -> list[Row]:
    """The rows of one setting of `mixonomy bench`.

    Args:
      numbers: by the keys of `mixonomy.bench.turns.summary`; where there was no turn its note says why, else the note
        of images_per_s says what computed.
      about: study, model and data.
    """
    if numbers["images_per_s"] is None:
        return [make_row(where, **about, metric="images_per_s", value=None, unit="images/s", n=0, note=numbers["note"])]
    rows = []
    for metric, unit in UNITS.items():
        if metric not in numbers:
            continue
        value, note = numbers[metric], numbers.get("note")
        if metric == "images_per_s":
            note = "; ".join(filter(None, (f"{numbers['precision']}, {numbers['backend']}", note)))
        note = note or ("not measured" if value is None else None)
        spread, n = numbers.get(f"{metric}_spread"), numbers["repetitions"]
        rows.append(make_row(where, **about, metric=metric, value=value, unit=unit, spread=spread, n=n, note=note))
    return rows


def limit_rows(where: Origin, limits: Limits, **about: Any) -> list[Row]:
    """The rows of what the machine can do, measured with the others of a study and its data."""
    found = {f"matrix product, {name}": ("gemm_flops_per_s", rate, "FLOP/s") for name, rate in limits.gemm.items()}
    found["copy of a large tensor"] = ("bytes_per_s", limits.bytes_per_s, "bytes/s")
    return [
        make_row(where, **about, model=model, metric=metric, value=value, unit=unit, note=None if value else "not here")
        for model, (metric, value, unit) in found.items()
    ]
