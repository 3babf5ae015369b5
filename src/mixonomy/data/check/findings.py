"""Facts to findings: what is wrong with a data set, in which images, and what to do about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data import Source
from mixonomy.data.check.duplicates import Duplicates
from mixonomy.data.check.scan import Scan
from mixonomy.data.check.summary import Summary

MIN_SIDE = 16  # pixels; the smallest patch of the models of the paper that has a size of its own (S/16, B/16, L/16)
MAX_ASPECT = 4.0  # longer side / shorter side; beyond, the central square shows less than a quarter
FEW_IMAGES = 5  # of a class in train
RARE_SHARE = 0.1  # of the median class


@dataclass(frozen=True)
class Case:
    """One instance of a finding.

    Args:
      images: their indices in the pool of the scan; empty where a class is meant.
      note: what is special about it.
    """

    images: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class Finding:
    """All cases of one kind.

    Args:
      kind: a stable name for programs.
      title: what was found and how often.
      advice: what to do, one sentence.
      is_blocking: whether it breaks training or makes its scores wrong.
    """

    kind: str
    title: str
    advice: str
    is_blocking: bool
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class _Kind:
    title: str  # {n} cases
    advice: str
    is_blocking: bool


_KINDS = {
    "unreadable": _Kind(
        "{n} images cannot be read", "Remove these files or replace them; training stops at the first.", True
    ),
    "truncated": _Kind(
        "{n} images are cut off", "Copy or download these files again; they are incomplete, or remove them.", True
    ),
    "huge": _Kind(
        "{n} images claim a size that fills the memory",
        "Shrink these images, or remove them if the claim is false.",
        True,
    ),
    "leak": _Kind(
        "{n} pictures are in more than one split",
        "Remove them from train, or from the split that scores: a model is scored on pictures that it was trained on.",
        True,
    ),
    "leak-against": _Kind(
        "{n} pictures are also in {other}",
        "Remove them from the data that pre-trains; else scores on the other data count pictures that were seen.",
        True,
    ),
    "contradiction": _Kind(
        "{n} pictures have copies with different labels",
        "Look at them, and keep one copy with the right label: no model can be right on all of them.",
        True,
    ),
    "untrained-class": _Kind(
        "{n} classes are scored but have no training images",
        "Add training images, or remove the class: the model cannot learn it.",
        True,
    ),
    "empty-class": _Kind(
        "{n} classes have a name but no training images",
        "Remove the names, or add images: the model gets an output that it never learns.",
        True,
    ),
    "rare-class": _Kind(
        "{n} classes have few training images",
        "Add images if you can; expect low recall there, and judge by macro-F1 rather than by accuracy.",
        False,
    ),
    "ends-grey": _Kind(
        "{n} images end in even grey",
        "Look at them: data may have been lost in the middle of the file; copy or download those files again.",
        False,
    ),
    "tiny": _Kind(
        "{n} images are much smaller than the others",
        "Look at them: icons and thumbnails often come in by mistake.",
        False,
    ),
    "long": _Kind(
        "{n} images are much longer than wide, or wider than long",
        "Look at them: a square crop shows little of them; cut them, or use --crop squash.",
        False,
    ),
    "duplicate": _Kind(
        "{n} pictures are there more than once in a split",
        "Keep one of each: copies weigh like several images, and where training holds out images itself, those "
        "that were saved again may lie on both sides.",
        False,
    ),
    "uncompared": _Kind(
        "{n} images of the other data cannot be read", "They were not compared; mend them to be sure.", False
    ),
}
KINDS = tuple(_KINDS)
_SINGULAR = {
    "images": "image", "pictures": "picture", "classes": "class", "are": "is", "have": "has", "claim": "claims",
    "end": "ends",
}  # fmt: skip


def find_problems(source: Source, scan: Scan, duplicates: Duplicates, summary: Summary) -> tuple[Finding, ...]:
    """All findings, those that matter most first.

    Args:
      scan: of the source, and of another one behind it if it was checked against one.
    """
    cases = {kind: list[Case]() for kind in KINDS}
    for index, (problem, reason) in sorted(scan.problems.items()):
        cases[problem if index < scan.num_own else "uncompared"].append(Case((index,), reason))
    for kind, case in _oddities(scan):
        cases[kind].append(case)
    for group in duplicates.groups:
        for kind, case in _copies(scan, group):
            cases[kind].append(case)
    for kind, case in _classes(source, summary):
        cases[kind].append(case)
    other = next((part.source for part in scan.parts if part.is_other), "")
    return tuple(
        Finding(kind, _title(known.title, len(found), other), known.advice, known.is_blocking, tuple(found))
        for kind, known in _KINDS.items()
        if (found := cases[kind])
    )


def label_text(scan: Scan, class_names: Sequence[str], index: int) -> str:
    """The class of an image in words; several joined by +; "" for an image of another source."""
    part, at = scan.locate(index)
    if part.is_other:
        return ""
    labels = np.asarray(part.split.labels[at])
    if np.ndim(labels) == 0:
        return class_names[int(labels)]
    return " + ".join(class_names[int(k)] for k in np.flatnonzero(labels)) or "no class"


def _oddities(scan: Scan) -> Iterator[tuple[str, Case]]:
    """Tiny, long and half grey images of the source itself. What most images are is not odd."""
    own = np.flatnonzero(scan.readable[: scan.num_own])
    if not len(own):
        return
    shorter, longer = scan.sizes[own].min(axis=1), scan.sizes[own].max(axis=1)
    aspect = longer / shorter
    min_side = min(MIN_SIDE, np.median(shorter) / 2)
    max_aspect = max(MAX_ASPECT, 2 * np.median(aspect))
    for index in own[shorter < min_side].tolist():
        yield "tiny", Case((index,), _size(scan, index))
    for index in own[aspect > max_aspect].tolist():
        yield "long", Case((index,), _size(scan, index))
    for index in own[scan.ends_grey[own]].tolist():
        yield "ends-grey", Case((index,), "the last block is the grey of missing data")


def _size(scan: Scan, index: int) -> str:
    height, width = scan.sizes[index].tolist()
    return f"{width} x {height} pixels"


def _copies(scan: Scan, group: NDArray[np.int64]) -> Iterator[tuple[str, Case]]:
    """What a group of copies means: a leak, a contradiction, or only a repetition."""
    places = [scan.locate(int(index)) for index in group]
    own = [i for i, (part, _) in enumerate(places) if not part.is_other]
    if not own:
        return  # copies within the other source are not ours to judge
    images = tuple(int(index) for index in group)
    mine = tuple(images[i] for i in own)
    names = [places[i][0].name for i in own]
    labels = [part.split.labels[at].tobytes() for part, at in (places[i] for i in own)]
    if len(own) < len(group):
        sides = [part.is_other for part, _ in places]
        yield "leak-against", Case(_spread(images, sides), _likeness(scan, images, sides))
    if len(set(names)) > 1:
        yield "leak", Case(_spread(mine, names), _likeness(scan, mine, names))
    if len(set(labels)) > 1:
        yield "contradiction", Case(_spread(mine, labels), _likeness(scan, mine, labels))
    elif len(set(names)) == 1 and len(mine) > 1:
        yield "duplicate", Case(mine, _likeness(scan, mine, list(range(len(mine)))))


def _spread(images: Sequence[int], sides: Sequence[object]) -> tuple[int, ...]:
    """The first image of each side, then the others: a reader who sees only a few sees what is at stake."""
    firsts = tuple(images[sides.index(side)] for side in dict.fromkeys(sides))
    return firsts + tuple(index for index in images if index not in firsts)


def _likeness(scan: Scan, images: Sequence[int], sides: Sequence[object]) -> str:
    """How alike copies are across sides (such as splits): the closest pair counts."""
    for digests, words in ((scan.content, "the same file"), (scan.pixels, "the same pixels")):
        seen: dict[bytes, object] = {}
        for index, side in zip(images, sides, strict=True):
            if seen.setdefault(digests[index].tobytes(), side) != side:
                return words
    return "nearly the same"


def _classes(source: Source, summary: Summary) -> Iterator[tuple[str, Case]]:
    train = summary.classes.get("train")
    if train is None:
        return
    scored = [name for name in summary.classes if name != "train"]
    usual = float(np.median(train[train > 0])) if train.any() else 0.0
    for k, name in enumerate(source.class_names):
        others = {split: int(summary.classes[split][k]) for split in scored if summary.classes[split][k]}
        if not train[k] and others:
            yield "untrained-class", Case((), f"{name}: " + ", ".join(f"{n:,} in {s}" for s, n in others.items()))
        elif not train[k]:
            yield "empty-class", Case((), name)
        elif train[k] < FEW_IMAGES or train[k] < RARE_SHARE * usual:
            yield "rare-class", Case((), f"{name}: {train[k]:,} (median of all classes: {usual:,.0f})")


def _title(template: str, count: int, other: str) -> str:
    """Fills in the count; "1 images cannot" becomes "1 image cannot"."""
    text = template.format(n=f"{count:,}", other=other)
    if count > 1:
        return text
    first, noun, verb, *rest = text.split(" ")
    return " ".join([first, _SINGULAR[noun], _SINGULAR.get(verb, verb), *rest])
