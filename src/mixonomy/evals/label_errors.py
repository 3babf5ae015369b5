"""Labels that are probably wrong, found by confident learning.

The threshold of a class is the mean probability that images with this label get for it: how sure the model usually is
of the class. An image is a suspect if a class that is not its label reaches that class's threshold; of several such
classes the most probable one is suggested. Suspects stand by the margin, probability of the suggested class less that
of the label, largest first. Beyond the paper, a suggestion must be more probable than the label and have `MIN_PROB`.

Only images that the model was not trained on can be judged so: of what it has memorised, it repeats the label.

Axes: B images in a batch, N images in all, K classes.

Source: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", equations 1
and 2 (the confident joint; its off-diagonal entries are the suspects) and section 3.2 (the margin, of "prune by noise
rate"). With several labels, each class is such a problem with the two classes "has it" and "has it not":
Thyagarajan et al. 2022, "Identifying incorrect annotations in multi-label classification data", section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_PROB = 0.1  # less is no suggestion; so an image has at most nine candidates, and memory a bound
NUM_LISTED = 24  # of the suspects, in test.json and in the report


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong: which, its label, the suggested class, and the probability of both."""

    index: int
    label: int
    suggested: int
    prob: float
    label_prob: float


class LabelCheck:
    """Collects what confident learning needs of images with one label each, batch by batch.

    Args:
      num_classes: K.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._prob_sums, self._counts = np.zeros(num_classes), np.zeros(num_classes, np.int64)
        self._candidates: list[NDArray[np.float64]] = []  # rows of (index, label, class, its probability, the label's)

    def add(self, probs: NDArray[np.float64], labels: NDArray[np.int64], indices: Sequence[int]) -> None:
        """Adds a batch: probabilities [B, K], labels [B] and which images of the split they are, [B]."""
        label_probs = probs[np.arange(len(labels)), labels]
        self._prob_sums += np.bincount(labels, weights=label_probs, minlength=self.num_classes)
        self._counts += np.bincount(labels, minlength=self.num_classes)
        rows, classes = np.nonzero((probs > label_probs[:, None]) & (probs >= MIN_PROB))
        found = (np.asarray(indices)[rows], labels[rows], classes, probs[rows, classes], label_probs[rows])
        self._candidates.append(np.stack(found, axis=1).astype(np.float64))

    def thresholds(self) -> NDArray[np.float64]:
        """Mean probability of each class among the images with this label, [K]; infinite where there are none."""
        return np.where(self._counts > 0, self._prob_sums / np.maximum(self._counts, 1), np.inf)

    def suspects(self) -> list[Suspect]:
        """All images whose label is probably wrong, the most certain first."""
        if not self._candidates:
            return []
        candidates = np.concatenate(self._candidates)
        candidates = candidates[candidates[:, 3] >= self.thresholds()[candidates[:, 2].astype(np.int64)]]
        # Of each image the most probable class; of equal ones the first.
        candidates = candidates[np.lexsort((candidates[:, 2], -candidates[:, 3], candidates[:, 0]))]
        candidates = candidates[np.unique(candidates[:, 0], return_index=True)[1]]
        order = np.lexsort((candidates[:, 0], candidates[:, 4] - candidates[:, 3]))
        return [Suspect(int(i), int(y), int(k), p, q) for i, y, k, p, q in candidates[order].tolist()]

    def to_dict(self) -> dict[str, Any]:
        """How many were found, and the first of them, for JSON."""
        found = self.suspects()
        return {"found": len(found), "listed": [vars(suspect) for suspect in found[:NUM_LISTED]]}


def multilabel_suspects(
    probs: NDArray[np.floating], labels: NDArray[np.bool_], indices: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Pairs of an image and a class that is probably missing in its label, or wrongly there; the most certain first.

    Args:
      probs: [N, K].
      labels: bool [N, K].
      indices: [N], which images of the split.
    Returns:
      Of each pair: index, class, is_label (whether the label has the class), prob (of the class) and label (the
      numbers of its classes).
    """
    num_with = labels.sum(0)
    num_without = len(labels) - num_with
    has = np.where(num_with > 0, (probs * labels).sum(0) / np.maximum(num_with, 1), np.inf)
    has_not = np.where(num_without > 0, ((1 - probs) * ~labels).sum(0) / np.maximum(num_without, 1), np.inf)
    is_missing = ~labels & (probs >= has) & (probs > 0.5)
    is_extra = labels & (1 - probs >= has_not) & (probs < 0.5)
    rows, classes = np.nonzero(is_missing | is_extra)
    order = np.lexsort((classes, indices[rows], -np.abs(probs[rows, classes] - 0.5)))
    return [
        {
            "index": int(indices[i]), "class": int(k), "is_label": bool(labels[i, k]), "prob": float(probs[i, k]),
            "label": np.flatnonzero(labels[i]).tolist(),
        }
        for i, k in zip(rows[order], classes[order], strict=True)
    ]  # fmt: skip
