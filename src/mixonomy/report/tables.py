"""Plain-text and Markdown tables."""

from collections.abc import Sequence
from typing import Any


def class_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Precision, recall and F1 of each class, aligned for a terminal; a dash where there is nothing to divide by."""
    width = max([len(name) for name in names] + [5])
    lines = [f"{'class':<{width}}  precision  recall     f1       n"]
    for name, row in zip(names, rows, strict=True):
        cells = ["        -" if row[key] is None else f"{row[key]:9.3f}" for key in ("precision", "recall", "f1")]
        lines.append(f"{name:<{width}}  {cells[0]}{cells[1][1:]}{cells[2][2:]}{row['n']:8,}")
    return "\n".join(lines)
