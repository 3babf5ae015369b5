"""Scores a classifier with one class per image: one pass, exact sums, everything else derived from them.

Axes: B images in a batch, N images in all, K classes.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.evals.label_errors import LabelCheck
from mixonomy.evals.real import Real

CALIBRATION_BINS = 15  # Guo et al. 2017, "On calibration of modern neural networks", section 4
CONFUSION_CLASSES = 1000  # above this the K x K matrix is left out; per-class scores stay
NUM_WORST = 24
NUM_PAIRS = 10  # most confused pairs of classes that are listed


def check_probs(probs: Tensor, num_classes: int) -> None:
    """Refuses the outputs of a model [B, K'] that cannot be scored.

    Raises:
      ValueError: if there are more or fewer than there are classes, or they are not finite.
    """
    if probs.shape[1] != num_classes:
        raise ValueError(
            f"the model has {probs.shape[1]} outputs and the data {num_classes} classes; "
            f"give data with the model's classes."
        )
    if not bool(torch.isfinite(probs).all()):
        raise ValueError("the model's outputs are not finite; its weights have diverged. Train it with a lower --lr.")


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: which image, its label, what was predicted with which probability."""

    index: int
    label: int
    predicted: int
    prob: float
    label_prob: float


@dataclass
class Classification:
    """Sums over scored images, and the measures that follow from them.

    Args:
      num_classes: K.
      real: adds up beside it how many predictions ImageNet ReaL counts as right; nothing where not given.
    """

    num_classes: int
    real: Real | None = None
    n: int = 0
    top5_correct: int = 0
    nll_sum: float = 0.0
    hits: NDArray[np.int64] = field(init=False)
    labelled: NDArray[np.int64] = field(init=False)
    predicted: NDArray[np.int64] = field(init=False)
    confusion: NDArray[np.int64] | None = field(init=False)
    bin_counts: NDArray[np.int64] = field(init=False)
    bin_correct: NDArray[np.int64] = field(init=False)
    bin_confidence: NDArray[np.float64] = field(init=False)
    label_check: LabelCheck = field(init=False)
    _worst: list[tuple[float, int, Mistake]] = field(default_factory=list)
    _examples: dict[tuple[int, int], Mistake] = field(default_factory=dict)

    def __post_init__(self):
        k = self.num_classes
        self.hits, self.labelled, self.predicted = (np.zeros(k, np.int64) for _ in range(3))
        self.confusion = np.zeros((k, k), np.int64) if k <= CONFUSION_CLASSES else None
        self.bin_counts, self.bin_correct = (np.zeros(CALIBRATION_BINS, np.int64) for _ in range(2))
        self.bin_confidence = np.zeros(CALIBRATION_BINS)
        self.label_check = LabelCheck(k)

    headline: ClassVar[str] = "top1"
    """Name of the score that chooses among checkpoints."""

    def add(self, probs: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        """Adds a batch: probabilities float64 [B, K], labels int64 [B], both on the CPU.

        Args:
          indices: int64 [B], which images of the split; those that follow the ones before if not given.
        Raises:
          ValueError: if the model has another number of outputs than there are classes, or they are not finite.
        """
        check_probs(probs, self.num_classes)
        places = range(self.n, self.n + len(labels)) if indices is None else indices.tolist()
        top = probs.topk(min(5, self.num_classes), dim=1).indices
        predicted, confidence = top[:, 0], probs.gather(1, top[:, :1])[:, 0]
        label_prob = probs.gather(1, labels[:, None])[:, 0]
        correct = (predicted == labels).numpy()
        p, y = predicted.numpy(), labels.numpy()
        k = self.num_classes
        self.hits += np.bincount(y[correct], minlength=k)
        self.labelled += np.bincount(y, minlength=k)
        self.predicted += np.bincount(p, minlength=k)
        if self.confusion is not None:
            self.confusion += np.bincount(y * k + p, minlength=k * k).reshape(k, k)
        bins = np.minimum((confidence.numpy() * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        self.bin_counts += np.bincount(bins, minlength=CALIBRATION_BINS)
        self.bin_correct += np.bincount(bins[correct], minlength=CALIBRATION_BINS)
        self.bin_confidence += np.bincount(bins, weights=confidence.numpy(), minlength=CALIBRATION_BINS)
        self.nll_sum -= float(label_prob.clamp(min=1e-300).log().sum())
        self.top5_correct += int((top == labels[:, None]).sum())
        for i in np.flatnonzero(~correct):
            mistake = Mistake(places[i], int(y[i]), int(p[i]), float(confidence[i]), float(label_prob[i]))
            item = (mistake.prob - mistake.label_prob, -mistake.index, mistake)
            (heapq.heappush if len(self._worst) < NUM_WORST else heapq.heappushpop)(self._worst, item)
            known = self._examples.setdefault((mistake.label, mistake.predicted), mistake)
            if mistake.prob > known.prob:
                self._examples[mistake.label, mistake.predicted] = mistake
        self.label_check.add(probs.numpy(), y, places)
        if self.real is not None:
            self.real.add(probs, places)
        self.n += len(y)

    @property
    def top1(self) -> float:
        """Share of images whose most probable class is the label."""
        return int(self.hits.sum()) / self.n

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy - confidence|, weighted over 15 bins of equal width.

        Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.
        """
        return float(np.abs(self.bin_correct - self.bin_confidence).sum()) / self.n

    def sureness(self) -> dict[str, float]:
        """nll, ece and n: whether probabilities mean what they say."""
        return {"nll": self.nll_sum / self.n, "ece": self.ece, "n": self.n}

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Precision, recall, F1 and number of images of each class; None where nothing was labelled or predicted."""
        rows = []
        for hits, labelled, predicted in zip(self.hits, self.labelled, self.predicted, strict=True):
            rows.append(
                {
                    "precision": float(hits / predicted) if predicted else None,
                    "recall": float(hits / labelled) if labelled else None,
                    "f1": float(2 * hits / (labelled + predicted)) if labelled + predicted else None,
                    "n": int(labelled),
                }
            )
        return rows

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur among labels or predictions (scikit-learn's rule)."""
        return float(np.mean([row["f1"] for row in self.per_class() if row["f1"] is not None]))

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value) of the headline measures."""
        yield "top1", self.top1
        yield "top5", self.top5_correct / self.n
        yield "nll", self.nll_sum / self.n
        yield "ece", self.ece
        yield "macro_f1", self.macro_f1
        yield "n", self.n
        if self.real is not None:
            yield from self.real.scores()

    def worst(self) -> list[Mistake]:
        """The most confident mistakes, worst first."""
        return [mistake for *_, mistake in sorted(self._worst, key=lambda item: item[:2], reverse=True)]

    def confused_pairs(self) -> list[dict[str, Any]]:
        """The pairs of classes that are taken for one another most often, by the sum of both directions.

        Returns:
          Of each pair: classes (two numbers), counts (first seen as second, second seen as first), n (images of
          either class) and examples (of each direction the most confident mistake, None where there is none).
          Empty where the confusion matrix is left out.
        """
        if self.confusion is None:
            return []
        both = np.triu(self.confusion + self.confusion.T, 1)
        pairs = []
        for at in np.argsort(-both, axis=None, kind="stable")[:NUM_PAIRS]:
            i, j = divmod(int(at), self.num_classes)
            if not both[i, j]:
                break
            examples = [self._examples.get(pair) for pair in ((i, j), (j, i))]
            pairs.append(
                {
                    "classes": [i, j],
                    "counts": [int(self.confusion[i, j]), int(self.confusion[j, i])],
                    "n": int(self.labelled[i] + self.labelled[j]),
                    "examples": [None if mistake is None else vars(mistake) for mistake in examples],
                }
            )
        return pairs

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            **dict(self.scores()),
            "per_class": self.per_class(),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "calibration": {
                "counts": self.bin_counts.tolist(),
                "correct": self.bin_correct.tolist(),
                "confidence": self.bin_confidence.tolist(),
            },
            "worst": [vars(mistake) for mistake in self.worst()],
            "confused_pairs": self.confused_pairs(),
            "label_errors": self.label_check.to_dict(),
        }
