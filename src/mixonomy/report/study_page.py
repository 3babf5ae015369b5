"""What a study found, as an HTML page, as Markdown and as text for a terminal: all from one description."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixonomy.models.files import write_atomically
from mixonomy.report import markup
from mixonomy.report.document import document

CELL = 44  # letters of a text that stands at the end of a line in a terminal


@dataclass(frozen=True)
class Table:
    """A table of a study.

    Args:
      lines: one text for each heading.
      num_texts, num_last_texts: the first and the last columns are text, those between numbers.
      note: what the reader must know to read it.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    num_texts: int = 1
    note: str = ""
    num_last_texts: int = 0

    def is_text(self, column: int) -> bool:
        """Whether a column holds text."""
        return column < self.num_texts or column >= len(self.head) - self.num_last_texts


@dataclass(frozen=True)
class Figure:
    """A plot of a study.

    Args:
      name: of its file, without an ending.
      svg: see `mixonomy.report.charts`.
    """

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Found:
    """What a study's rows say; a pure function of them.

    Args:
      title: of the page.
      summary: sentences in plain language, the most important first.
      facts: what the JSON object of the command has beside the rows.
      topics: what each sentence is of, such as a source of data; () where all are of one thing.
    """

    title: str
    summary: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    topics: tuple[str, ...] = ()

    def by_topic(self) -> list[tuple[str, list[str]]]:
        """(topic, sentences) in order; the topic is "" where all are of one thing."""
        grouped: dict[str, list[str]] = {}
        for topic, sentence in zip(self.topics or ("",) * len(self.summary), self.summary, strict=True):
            grouped.setdefault(topic, []).append(sentence)
        return list(grouped.items())

    def sentences(self) -> list[str]:
        """The summary, before each sentence its topic if there are several."""
        return [f"{topic}: {text}" if topic else text for topic, texts in self.by_topic() for text in texts]


Section = tuple[str, str, str]
"""Anchor, title and HTML of a part of a page, see `markup.section`."""


def study_page(found: Found, origins: Sequence[tuple[str, str]] = (), sections: Sequence[Section] = ()) -> bytes:
    """The page, in UTF-8.

    Args:
      origins: (what, value) of where the numbers come from: machine, commit, command.
      sections: what no row holds, such as pictures; they come after the plots.
    """
    parts = []
    if said := "".join(_said(topic, texts[1:]) for topic, texts in found.by_topic()):
        parts.append(("said", "In words", markup.section("said", "In words", said)))
    if found.figures:
        plots = "".join(markup.figure(each.svg, each.caption) for each in found.figures)
        parts.append(("plots", "Plots", markup.section("plots", "Plots", f'<div class="plots">{plots}</div>')))
    parts += sections
    for number, table in enumerate(found.tables):
        texts = {"num_texts": table.num_texts, "num_last_texts": table.num_last_texts}
        shown = [markup.table(table.head, table.lines, **texts)]
        shown += [markup.paragraph(table.note)] if table.note else []
        parts.append((f"table{number}", table.title, markup.section(f"table{number}", table.title, *shown)))
    if origins:
        where = markup.table(("what", "value"), origins, num_texts=2)
        parts.append(("origin", "Where from", markup.section("origin", "Where from", where)))
    contents = [(anchor, title) for anchor, title, _ in parts]
    return document(found.title, _headline(found), contents, *(html for *_, html in parts))


def _headline(found: Found) -> str:
    """The first sentence of each topic."""
    firsts = [(topic, texts[0]) for topic, texts in found.by_topic()]
    if len(firsts) > 1:
        return markup.bullets(f"{topic}: {text}" for topic, text in firsts)
    return markup.paragraph(firsts[0][1] if firsts else "No rows yet.")


def _said(topic: str, texts: Sequence[str]) -> str:
    heading = markup.subheading(topic) if topic else ""
    return f"{heading}{markup.bullets(texts)}" if texts else ""


def write_study_page(
    path: Path, found: Found, rows: Sequence[Mapping[str, Any]], sections: Sequence[Section] = ()
) -> None:
    """Writes the page, with the origins of the rows."""
    write_atomically(path, study_page(found, origins(rows), sections))


def origins(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what, value) of where rows come from, what they share said once."""
    found = []
    for key, name in (("device", "machine"), ("commit", "commit"), ("command", "command"), ("date", "date")):
        values = dict.fromkeys(str(row[key]) for row in rows if row[key])
        found.append((name, "; ".join(values) or "–"))
    return found if rows else []


def markdown(table: Table) -> str:
    """The table in Markdown, its note below."""
    if not table.lines:
        return "No rows yet."
    rule = ["---" if table.is_text(i) else "--:" for i in range(len(table.head))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in table.lines]
    text = "\n".join(f"| {' | '.join(line)} |" for line in (table.head, rule, *cells))
    return f"{text}\n\n{table.note}" if table.note else text


def terminal_lines(found: Found) -> Iterator[str]:
    """The tables and the summary for a terminal; nothing is cut, long texts at the end of a line stand below it."""
    for table in found.tables:
        yield table.title
        is_below = any(len(cell) > CELL for line in table.lines for cell in line[len(line) - table.num_last_texts :])
        num_beside = len(table.head) - (table.num_last_texts if is_below else 0)
        widths = [max(len(line[i]) for line in (table.head, *table.lines)) for i in range(num_beside)]
        for line in (table.head, *table.lines):
            aligned = (
                cell.ljust(width) if table.is_text(i) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line[:num_beside], widths, strict=True))
            )
            yield "  ".join(aligned).rstrip()
            yield from (f"    {cell}" for cell in line[num_beside:] if cell)
        if table.note:
            yield table.note
        yield ""
    for topic, texts in found.by_topic():
        if topic:
            yield f"{topic}:"
        yield from (f"  {text}" for text in texts) if topic else texts
