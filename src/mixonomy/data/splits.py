"""Which samples train, which choose, and which are scored once at the end."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.shards.images import ShardImages
from mixonomy.data.sources.base import Chained, Images, Labels, Picked, Source, Split
from mixonomy.data.sources.files import Files, PackedStrings
from mixonomy.data.sources.lazy import LARGE, LazyLabels, OneOfEach, joined_labels

TEST_SHARE = 0.1  # of a source that has a train split and nothing else
MAX_TEST = 100_000  # images, of one too large to look at: twice ImageNet's; a tenth of them would be days of work
_SPLIT_SEED = "mixonomy split 0"  # fixed: runs with other seeds are scored on the same images


@dataclass(frozen=True)
class Plan:
    """The splits of one training run.

    Args:
      train: what gradients see.
      val: what chooses (the best checkpoint); None if nothing is held out.
      test: what is scored once, at the end.
      test_name: the source's own name for it, "val" where it has no other.
    """

    train: Split
    val: Split | None
    test: Split
    test_name: str

    def describe(self) -> str:
        """One line for people."""
        val = f"{len(self.val):,} validation" if self.val else "no validation"
        return f"{len(self.train):,} training, {val} and {len(self.test):,} test images"


def plan_splits(
    source: Source, val_share: float, *, train_on_val: bool = False, train_images: int | None = None
) -> Plan:
    """Decides the splits by the rule that test is scored once and never chooses.

    A source's own val split chooses if it has a test split too. A source whose only other split is val
    is scored on it, and validation data comes out of train. Of a source with neither a tenth is scored, of a large one
    at most `MAX_TEST` images. Held-out slices are stratified by class and
    depend on the images' names and on which are the same file, not on their order or the seed.

    Args:
      val_share: share of train to hold out where no val split can choose; 0 holds out nothing.
      train_on_val: whether what would choose joins the training images, so that nothing chooses.
      train_images: take so many of train and val together, those held out among them; val as such is no more.
    Raises:
      ValueError: if there is no train split, or it has too few images, or it is too small to hold out anything.
    """
    if "train" not in source.splits:
        raise ValueError(f"{source.name} has no train split, only {', '.join(source.splits)}; training needs one.")
    train, val, test, test_name = source.splits["train"], None, source.splits.get("test"), "test"
    if test is not None:
        val = source.splits.get("val")
    elif "val" in source.splits:
        test, test_name = source.splits["val"], "val"
    else:
        is_few = not is_large(train)
        train, test = hold_out(train, TEST_SHARE if is_few else min(TEST_SHARE, MAX_TEST / len(train)))
        test_name = f"{'a tenth' if is_few else f'{len(test):,} images'} of {source.name}"
    if train_images is not None:
        train, val = first_images(train if val is None else joined_splits(train, val), train_images, source.name), None
    if train_on_val:
        return Plan(train if val is None else joined_splits(train, val), None, test, test_name)
    if val is None and val_share > 0:
        train, val = hold_out(train, val_share)
    return Plan(train, val, test, test_name)


def joined_splits(first: Split, second: Split) -> Split:
    """The samples of both, without copying images.

    Raises:
      ValueError: if they are too many to name one by one.
    """
    if is_large(first) or is_large(second):
        raise ValueError(
            f"train ({len(first):,} images) and val ({len(second):,}) are too many to join; pack them as one split."
        )
    names = PackedStrings([*first.names, *second.names])
    if isinstance(first.labels, LazyLabels) or isinstance(second.labels, LazyLabels):
        labels = cast(Labels, joined_labels(LazyLabels.of(first.labels), LazyLabels.of(second.labels)))
    else:
        labels = cast(Labels, np.concatenate([first.labels, second.labels]))
    return Split(Chained(first.images, second.images), labels, names)


def first_images(split: Split, count: int, source: str, option: str = "train_images") -> Split:
    """The images whose hashed names come first.

    Args:
      source, option: the data's name, and what asked for so many, for messages.
    Raises:
      ValueError: if there are fewer, or too many to name one by one.
    """
    if is_large(split):
        raise ValueError(
            f"{option} chooses by name, and {len(split):,} images are too many for that; name some of the shards."
        )
    if count > len(split):
        raise ValueError(f"{option} is {count:,} and {source} has {len(split):,} images for it; give fewer.")
    ranks = np.array([_rank(f"first/{name}") for name in split.names], dtype=np.uint64)
    return split.pick(np.sort(np.argsort(ranks, kind="stable")[:count]))


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Splits off a stratified share: (rest, held out).

    Of each class, `share` of its images whose hashed names come first: rounded, at least one if it has two, never all.
    Images of a class that are the same file stay together, and go to the rest where they are too many to hold out: a
    model must not be scored on what it learned from. An image with several classes counts for the rarest of them.

    Of shards with more than 2,097,152 images (`LARGE`) one image of every 1 / `share` is held out, by a fixed hash of
    the place, and nothing is looked at: not classes, not names, not copies.

    Raises:
      ValueError: if the split is too small to hold out anything.
    """
    if is_large(split):
        return _hold_out_by_place(split, share)
    ranks = np.array([_rank(name) for name in split.names], dtype=np.uint64)
    held: list[int] = []
    strata = _strata(split.labels)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        room = count
        for copies in _copies(split.images, members[np.argsort(ranks[members], kind="stable")].tolist()):
            if len(copies) <= room:
                held += copies
                room -= len(copies)
    chosen = np.zeros(len(split), dtype=bool)
    chosen[held] = True
    if not chosen.any():
        raise ValueError(
            f"{len(split)} images, no class with two different ones, are too few to hold out {share:.0%}; add images "
            f"(`mixonomy data check` shows copies)."
        )
    return split.pick(np.flatnonzero(~chosen)), split.pick(np.flatnonzero(chosen))


