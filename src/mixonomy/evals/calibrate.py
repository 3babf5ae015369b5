"""What is chosen on validation data after training: one temperature, or a threshold for each class.

Axes: N images, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixonomy import parallel

MAX_IMAGES = 20_000  # more say nothing new about one number per class, and K probabilities of each take memory
MAX_PROBS = 2**26  # of all images together: half a gigabyte, of which fitting needs several times, on each rank
MAX_TEMPERATURE = 20.0
HALVINGS = 50


def collect(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor, Tensor]], total: int, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.int64]]:
    """Probabilities [N, K], labels (int64 [N] or bool [N, K]) and indices [N] of some images.

    Of more than `MAX_IMAGES`, or than `MAX_PROBS` probabilities, of every k-th one: the first ones would be those of a
    few classes where images are sorted.

    Args:
      total: number of images in the split.
      num_classes: K.
    """
    stride = max(-(-total // MAX_IMAGES), -(-total * num_classes // MAX_PROBS))

    def own() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for images, labels, indices in batches:
            chosen = indices % stride == 0
            if chosen.any():
                yield predict(images[chosen]), labels[chosen], indices[chosen]

    kept = list(parallel.in_turn(own()))
    probs, labels, indices = (torch.cat(parts).numpy() for parts in zip(*kept, strict=True))
    return probs, labels, indices


def fit_temperature(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The T for which softmax(log(probs) / T) has the smallest negative log-likelihood; 1 / T is found by bisection.

    The likelihood is concave in 1 / T, so its slope has one zero. One more image whose class could be any is added
    to the N (Laplace's rule): few images without a mistake do not make a model infinitely sure.

    Args:
      probs: [N, K].
      labels: int64 [N].
    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
    """
    logs = np.log(np.maximum(probs, 1e-300))
    of_any = 1.0 / (len(labels) + 1)
    of_label = float((1.0 - of_any) * logs[np.arange(len(labels)), labels].mean() + of_any * logs.mean())

    def slope(inverse: float) -> float:
        scaled = logs * inverse
        weights = np.exp(scaled - scaled.max(1, keepdims=True))
        return of_label - float(((weights * logs).sum(1) / weights.sum(1)).mean())

    low, high = 1.0 / MAX_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 1.0 / (low * high) ** 0.5


def tempered(probs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """softmax(log(probs) / T), [N, K]."""
    scaled = np.log(np.maximum(probs, 1e-300)) / temperature
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def choose_thresholds(probs: NDArray[np.float64], labels: NDArray[np.bool_]) -> list[float]:
    """For each class the probability above which predicting it gives the best F1; 0.5 where no image has the class.

    Halfway between two neighbouring probabilities, so that rounding changes no prediction; of equal F1 the highest.

    Args:
      probs: [N, K].
      labels: bool [N, K].
    """
    thresholds = []
    for of_class, has_class in zip(probs.T, labels.T, strict=True):
        if not has_class.any():
            thresholds.append(0.5)
            continue
        order = np.argsort(-of_class, kind="stable")
        sorted_probs, hits = of_class[order], np.cumsum(has_class[order])
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        f1[:-1][sorted_probs[:-1] == sorted_probs[1:]] = -1.0  # no threshold stands between equal ones
        best = int(f1.argmax())
        below = sorted_probs[best + 1] if best + 1 < len(hits) else 0.0
        thresholds.append(float((sorted_probs[best] + below) / 2))
    return thresholds
