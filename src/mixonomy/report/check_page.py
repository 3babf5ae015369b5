"""The page of a data check: what was found, with pictures, and what the data consists of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixonomy.data.check import Case, Check, Finding, label_text
from mixonomy.data.decode import decode
from mixonomy.models.files import write_atomically
from mixonomy.report import markup
from mixonomy.report.document import document
from mixonomy.report.pictures import picture

MAX_CASES = 12  # with pictures, of a finding
MAX_IMAGES = 4  # of a case
MAX_ROWS = 200  # of a table


def write_check_page(check: Check, path: str | Path) -> Path:
    """Writes the page of a check; the pictures are read from the data again.

    Raises:
      ValueError: if it cannot be written there.
    """
    path = Path(path)
    contents = [(finding.kind, finding.title) for finding in check.findings]
    page = document(
        f"{check.source.name}: data check",
        _headline(check),
        [*contents, ("classes", "Classes"), ("images", "Images")],
        *(_finding(check, finding) for finding in check.findings),
        _classes(check),
        _images(check),
    )
    try:
        write_atomically(path, page)
    except OSError as error:
        raise ValueError(f"cannot write to {path} ({error.strerror}); give another --out.") from None
    return path


def _headline(check: Check) -> str:
    problems = sum(finding.is_blocking for finding in check.findings)
    height, width = check.summary.median_size
    about, beside = (_splits(check.counts(of_other=of_other)) for of_other in (False, True))
    against = f" Compared with {check.other}: {beside}." if check.other else ""
    verdict = "Nothing was found that would break training or make its scores wrong."
    if problems:
        verdict = "Mend what is marked as a problem before training: it breaks training or makes its scores wrong."
    return markup.paragraph(f"Images: {about}.{against} {verdict}") + markup.tiles(
        [
            ("images", f"{check.scan.num_own:,}"),
            ("classes", f"{len(check.source.class_names):,}"),
            ("problems", f"{problems}"),
            ("notes", f"{len(check.findings) - problems}"),
            ("median size", f"{width} x {height}"),
            ("turned by EXIF", f"{check.summary.num_turned:,}"),
        ]
    )


def _finding(check: Check, finding: Finding) -> str:
    parts = [markup.paragraph(f"{'Problem' if finding.is_blocking else 'Note'}. {finding.advice}")]
    readable = check.scan.readable
    shown = [case for case in finding.cases if case.images and readable[list(case.images)].all()][:MAX_CASES]
    if shown:
        parts.append(markup.groups((_heading(case), _cards(check, case)) for case in shown))
    if len(shown) < len(finding.cases):
        rows = [(", ".join(check.name_of(i) for i in case.images[:MAX_IMAGES]), case.note) for case in finding.cases]
        if all(not case.images for case in finding.cases):
            parts.append(markup.table(("class",), [(note,) for _, note in rows[:MAX_ROWS]], num_texts=1))
        else:
            parts.append(f"<h3>All {len(rows):,}</h3>" if len(rows) <= MAX_ROWS else f"<h3>The first {MAX_ROWS}</h3>")
            parts.append(markup.table(("image", "what"), rows[:MAX_ROWS], num_texts=2))
    return markup.section(finding.kind, finding.title, *parts)


def _heading(case: Case) -> str:
    more = len(case.images) - MAX_IMAGES
    return f"{case.note}, and {more} more" if more > 0 else case.note


def _cards(check: Check, case: Case) -> list[markup.Card]:
    cards = []
    for index in case.images[:MAX_IMAGES]:
        part, at = check.scan.locate(index)
        name, label = part.split.names[at], label_text(check.scan, check.source.class_names, index)
        where = f"{part.name} of {part.source}" if part.is_other else part.name
        lines = [(where, label, ""), (name, "", "")]
        cards.append((picture(decode(part.split.images[at], 3), name), lines))
    return cards


def _classes(check: Check) -> str:
    counts = check.summary.classes
    first = next(iter(counts.values()))
    largest = max(int(first.max()), 1)
    order = np.argsort(-first, kind="stable")[:MAX_ROWS]
    rows = [
        (check.source.class_names[k], f"{first[k] / largest:.3f}", *(f"{counts[split][k]:,}" for split in counts))
        for k in order.tolist()
    ]
    notes = [markup.paragraph(note) for note in check.source.notes]  # such as a class that has no images
    parts = [*notes, markup.table(("class", "of the largest", *counts), rows, num_texts=1, bar=1)]
    if len(first) > len(order):
        parts.append(markup.paragraph(f"{len(first) - len(order):,} smaller classes are not shown."))
    return markup.section("classes", "Classes", *parts)


def _images(check: Check) -> str:
    summary = check.summary
    tables = (
        ("shorter side, pixels", summary.sizes),
        ("format", tuple(summary.formats.items())),
        ("colour mode", tuple(summary.modes.items())),
    )
    return markup.section("images", "Images", *(_counts(name, rows) for name, rows in tables))


def _splits(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _counts(name: str, rows: Sequence[tuple[str, int]]) -> str:
    total = max(sum(count for _, count in rows), 1)
    cells = [(text or "unknown", f"{count / total:.3f}", f"{count:,}") for text, count in rows]
    return f"<h3>By {name}</h3>" + markup.table((name, "share", "images"), cells, num_texts=1, bar=1)
