"""`mixonomy data check`."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.cli.arguments import check_out, parse
from mixonomy.cli.predictions import json_text, printable, write_line

if TYPE_CHECKING:
    from mixonomy.data.check import Check, Finding

MAX_CASES = 5  # of a finding; all are in the JSON
MAX_IMAGES = 3  # of a case
MAX_CLASSES = 20


@dataclass(frozen=True)
class DataCheck:
    """Looks at every image of a data set: what cannot be read, what is there twice, what leaks, what is mislabelled.

    Exits with 1 if something breaks training or makes its scores wrong, with 0 if there are only notes.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """SOURCE, as for train."""
    against: str | None = None
    """Another SOURCE: what is in both is reported too, such as test images in the data for pre-training."""
    out: Path | None = None
    """Write a page with pictures of what was found to this .html file; none if not given."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    workers: int | None = None
    """Processes that decode images; as many as cores if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(DataCheck, argv, name="data check")
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers is {options.workers}; give 0 (no process) or more.")
    if options.against == options.source:
        raise ValueError(
            f"--against is {options.against!r}, the source itself; give another one. "
            f"Copies within one source are looked for without --against."
        )
    if options.out is not None:
        check_out(options.out, ".html")

    from mixonomy.data import open_source
    from mixonomy.data.check import check_source
    from mixonomy.progress import Console

    source = open_source(options.source, options.data_root)
    other = open_source(options.against, options.data_root) if options.against is not None else None
    if other and other.name == source.name:  # of two folders, say, both called "photos"
        source, other = replace(source, name=options.source), replace(other, name=options.against or "")
    total = sum(len(split) for each in (source, other) if each for split in each.splits.values())
    with Console().progress(total, 0, "image") as meter:
        check = check_source(source, other, workers=options.workers, report=lambda done: meter.update(done, ""))
    people = sys.stderr if options.json else sys.stdout
    for line in _lines(check):
        write_line(printable(line), people)
    if options.out:
        from mixonomy.report.check_page import write_check_page

        print(f"page: {write_check_page(check, options.out)}", file=people)
    if options.json:
        page = str(options.out) if options.out else None
        write_line(json_text({**check.to_dict(), "page": page}), sys.stdout)
    return 0 if check.is_ok else 1


def _lines(check: "Check") -> Iterator[str]:
    summary = check.summary
    against = ""
    if check.other:
        against = f", compared with {check.other}, {_images(check.counts(of_other=True))},"
    height, width = summary.median_size
    yield f"{check.source.name}: {_images(check.counts())}{against} in {check.seconds:.1f} s"
    yield f"  median size {width} x {height} pixels; formats {_counts(summary.formats)}"
    yield f"  colours {_counts(summary.modes)}; turned by EXIF {summary.num_turned:,}"
    yield f"  shorter side in pixels: {_counts(dict(summary.sizes))}"
    yield from _classes(check)
    yield from (f"  {note}" for note in check.source.notes)
    for finding in check.findings:
        yield from _finding(check, finding)
    problems = sum(finding.is_blocking for finding in check.findings)
    notes = len(check.findings) - problems
    yield ""
    if problems:
        yield f"Kinds of problem: {problems}, of note: {notes}. Problems break training or make its scores wrong."
    else:
        yield f"No problem. Kinds of note: {notes}." if notes else "Nothing was found."


def _finding(check: "Check", finding: "Finding") -> Iterator[str]:
    yield ""
    yield f"{'PROBLEM' if finding.is_blocking else 'note   '}  {finding.title}"
    yield f"         {finding.advice}"
    for case in finding.cases[:MAX_CASES]:
        names = [check.name_of(index) for index in case.images[:MAX_IMAGES]]
        if len(case.images) > MAX_IMAGES:
            names.append(f"{len(case.images) - MAX_IMAGES} more")
        yield "           " + ": ".join(part for part in (" = ".join(names), case.note) if part)
    if len(finding.cases) > MAX_CASES:
        yield f"           and {len(finding.cases) - MAX_CASES:,} more; --json has all"


def _classes(check: "Check") -> Iterator[str]:
    names, counts = check.source.class_names, check.summary.classes
    if len(names) > MAX_CLASSES:
        spans = ", ".join(f"{split} {min(n):,} to {max(n):,}" for split, n in counts.items())
        yield f"  {len(names):,} classes; images per class: {spans}"
        return
    width = max(len("class"), *map(len, names)) + 2
    yield f"  {'class':<{width}}" + "".join(f"{split:>9}" for split in counts)
    for k, name in enumerate(names):
        yield f"  {name:<{width}}" + "".join(f"{int(n[k]):>9,}" for n in counts.values())


def _images(splits: dict[str, int]) -> str:
    return f"{sum(splits.values()):,} images ({', '.join(f'{name} {count:,}' for name, count in splits.items())})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name or 'unknown'} {count:,}" for name, count in counts.items()) or "none"
