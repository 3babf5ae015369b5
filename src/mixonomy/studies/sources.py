"""Rows of trainings on several sources of data: each source is read by itself, and all are put on one page."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from mixonomy.report.study_page import Found
from mixonomy.rows import Row


def read_by_source(
    rows: Sequence[Row], source_of: Callable[[Row], str], read_one: Callable[[Sequence[Row]], Found]
) -> Found:
    """What rows say; of several sources each plot and table names its own, and each sentence has it as its topic.

    Args:
      source_of: row -> what tells its source from others.
      read_one: of rows of a single source.
    Returns:
      Of several sources the facts are {"by_source": {source: facts}}.
    """
    sources = list(dict.fromkeys(source_of(row) for row in rows))
    if len(sources) < 2:
        return read_one(rows)
    found = {source: read_one([row for row in rows if source_of(row) == source]) for source in sources}
    return Found(
        "; ".join(dict.fromkeys(each.title for each in found.values())),
        tuple(text for each in found.values() for text in each.summary),
        tuple(
            replace(figure, name=f"{figure.name}-{slug(source)}", caption=f"{source}: {figure.caption}")
            for source, each in found.items()
            for figure in each.figures
        ),
        tuple(
            replace(table, title=f"{source}: {table.title}") for source, each in found.items() for table in each.tables
        ),
        {"by_source": {source: each.facts for source, each in found.items()}},
        tuple(source for source, each in found.items() for _ in each.summary),
    )


def slug(source: str) -> str:
    """The same for the name of a file."""
    return re.sub(r"[^\w.=+-]+", "-", source).strip("-")
