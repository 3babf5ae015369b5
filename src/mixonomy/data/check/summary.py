"""What a data set consists of: images per class and split, sizes, formats, colour modes.

Axes: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data import Source
from mixonomy.data.check.scan import Scan


@dataclass(frozen=True)
class Summary:
    """Counts over the source's own images; all but `classes` over the readable ones.

    Args:
      classes: split -> int64 [K], images per class, unreadable ones included.
      sizes: (shorter side in words, number of images), smallest first.
      median_size: height and width in pixels; (0, 0) if nothing can be read.
      formats, modes: name -> number of images, most frequent first.
      num_turned: images that are turned or mirrored by their EXIF tag.
    """

    classes: dict[str, NDArray[np.int64]]
    sizes: tuple[tuple[str, int], ...]
    median_size: tuple[int, int]
    formats: dict[str, int]
    modes: dict[str, int]
    num_turned: int


def summarise(source: Source, scan: Scan) -> Summary:
    """Counts what a scan has seen of its source."""
    own = scan.sizes[: scan.num_own][scan.readable[: scan.num_own]]
    height, width = (int(np.median(own[:, axis])) if len(own) else 0 for axis in (0, 1))
    return Summary(
        classes={name: class_counts(split.labels, len(source.class_names)) for name, split in source.splits.items()},
        sizes=_size_histogram(own.min(axis=1)),
        median_size=(height, width),
        formats=_by_count(scan.formats),
        modes=_by_count(scan.modes),
        num_turned=int(scan.turned[: scan.num_own].sum()),
    )


def class_counts(labels: NDArray, num_classes: int) -> NDArray[np.int64]:
    """Images per class. labels int64 [N], or bool [N, K] where an image may have several classes. -> [K]"""
    if labels.ndim == 2:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def _size_histogram(shorter: NDArray[np.int32]) -> tuple[tuple[str, int], ...]:
    """Shorter sides in bins that double: below 8, 8 to 15, 16 to 31, and so on; no empty bins at the ends."""
    if not len(shorter):
        return ()
    bins = np.maximum(np.log2(np.maximum(shorter, 1)).astype(int), 2)
    counts = np.bincount(bins)
    names = (f"{2**b} to {2 ** (b + 1) - 1}" if b > 2 else "below 8" for b in range(len(counts)))
    return tuple((name, int(n)) for name, n in zip(names, counts, strict=True))[bins.min() :]


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
