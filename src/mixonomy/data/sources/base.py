"""What a data set is: images that are read when asked for, their labels, and the names of the classes.

Axes: N images, K classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.sources.files import PackedStrings
from mixonomy.data.sources.lazy import LazyLabels, PickedNames, Selection

Encoded = bytes | NDArray[np.uint8]
"""An image file's bytes, or pixels [H, W] or [H, W, 3]."""

Labels = NDArray[np.int64] | NDArray[np.bool_]
"""int64 [N], the class of each image; or bool [N, K], the classes of each image, where it may have several or none.

Where they are too many to hold they are `LazyLabels`, which are indexed alike.
"""

SPLITS = ("train", "val", "test")


class Images(Protocol):
    """Random access to images."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Encoded:
        """The image at an index.

        Raises:
          OSError: if its file cannot be read.
        """
        ...


@runtime_checkable
class InSequence(Protocol):
    """Images that lie in large files, one after the other: best read from few places at a time."""

    def read_ahead(self, indices: NDArray[np.int64], /) -> None:
        """Tells that these images will be asked for soon; returns at once."""
        ...

    def prefetch(self, stretches: Sequence[range], /) -> None:
        """Tells that most images of these stretches will be asked for later; returns at once."""
        ...


@dataclass(frozen=True)
class Split:
    """Images with labels.

    Args:
      images: encoded files or pixel arrays.
      labels: int64 [N], or bool [N, K] where an image may have several.
      names: what to call each image in messages and reports; also decides what is held out for validation.
    """

    images: Images
    labels: Labels
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Encoded, Any]:
        """(image, label): the label is an int, or bool [K]."""
        return self.images[index], self.labels[index] if self.is_multilabel else int(self.labels[index])

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    def pick(self, indices: NDArray[np.int64] | Selection) -> "Split":
        """The samples at these indices, in this order, without copying images; by a rule, without copying anything."""
        if not isinstance(indices, np.ndarray):
            labels = cast(object, self.labels)
            assert isinstance(labels, LazyLabels), "rules are for samples too many to hold"
            return Split(
                Picked(self.images, indices), cast(Labels, labels.pick(indices)), PickedNames(self.names, indices)
            )
        names = PackedStrings(self.names[int(i)] for i in indices)
        return Split(Picked(self.images, indices), self.labels[indices], names)

    def counts(self, num_classes: int) -> NDArray[np.int64]:
        """Number of images of each class, int64 [K]."""
        labels = cast(object, self.labels)
        if isinstance(labels, LazyLabels):
            return labels.counts()
        if self.is_multilabel:
            return self.labels.sum(0, dtype=np.int64)
        return np.bincount(self.labels, minlength=num_classes)


@dataclass(frozen=True)
class Source:
    """A data set: its splits, and the names of its classes in label order.

    Args:
      channels: 3, or 1 where the images are grey by nature.
      notes: what a person should know before using it, such as folders that were left out; one sentence each.
      imagenet_indices: for each class its number among ImageNet's 1,000; empty where the data does not say.
      known_digest: what `digest` says, where it was computed before.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    channels: int = 3
    notes: tuple[str, ...] = ()
    imagenet_indices: tuple[int, ...] = ()
    known_digest: str = ""

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return any(split.is_multilabel for split in self.splits.values())

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell data sets apart by class names, image names and labels."""
        if self.known_digest:
            return self.known_digest
        digest = hashlib.sha256("\n".join(self.class_names).encode(errors="surrogateescape"))
        for name, split in sorted(self.splits.items()):
            digest.update("\n".join([name, *split.names]).encode(errors="surrogateescape") + split.labels.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Picked:
    """Some of the images, in an order of their own."""

    images: Images
    indices: NDArray[np.int64] | Selection

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Encoded:
        return self.images[int(self.indices[index])]


@dataclass(frozen=True)
class Chained:
    """The images of two splits, one after the other."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int, /) -> Encoded:
        count = len(self.first)
        return self.first[index] if index < count else self.second[index - count]


def read_ahead(images: Images, indices: NDArray[np.int64]) -> None:
    """Tells images that lie in sequence which of them will be asked for soon; nothing for others. indices [n]"""
    if isinstance(images, Picked):
        read_ahead(images.images, images.indices[indices])
    elif isinstance(images, Chained):
        count = len(images.first)
        read_ahead(images.first, indices[indices < count])
        read_ahead(images.second, indices[indices >= count] - count)
    elif isinstance(images, InSequence):
        images.read_ahead(indices)


def prefetch(images: Images, stretches: Sequence[range]) -> None:
    """Tells images that lie in sequence which stretches of them will be asked for later; nothing for others."""
    if isinstance(images, Picked):
        below = []
        for one in filter(None, stretches):
            found = range(int(images.indices[one.start]), int(images.indices[one.stop - 1]) + 1)
            # Else few of what lies between are wanted, or they were picked in another order.
            if len(found) < 3 * len(one):
                below.append(found)
        prefetch(images.images, below)
    elif isinstance(images, Chained):
        count = len(images.first)
        prefetch(images.first, [range(one.start, min(one.stop, count)) for one in stretches if one.start < count])
        above = [range(max(one.start, count) - count, one.stop - count) for one in stretches if one.stop > count]
        prefetch(images.second, above)
    elif isinstance(images, InSequence):
        images.prefetch(stretches)


def are_in_sequence(images: Images) -> bool:
    """Whether images lie in large files, one after the other, and are best read from few places at a time."""
    if isinstance(images, Picked):
        return are_in_sequence(images.images)
    if isinstance(images, Chained):
        return are_in_sequence(images.first) and are_in_sequence(images.second)
    return isinstance(images, InSequence)


def joined(source: str, parts: dict[str, tuple[Split, tuple[str, ...]]]) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Splits that were read one by one, each with class names of its own, with the class names of train.

    Args:
      source: name of the data set, for messages.
      parts: split -> (samples, class names in the order of its labels).
    Returns:
      The splits with labels in the order of the class names, and the class names: those of train, or of the
      first split where there is no train.
    Raises:
      ValueError: if a split has classes that train lacks; a model cannot know them.
    """
    first = "train" if "train" in parts else next(iter(parts))
    class_names = parts[first][1]
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    splits = {}
    for name, (split, names) in parts.items():
        if unknown := [class_name for class_name in names if class_name not in numbers]:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise ValueError(
                f"{name} of {source} has classes that {first} lacks: {', '.join(unknown[:5])}{more}; "
                f"all parts need the same classes, so add images of them to {first} or take them out."
            )
        if names != class_names:
            order = np.array([numbers[class_name] for class_name in names], dtype=np.int64)
            if split.is_multilabel:
                labels = np.zeros((len(split), len(class_names)), dtype=np.bool_)
                labels[:, order] = split.labels
            else:
                labels = order[split.labels]
            split = Split(split.images, labels, split.names)
        splits[name] = split
    return splits, class_names


def multi_hot(sets: Sequence[set[str]]) -> tuple[Labels, tuple[str, ...]]:
    """Sets of class names as bool [N, K], and the class names in order."""
    class_names = tuple(sorted(set().union(*sets)))
    numbers = {name: i for i, name in enumerate(class_names)}
    labels = np.zeros((len(sets), len(class_names)), dtype=np.bool_)
    for row, names in zip(labels, sets, strict=True):
        row[[numbers[name] for name in names]] = True
    return labels, class_names
