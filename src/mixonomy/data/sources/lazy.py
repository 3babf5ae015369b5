"""Labels, names and choices of samples too many to hold in memory: computed, or read, where they are asked for.

Axes: N samples, n of them, K classes, M labels of all samples together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.stream import mix64

LARGE = 2**21  # samples of a split from here on are too many to name, to hash or to shuffle one by one
CHUNK = 2**20  # samples that are looked at together where all are


class Selection(Protocol):
    """Samples chosen by a rule: place -> index, rising."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: Any, /) -> Any:
        """An int -> int, int64 [n] -> int64 [n]."""
        ...


@dataclass(frozen=True)
class Stretch:
    """`count` successive samples from `first` on."""

    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: Any, /) -> Any:
        return places + self.first


@dataclass(frozen=True)
class OneOfEach:
    """One sample of each block of successive ones, by a fixed hash of the block's number, or all the others.

    Samples beyond the last whole block are among the others.

    Args:
      num_samples: N, of all.
      block: how many samples a block has, at least 2.
      is_rest: whether the others are meant.
    """

    num_samples: int
    block: int
    is_rest: bool = False

    def __len__(self) -> int:
        count = self.num_samples // self.block
        return self.num_samples - count if self.is_rest else count

    def __getitem__(self, places: Any, /) -> Any:
        at = np.asarray(places, dtype=np.int64)
        if not self.is_rest:
            found = at * self.block + self._offsets(at)
        else:
            blocks, within = np.divmod(at, self.block - 1)
            is_whole = blocks < self.num_samples // self.block
            # Beyond the whole blocks nothing is left out: as many places further as blocks lost one.
            found = np.where(
                is_whole,
                blocks * self.block + within + (within >= self._offsets(blocks)),
                at + self.num_samples // self.block,
            )
        return found if found.ndim else int(found)

    def _offsets(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which sample of each block is the one."""
        with np.errstate(over="ignore"):
            keys = mix64(mix64(np.atleast_1d(blocks).astype(np.uint64) + np.uint64(1)))
        return (keys % np.uint64(self.block)).astype(np.int64).reshape(blocks.shape)


@dataclass(frozen=True)
class Chain:
    """The samples of one choice after those of another, as a rule of rules."""

    first: Selection
    then: Selection  # places of `first`

    def __len__(self) -> int:
        return len(self.then)

    def __getitem__(self, places: Any, /) -> Any:
        return self.first[self.then[places]]


@dataclass(frozen=True, eq=False)
class LazyLabels:
    """Labels that stay where they are stored, as an array that is read in parts: int64 [N], or bool [N, K].

    Args:
      values: [M], class numbers, those of one sample after those of the other.
      ends: int64, where the labels of each stored sample end in `values`; None where each has one.
      num_classes: K.
      where: which of the stored samples these are.
    """

    values: NDArray[Any]
    ends: NDArray[np.int64] | None
    num_classes: int
    where: Selection

    @classmethod
    def of(cls, labels: Any) -> "LazyLabels":
        """Labels of images that may have several classes, whether they are in memory as bool [N, K] or lazy already."""
        if isinstance(labels, LazyLabels):
            return labels
        ends = np.cumsum(labels.sum(1), dtype=np.int64)
        return cls(np.nonzero(labels)[1], ends, labels.shape[1], Stretch(0, len(ends)))

    def __len__(self) -> int:
        return len(self.where)

    @property
    def ndim(self) -> int:
        """1, or 2 where a sample may have several classes."""
        return 1 if self.ends is None else 2

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,) or (N, K)."""
        return (len(self),) if self.ends is None else (len(self), self.num_classes)

    @property
    def dtype(self) -> np.dtype:
        """Of what is read."""
        return np.dtype(np.int64 if self.ends is None else np.bool_)

    def __getitem__(self, places: Any, /) -> Any:
        """An int -> int64 or bool [K]; a slice, a list or int64 [n] -> int64 [n] or bool [n, K]."""
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)), dtype=np.int64)
        at = self.where[np.atleast_1d(np.asarray(places, dtype=np.int64))]
        if self.ends is None:
            found = self.values[at].astype(np.int64)
        else:
            numbers, rows = self._labels_of(at)
            found = np.zeros((len(at), self.num_classes), dtype=np.bool_)
            found[rows, numbers] = True
        return found if np.ndim(places) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = self[:]
        return found if dtype is None else found.astype(dtype)

    def pick(self, selection: Selection) -> "LazyLabels":
        """Those of some of the samples."""
        return LazyLabels(self.values, self.ends, self.num_classes, Chain(self.where, selection))

    def counts(self) -> NDArray[np.int64]:
        """Number of samples of each class, int64 [K]; reads all labels once, a chunk at a time."""
        found = np.zeros(self.num_classes, dtype=np.int64)
        for at in self._chunks():
            numbers = self.values[at] if self.ends is None else self._labels_of(at)[0]
            found += np.bincount(numbers, minlength=self.num_classes)
        return found

    def rarest(self) -> NDArray[np.int64]:
        """The rarest class of each sample, the first where several are equally rare; K for none. int64 [N]."""
        if self.ends is None:
            return self[:]
        by_rarity = np.argsort(self.counts(), kind="stable")
        ranks = np.empty(self.num_classes, dtype=np.int64)
        ranks[by_rarity] = np.arange(self.num_classes)
        lowest = np.full(len(self), self.num_classes, dtype=np.int64)
        for first, at in zip(range(0, len(self), CHUNK), self._chunks(), strict=True):
            numbers, rows = self._labels_of(at)
            np.minimum.at(lowest, first + rows, ranks[numbers])
        return np.append(by_rarity, self.num_classes)[lowest]

    def _chunks(self) -> Iterator[NDArray[np.int64]]:
        """The stored places of all samples, CHUNK at a time."""
        for first in range(0, len(self), CHUNK):
            yield self.where[np.arange(first, min(first + CHUNK, len(self)), dtype=np.int64)]

    def _labels_of(self, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All labels of these stored samples, and which of them each belongs to. [n] -> [m], [m]"""
        assert self.ends is not None
        ends = self.ends[at].astype(np.int64)
        starts = np.where(at > 0, self.ends[np.maximum(at - 1, 0)], 0)
        lengths = ends - starts
        rows = np.repeat(np.arange(len(at)), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.values[np.repeat(starts, lengths) + within].astype(np.int64), rows


@dataclass(frozen=True, eq=False)
class PickedNames(Sequence[str]):
    """The names of some of the samples."""

    names: Sequence[str]
    where: Selection

    def __len__(self) -> int:
        return len(self.where)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.names[int(self.where[index % len(self)])]


def joined_labels(first: LazyLabels, second: LazyLabels) -> LazyLabels:
    """Those of both, where samples may have several classes; in memory, as many numbers as there are labels."""
    numbers, lengths = [], []
    for part in (first, second):
        for at in part._chunks():
            found, rows = part._labels_of(at)
            numbers.append(found)
            lengths.append(np.bincount(rows, minlength=len(at)))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    return LazyLabels(np.concatenate(numbers), ends, first.num_classes, Stretch(0, len(ends)))
