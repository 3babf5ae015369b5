"""What was measured, as lines for people."""

from collections.abc import Mapping, Sequence
from typing import Any

# Key of `turns.summary` -> heading, factor, format.
COLUMNS = {
    "images_per_s": ("images/s", 1.0, ",.1f"),
    "ratio_default": ("x {default}", 1.0, ".2f"),
    "ratio_best": ("x {library}'s best", 1.0, ".2f"),
    "share_of_limit": ("of limit", 100.0, ".0f"),
    "peak_memory_bytes": ("memory", 1e-6, ",.0f"),
    "first_s": ("first", 1.0, ".2f"),
    "difference": ("differs", 1.0, ".0e"),
    "top1_agreement": ("same top-1", 100.0, ".1f"),
}
UNITS = {"share_of_limit": " %", "peak_memory_bytes": " MB", "first_s": " s", "top1_agreement": " %"}


def table(numbers: Mapping[str, Mapping[str, Any]], *, default: str, leave_out: Sequence[str] = ()) -> list[str]:
    """One aligned line per setting.

    Args:
      numbers: setting -> what `turns.summary` returned, and perhaps its "difference" from the reference.
      default: the name of the yardstick.
      leave_out: keys of COLUMNS.
    """
    keys = [key for key in COLUMNS if key not in leave_out]
    words = {"default": default, "library": default.split()[0]}
    lines = [["", *(COLUMNS[key][0].format(**words) for key in keys), "in", "by"]]
    for name, found in numbers.items():
        cells = [_cell(found, key) for key in keys]
        lines.append([name, *cells, found.get("precision") or "-", found.get("backend") or "-"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    notes = ["", *(found.get("note") or "" for found in numbers.values())]
    return [
        "  ".join(
            cell.rjust(width) if 0 < i <= len(keys) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + (f"  {note}" if note else "")
        for line, note in zip(lines, notes, strict=True)
    ]


def _cell(found: Mapping[str, Any], key: str) -> str:
    value, spread = found.get(key), found.get(f"{key}_spread")
    if value is None:
        return "-"
    _, factor, form = COLUMNS[key]
    text = f"{factor * value:{form}}" + (f" ± {factor * spread:{form}}" if spread is not None else "")
    return text + UNITS.get(key, "")
