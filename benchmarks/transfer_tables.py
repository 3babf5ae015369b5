"""Tables of what pre-training and a larger image are worth on other data, for `tables.py`."""

import re
from collections.abc import Iterable
from pathlib import Path

from plain import number, table
from rows import Row, read

SIZED = re.compile(r"pre-trained, (\d+) pixels")
STARTS = ("pre-trained, SGD", "from scratch, SGD", "from scratch, AdamW")


def tuned(results: Path) -> str:
    """One line per data set: the pre-trained start beside fresh weights that were trained as long."""
    rows = [row for row in _scored(results) if row["model"] in STARTS]
    lines = []
    for data, length, device in dict.fromkeys(map(_key, rows)):
        found = {row["model"]: row for row in rows if _key(row) == (data, length, device)}
        scratch = [found[start]["value"] for start in STARTS[1:] if start in found]
        ours = found.get(STARTS[0])
        gain = f"{100 * (ours['value'] - max(scratch)):+.1f}" if ours and scratch else "-"
        starts = [number(found.get(start), ".1f", scale=100, with_spread=True) for start in STARTS]
        rates = " / ".join(_rate(found[start]) if start in found else "-" for start in STARTS)
        lines.append([data, length, *starts, gain, _counts(found.values()), rates, device, _commits(found.values())])
    header = f"data|length|{'|'.join(f'{start}, %' for start in STARTS)}|gain, points|n|rates chosen|machine|commit"
    return table(header.split("|"), lines, right=(2, 3, 4, 5))


def resolution(results: Path) -> str:
    """One line per data set and length: the weights as they are, beside the same resized to more pixels."""
    rows = [row for row in _scored(results) if SIZED.fullmatch(row["model"])]
    sizes = sorted({_pixels(row) for row in rows})
    lines = []
    for data, length, device in sorted(dict.fromkeys(map(_key, rows))):
        found = {_pixels(row): row for row in rows if _key(row) == (data, length, device)}
        scores = [number(found.get(size), ".1f", scale=100, with_spread=True) for size in sizes]
        has_all = len(found) == len(sizes) > 1
        gain = f"{100 * (found[sizes[-1]]['value'] - found[sizes[0]]['value']):+.1f}" if has_all else "-"
        rates = " / ".join(_rate(found[size]) if size in found else "-" for size in sizes)
        lines.append([data, length, *scores, gain, _counts(found.values()), rates, device, _commits(found.values())])
    header = f"data|length|{''.join(f'{size} pixels, %|' for size in sizes)}gain, points|n|rates|machine|commit"
    return table(header.split("|"), lines, right=range(2, 3 + len(sizes)))


def _scored(results: Path) -> list[Row]:
    """The fine-tunings, of each model, data, length and machine the last."""
    rows = [row for row in read(results / "transfer.jsonl") if row["metric"] == "top1"]
    return list({(row["model"], *_key(row)): row for row in rows}.values())


def _key(row: Row) -> tuple[str, str, str]:
    """Data, length and machine, within which starts and sizes are compared."""
    return row["data"], row["note"].split(",")[0], row["device"]


def _rate(row: Row) -> str:
    found = re.search(r"learning rate (\S+?)(?:,| of|$)", row["note"])
    return found[1] if found else "-"


def _pixels(row: Row) -> int:
    found = SIZED.fullmatch(row["model"])
    assert found is not None, "only such rows"
    return int(found[1])


def _counts(rows: Iterable[Row]) -> str:
    return " / ".join(dict.fromkeys(str(row["n"]) for row in rows))


def _commits(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row["commit"] or "-" for row in rows))
