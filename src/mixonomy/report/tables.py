"""Plain-text tables for a terminal."""

from collections.abc import Sequence
from typing import Any

SCORES = ("precision", "recall", "f1")
MULTILABEL_SCORES = ("ap", "threshold", *SCORES)


def class_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Scores of each class, aligned for a terminal; a dash where there is nothing to divide by.

    Args:
      names: of the classes.
      rows: "per_class" of the scores: precision, recall, f1 and n; where an image may have several labels, also ap
        and threshold.
    """
    columns = MULTILABEL_SCORES if rows and "ap" in rows[0] else SCORES
    width = max([len(name) for name in names] + [5])
    lines = [f"{'class':<{width}}" + "".join(f"  {column:>9}" for column in columns) + f"  {'n':>7}"]
    for name, row in zip(names, rows, strict=True):
        cells = "".join(f"  {'-' if row[key] is None else f'{row[key]:.3f}':>9}" for key in columns)
        lines.append(f"{name:<{width}}{cells}  {row['n']:>7,}")
    return "\n".join(lines)
