"""Scores a classifier where an image may have several classes, or none.

Axes: B images in a batch, N images in all, K classes.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.evals.classify import NUM_WORST, check_probs
from mixonomy.evals.label_errors import NUM_LISTED, multilabel_suspects

MAX_KEPT = 2**28  # pairs of image and class whose probability and label are kept: 1.3 GB


class MultiLabel:
    """Probabilities and labels of scored images, and the measures that follow from them.

    Where there are more than `MAX_KEPT` of them, of tens of thousands of classes, those of every second image stay, or
    every fourth and so on, by the image's index; measures but `nll` and `n` are of these then.

    Args:
      num_classes: K.
      thresholds: probability from which each class is predicted; 0.5 for all if not given.
    """

    headline: ClassVar[str] = "map"
    """Name of the score that chooses among checkpoints."""

    def __init__(self, num_classes: int, thresholds: Sequence[float] = ()):
        self.num_classes, self.n = num_classes, 0
        self.thresholds = np.array(thresholds or [0.5] * num_classes)
        self._probs: list[NDArray[np.float32]] = []  # in float32: 80 classes of 100,000 images are 32 MB
        self._labels: list[NDArray[np.bool_]] = []
        self._places: list[NDArray[np.int64]] = []
        self._stride = 1
        self._nll_sum = 0.0
        self._worst: list[tuple[float, int, int, dict[str, Any]]] = []

    def add(self, probs: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        """Adds a batch: probabilities float64 [B, K], labels bool [B, K], both on the CPU.

        Args:
          indices: int64 [B], which images of the split; those that follow the ones before if not given.
        Raises:
          ValueError: if the model has another number of outputs than there are classes, or they are not finite.
        """
        check_probs(probs, self.num_classes)
        p, y = probs.numpy(), labels.numpy()
        at = np.arange(self.n, self.n + len(y)) if indices is None else indices.numpy()
        places = at.tolist()
        of_truth = np.where(y, p, 1.0 - p)  # probability of what is true, [B, K]
        self._nll_sum -= float(np.log(np.maximum(of_truth, 1e-300)).sum())
        for i, k in np.argwhere((p >= self.thresholds) != y):
            mistake = {
                "index": places[i], "class": int(k), "is_label": bool(y[i, k]), "prob": float(p[i, k]),
                "label": np.flatnonzero(y[i]).tolist(),
            }  # fmt: skip
            item = (-float(of_truth[i, k]), -places[i], -int(k), mistake)
            (heapq.heappush if len(self._worst) < NUM_WORST else heapq.heappushpop)(self._worst, item)
        self._keep(p.astype(np.float32), y, at)
        self.n += len(y)

    def _keep(self, probs: NDArray[np.float32], labels: NDArray[np.bool_], places: NDArray[np.int64]) -> None:
        chosen = places % self._stride == 0
        self._probs.append(probs[chosen])
        self._labels.append(labels[chosen])
        self._places.append(places[chosen])
        while sum(map(len, self._places)) * self.num_classes > MAX_KEPT:
            probs, labels, places = self._all()
            self._stride *= 2
            chosen = places % self._stride == 0
            if not chosen.any():  # of a few images of very many classes
                self._stride //= 2
                return
            self._probs, self._labels, self._places = [probs[chosen]], [labels[chosen]], [places[chosen]]

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Of each class: precision, recall and F1 at its threshold, average precision, and how many images have it.

        None where there is nothing to divide by.
        """
        probs, labels, _ = self._all()
        predicted = probs >= self.thresholds.astype(np.float32)
        rows = []
        for k in range(self.num_classes):
            hits, n, said = int((predicted[:, k] & labels[:, k]).sum()), int(labels[:, k].sum()), predicted[:, k].sum()
            rows.append(
                {
                    "precision": float(hits / said) if said else None,
                    "recall": hits / n if n else None,
                    "f1": float(2 * hits / (n + said)) if n + said else None,
                    "ap": average_precision(probs[:, k], labels[:, k]) if n else None,
                    "threshold": float(self.thresholds[k]),
                    "n": n,
                }
            )
        return rows

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value) of the headline measures.

        map: mean average precision over the classes that some image has. micro_f1: over all (image, class) pairs at
        the thresholds. macro_f1: mean over classes that occur among labels or predictions. exact: share of images
        with exactly the right classes. nll: binary cross-entropy summed over classes, per image, in nats.
        """
        probs, labels, _ = self._all()
        predicted = probs >= self.thresholds.astype(np.float32)
        rows = self.per_class()
        of_classes = [row["ap"] for row in rows if row["ap"] is not None]
        f1s = [row["f1"] for row in rows if row["f1"] is not None]
        pairs = int(predicted.sum() + labels.sum())
        yield "map", float(np.mean(of_classes)) if of_classes else 0.0
        yield "micro_f1", float(2 * (predicted & labels).sum() / pairs) if pairs else 1.0
        yield "macro_f1", float(np.mean(f1s)) if f1s else 1.0
        yield "exact", float((predicted == labels).all(1).mean())
        yield "nll", self._nll_sum / self.n
        yield "n", self.n

    def worst(self) -> list[dict[str, Any]]:
        """The most confident mistakes, worst first: image, class, its probability, and whether the image has it."""
        return [mistake for *_, mistake in sorted(self._worst, key=lambda item: item[:3], reverse=True)]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            **dict(self.scores()),
            **({"measured_images": len(self._all()[2])} if self._stride > 1 else {}),
            "per_class": self.per_class(),
            "worst": self.worst(),
            "label_errors": self.label_errors(),
        }

    def label_errors(self) -> dict[str, Any]:
        """Pairs of image and class whose label is probably wrong: how many were found, and the first of them."""
        found = multilabel_suspects(*self._all())
        return {"found": len(found), "listed": found[:NUM_LISTED]}

    def _all(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        if len(self._probs) > 1:
            self._probs, self._labels = [np.concatenate(self._probs)], [np.concatenate(self._labels)]
            self._places = [np.concatenate(self._places)]
        return self._probs[0], self._labels[0], self._places[0]


def average_precision(probs: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve as a step function: sum of (recall step) x precision.

    Args:
      probs: [N].
      labels: bool [N], with at least one True.
    Source: scikit-learn's `average_precision_score` (no interpolation; equal probabilities are one step).
    """
    order = np.argsort(-probs, kind="stable")
    hits = np.cumsum(labels[order])
    is_step = np.append(probs[order][:-1] != probs[order][1:], True)
    at = np.flatnonzero(is_step)
    recall_steps = np.diff(hits[at], prepend=0) / hits[-1]
    return float((recall_steps * hits[at] / (at + 1)).sum())
