"""One measured number is one row, one line of a .jsonl file; what a row must hold, and how it is kept."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
OPTIONAL = (
    "note",
    "source",  # of a number that others published
    "at",  # where on a curve, such as the epoch; the study says in what
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a row comes from: machine, commit of mixonomy, command line, day (ISO)."""

    device: str
    commit: str | None
    command: str
    date: str


def origin_of(environment: dict[str, Any], device: str, command: str) -> Origin:
    """The origin of rows that were measured in such an environment, see `mixonomy.runs.environment`, on a device."""
    return Origin(machine(environment, device), environment["commit"], command, environment["started"][:10])


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
    at: float | None = None,
    note: str | None = None,
) -> Row:
    """A valid row; see KEYS and OPTIONAL."""
    made: Row = {"study": study, "model": model, "data": data, "metric": metric, "value": value, "unit": unit}
    made |= {"spread": spread, "n": n, "seed": seed, **vars(where)}
    made |= {key: value for key, value in (("at", at), ("note", note)) if value is not None}
    check(made)
    return made


def check(row: Row) -> None:
    """Refuses a row that a table could not read.

    Raises:
      ValueError: naming the keys or the value that are wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is {str(row)[:40]!r}; it must be an object with {', '.join(KEYS)}.")
    missing, unknown = set(KEYS) - set(row), set(row) - {*KEYS, *OPTIONAL}
    if missing or unknown:
        words = [f"{what} {', '.join(sorted(keys))}" for what, keys in (("lacks", missing), ("has", unknown)) if keys]
        raise ValueError(
            f"a row {' and '.join(words)}; it must have {', '.join(KEYS)} and may have {', '.join(OPTIONAL)}."
        )
    for key in ("study", "model", "data", "metric", "unit"):
        if not isinstance(row[key], str):
            raise ValueError(f"{key} of a row is {row[key]!r}; give text.")
    for key in ("value", "spread", "at"):
        number = row.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{key} of a row is {number!r}; give a number or None.")
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{key} of a row is {number}; give None and a note that says what happened.")
    if row["value"] is None and not row.get("note"):
        raise ValueError(f"the {row['metric']} of {row['model']} has no value and no note; say in a note why.")
    if row["seed"] is not None and (isinstance(row["seed"], bool) or not isinstance(row["seed"], int)):
        raise ValueError(f"seed of a row is {row['seed']!r}; give a whole number, or None.")
    if row["n"] is not None and (not isinstance(row["n"], int) or row["n"] < 0):
        raise ValueError(f"n of a row is {row['n']!r}; give the number of repetitions, or None where it is unknown.")


def append(path: str | Path, rows: Iterable[Row]) -> None:
    """Adds rows to the end of a .jsonl file; all of them, or none if one is wrong."""
    text = to_text(rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def to_text(rows: Iterable[Row]) -> str:
    """The lines of a .jsonl file.

    Raises:
      ValueError: if a row is wrong.
    """
    rows = list(rows)
    for row in rows:
        check(row)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(path: str | Path) -> list[Row]:
    """The rows of a .jsonl file, in order; none if there is no such file.

    Raises:
      ValueError: naming the line that is wrong, or for a file that is no text.
    """
    path, rows = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; give a .jsonl file, one row a line.") from None
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
            check(rows[-1])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return rows
