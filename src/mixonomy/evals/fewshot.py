"""Few-shot accuracy: a ridge classifier on the frozen features of a few images of each class, over several draws.

Axes: N images, K classes.
"""

import hashlib
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data import Split
from mixonomy.evals.features import Features, top1
from mixonomy.evals.ridge import RidgeProbe

SHOTS = (1, 5, 10, 25)  # Source: big_vision configs/common_fewshot.py
NUM_SEEDS = 3


@dataclass(frozen=True)
class FewShot:
    """Accuracy with a number of images of each class.

    Args:
      shots: images of each class that were asked for.
      top1: for each seed, the share of test images whose class is named; one value where a draw takes all images, since
        there is no other draw.
      num_support: images that were there in the draw that has fewest.
      num_short: classes with fewer images than were asked for; they gave all they have.
    """

    shots: int
    top1: tuple[float, ...]
    num_support: int
    num_short: int

    @property
    def mean(self) -> float:
        """Mean top-1 over the seeds."""
        return statistics.fmean(self.top1)

    @property
    def std(self) -> float | None:
        """Standard deviation of a sample over the seeds; None of one seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value): the mean, its deviation, and each seed."""
        yield f"{self.shots}shot", self.mean
        if self.std is not None:
            yield f"{self.shots}shot_std", self.std
        for seed, value in enumerate(self.top1):
            yield f"{self.shots}shot_seed{seed}", value


def draw_support(split: Split, shots: int, seed: int) -> NDArray[np.int64]:
    """Draws images of each class without replacement: those whose hashed names come first.

    A pure function of the seed and the images' names and labels: the order of the images does not matter, and
    the draw for fewer shots is part of the draw for more. A class with fewer images gives all it has.

    Returns:
      Indices of the split, rising.
    """
    ranks = [hashlib.sha256(os.fsencode(f"mixonomy few-shot {seed}/{name}")).digest() for name in split.names]
    left = dict.fromkeys(np.unique(split.labels).tolist(), shots)
    chosen = []
    for index in sorted(range(len(split)), key=ranks.__getitem__):
        label = int(split.labels[index])
        if left[label]:
            left[label] -= 1
            chosen.append(index)
    return np.array(sorted(chosen), dtype=np.int64)


def few_shot(
    split: Split,
    train: Features,
    test: Features,
    num_classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    num_seeds: int = NUM_SEEDS,
) -> Iterator[FewShot]:
    """Fits and scores a `RidgeProbe` for each number of shots and each seed. Nothing is chosen, so no data chooses.

    Args:
      split: the images to draw from.
      train: features of at least the images that are drawn.
      test: features of all images to score on.
    Source: big_vision evaluators/fewshot_lsr.py; MLP-Mixer paper, section 3.
    """
    counts = split.counts(num_classes)
    for number in shots:
        scores, sizes = [], []
        for seed in range(num_seeds):
            drawn = draw_support(split, number, seed)
            support = train.of_images(drawn)
            probe = RidgeProbe.fit(support.values, support.labels, num_classes)
            scores.append(top1(probe, test))
            sizes.append(len(support))
            if len(drawn) == len(split):
                break
        yield FewShot(number, tuple(scores), min(sizes), int((counts < number).sum()))