def is_large(split: Split) -> bool:
    """Whether its samples are too many to look at one by one before anything begins; only those of shards are."""
    return isinstance(split.labels, LazyLabels) and len(split) > LARGE


def _hold_out_by_place(split: Split, share: float) -> tuple[Split, Split]:
    is_most = share > 0.5
    block = max(ceil(1 / (1 - share if is_most else share) - 1e-9), 2)  # never more than the share
    few, most = (split.pick(OneOfEach(len(split), block, is_rest=rest)) for rest in (False, True))
    return (few, most) if is_most else (most, few)


def _strata(labels: Labels) -> NDArray[np.int64]:
    """The class of each image that decides where it goes, int64 [N]; K for images without a class."""
    if isinstance(labels, LazyLabels):
        return labels.rarest()
    if labels.ndim == 1:
        return labels.astype(np.int64)
    counts = labels.sum(0)
    num_classes = labels.shape[1]
    rarity = np.where(labels, counts, len(labels) + 1)  # [N, K]
    return np.where(labels.any(1), rarity.argmin(1) if num_classes else 0, num_classes).astype(np.int64)


def _copies(images: Images, members: Sequence[int]) -> list[list[int]]:
    """Groups members that are the same file, in the order of their first ones.

    Only those of equal size are read: of a class of photographs a few, so this costs little more than listing them.
    """
    sizes = [_num_bytes(images, index) for index in members]
    repeated = {size for size, count in Counter(sizes).items() if count > 1}
    groups: dict[object, list[int]] = {}
    for index, size in zip(members, sizes, strict=True):
        key = _digest(images, index) if size in repeated else size
        groups.setdefault(index if key is None else (size, key), []).append(index)
    return list(groups.values())


def _num_bytes(images: Images, index: int) -> int | None:
    """The size of an image file, without reading it where it lies on disk; None if it cannot be read."""
    if isinstance(images, Picked):
        return _num_bytes(images.images, int(images.indices[index]))
    if isinstance(images, Chained):
        count = len(images.first)
        return _num_bytes(images.first, index) if index < count else _num_bytes(images.second, index - count)
    try:
        if isinstance(images, Files):
            return os.stat(os.path.join(images.root, images.paths[index])).st_size
        if isinstance(images, ShardImages):
            return images.num_bytes(index)
        image = images[index]
    except OSError:
        return None
    return len(image) if isinstance(image, bytes) else image.nbytes


def _digest(images: Images, index: int) -> bytes | None:
    try:
        image = images[index]
    except OSError:
        return None
    return hashlib.blake2b(image if isinstance(image, bytes) else image.tobytes(), digest_size=16).digest()


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(f"{_SPLIT_SEED}/{name}")).digest()[:8], "little")
