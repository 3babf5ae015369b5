"""The check of a data set before training: what cannot be read, is there twice, leaks, or is mislabelled."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mixonomy.data import Source
from mixonomy.data.check.duplicates import find_duplicates
from mixonomy.data.check.findings import Case, Finding, find_problems, label_text
from mixonomy.data.check.scan import Scan, parts_of, scan_images
from mixonomy.data.check.summary import Summary, summarise
from mixonomy.data.sources.folder import SPLIT_FOLDERS

__all__ = ["Case", "Check", "Finding", "Scan", "Summary", "check_source", "label_text"]


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Args:
      other: name of the source that it was checked against; "" if none.
      max_difference: bound below which two images were taken for copies, see `duplicates.differences`.
      seconds: that it took.
    """

    source: Source
    other: str
    scan: Scan
    summary: Summary
    findings: tuple[Finding, ...]
    max_difference: float
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether nothing was found that breaks training or makes scores wrong."""
        return not any(finding.is_blocking for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        summary = self.summary
        return {
            "source": self.source.name,
            "against": self.other or None,
            "ok": self.is_ok,
            "images": self.scan.num_own,
            "splits": self.counts(),
            "against_splits": self.counts(of_other=True) or None,
            "notes": list(self.source.notes),
            "findings": [self._finding(finding) for finding in self.findings],
            "classes": {
                name: {split: int(counts[k]) for split, counts in summary.classes.items()}
                for k, name in enumerate(self.source.class_names)
            },
            "shorter_sides": dict(summary.sizes),
            "median_size": list(summary.median_size),
            "formats": summary.formats,
            "modes": summary.modes,
            "exif_turned": summary.num_turned,
            "max_difference": self.max_difference,
            "seconds": self.seconds,
            "images_per_s": len(self.scan) / self.seconds,
        }

    def name_of(self, index: int) -> str:
        """split/name of an image, "split/name of OTHER" in the other source; names in a folder begin with a split."""
        part, at = self.scan.locate(index)
        name = part.split.names[at]
        name = name if name.split("/")[0].lower() in SPLIT_FOLDERS else f"{part.name}/{name}"
        return f"{name} of {part.source}" if part.is_other else name

    def counts(self, *, of_other: bool = False) -> dict[str, int]:
        """Split -> number of images, of the source or of the one that it was checked against."""
        return {part.name: len(part.split) for part in self.scan.parts if part.is_other == of_other}

    def _finding(self, finding: Finding) -> dict[str, Any]:
        cases = [{"images": [self._image(i) for i in case.images], "note": case.note} for case in finding.cases]
        head = {"kind": finding.kind, "blocking": finding.is_blocking, "title": finding.title}
        return {**head, "advice": finding.advice, "count": len(cases), "cases": cases}

    def _image(self, index: int) -> dict[str, Any]:
        part, at = self.scan.locate(index)
        label = label_text(self.scan, self.source.class_names, index)
        name = part.split.names[at]
        return {"source": part.source, "split": part.name, "index": at, "name": name, "label": label or None}


def check_source(
    source: Source,
    other: Source | None = None,
    *,
    workers: int | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Check:
    """Looks at every image of a source, and of another one for pictures that are in both.

    Args:
      workers: processes that decode; as many as cores if not given.
      report: is told how many images are done, from time to time.
    """
    start = time.perf_counter()
    scanned = scan_images(parts_of(source, other), workers=workers, report=report)
    duplicates = find_duplicates(scanned)
    summary = summarise(source, scanned)
    findings = find_problems(source, scanned, duplicates, summary)
    seconds = time.perf_counter() - start
    name = other.name if other else ""
    return Check(source, name, scanned, summary, findings, duplicates.max_difference, seconds)
