"""One measured number is one row, one line of a .jsonl file in results/; what a row must hold, and how it is kept."""

import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixonomy.bench.limits import Limits
from mixonomy.bench.turns import middle

__all__ = [
    "RESULTS",
    "Origin",
    "Row",
    "append",
    "check",
    "limit_rows",
    "make_row",
    "middle",
    "number_rows",
    "origin",
    "read",
]

RESULTS = Path(__file__).resolve().parents[1] / "results"
KEYS = (
    "study",
    "model",
    "data",
    "metric",
    "value",  # a number, or null with a note that says why there is none
    "unit",
    "spread",  # in the unit of the value; what it is (deviation, interquartile range) is the study's
    "n",  # number of repetitions that value and spread are of
    "seed",  # of a single run; null for a row over several
    "device",
    "commit",
    "command",
    "date",
)
OPTIONAL = ("note", "source")  # source: of a number that others published

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

Row = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a row comes from: machine, commit of mixonomy, command line, day (ISO)."""

    device: str
    commit: str | None
    command: str
    date: str


def origin(device: str = "cpu") -> Origin:
    """The origin of rows that this process measures on a device such as "cpu" or "cuda"."""
    from mixonomy.runs import environment

    now = environment()
    return Origin(machine(now, device), now["commit"], command_line(), now["started"][:10])


def command_line() -> str:
    """How this script was started, from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine(environment: dict[str, Any], device: str = "cpu") -> str:
    """A short description of the hardware: "AMD EPYC (family 25, model 1), 2 of 2 cores, torch 2.14.1".

    Args:
      environment: what `mixonomy.runs.environment` returned, now or when run.json was written.
      device: "cpu", or "cuda" with or without an index, to name the GPU instead.
    """
    facts, torch_version = environment["machine"], environment["versions"]["torch"]
    if device.startswith("cuda"):
        return f"{facts['gpu']}, torch {torch_version}"
    return f"{facts['cpu']}, {facts['threads']} of {facts['cores']} cores, torch {torch_version}"


def make_row(
    where: Origin,
    *,
    study: str,
    model: str,
    data: str,
    metric: str,
    value: float | None,
    unit: str,
    spread: float | None = None,
    n: int = 1,
    seed: int | None = None,
    note: str | None = None,
) -> Row:
    """A valid row; see KEYS."""
    made: Row = {"study": study, "model": model, "data": data, "metric": metric, "value": value, "unit": unit}
    made |= {"spread": spread, "n": n, "seed": seed, **vars(where)}
    made |= {"note": note} if note is not None else {}
    check(made)
    return made


def check(row: Row) -> None:
    """Refuses a row that a table could not read.

    Raises:
      ValueError: naming the keys or the value that are wrong.
    """
    missing, unknown = set(KEYS) - set(row), set(row) - {*KEYS, *OPTIONAL}
    if missing or unknown:
        words = [f"{what} {', '.join(sorted(keys))}" for what, keys in (("lacks", missing), ("has", unknown)) if keys]
        raise ValueError(f"a row {' and '.join(words)}; it must have {', '.join(KEYS)} and may have a note or source.")
    for key in ("study", "model", "data", "metric", "unit"):
        if not isinstance(row[key], str):
            raise ValueError(f"{key} of a row is {row[key]!r}; give text.")
    for key in ("value", "spread"):
        number = row[key]
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{key} of a row is {number!r}; give a number or None.")
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{key} of a row is {number}; give None and a note that says what happened.")
    if row["value"] is None and not row.get("note"):
        raise ValueError(f"the {row['metric']} of {row['model']} has no value and no note; say in a note why.")
    if row["n"] is not None and (not isinstance(row["n"], int) or row["n"] < 0):
        raise ValueError(f"n of a row is {row['n']!r}; give the number of repetitions, or None where it is unknown.")


def append(path: str | Path, rows: Iterable[Row]) -> None:
    """Adds rows to the end of a .jsonl file; all of them, or none if one is wrong."""
    rows = list(rows)
    for row in rows:
        check(row)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(path: str | Path) -> list[Row]:
    """The rows of a .jsonl file, in order; none if there is no such file.

    Raises:
      ValueError: naming the line that is wrong.
    """
    path, rows = Path(path), []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), start=1):
        try:
            rows.append(json.loads(line))
            check(rows[-1])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return rows


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
