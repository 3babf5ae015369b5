"""The closed-form few-shot classifier: least squares from frozen features to targets of -1 and +1, regularised.

Axes: N images, C channels of the features, D = C + 1 with the constant column, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BIAS_FEATURE = 100.0  # so large that the bias is hardly regularised
STD_EPS = 1e-5
ROWS = 8192  # taken to float64 at a time: memory grows with D^2 and not with N


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """A linear classifier on standardised features, see `fit`.

    Args:
      mean, std: float64 [C], of the support set; std with 1e-5 added.
      weights: float64 [C + 1, K], the last row for the constant column of 100.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, num_classes: int, l2: float = 1024.0) -> "RidgeProbe":
        """Fits the classifier; there is one solution, so nothing depends on a seed or a number of steps.

        Features are standardised by their own mean and deviation and get a constant column of 100. Everything is
        computed in float64: by the D x D equations where N >= D, else by the N x N ones, which have the same solution.

        Args:
          features: float [N, C], one row per image, of any precision; their device does the work (for MPS the CPU).
          labels: int64 [N] in [0, num_classes).
          num_classes: K; a class without images is fitted to -1 everywhere.
          l2: added to the diagonal of the Gram matrix; no unit, since features are standardised.
        Raises:
          ValueError: if shapes or labels do not fit, there are no images, a feature is not finite, or l2 is 0 or less.
        Source: big_vision evaluators/fewshot_lsr.py and configs/common_fewshot.py; ViT paper, section 4.1.
        """
        check(features, labels, num_classes)
        if not l2 > 0.0:
            raise ValueError(f"l2 is {l2}; give more than 0.")
        mean, std = standardisation(features)
        labels = labels.to(mean.device)
        dim = features.shape[1] + 1
        if len(features) >= dim:
            gram, sums = mean.new_zeros(dim, dim), mean.new_zeros(num_classes, dim)
            start = 0
            for x in _designs(features, mean, std):
                gram.addmm_(x.T, x)
                sums.index_add_(0, labels[start : start + len(x)], x)
                start += len(x)
            right = 2.0 * sums - sums.sum(0)  # X'Y for targets of -1 and +1, [K, D]
            weights = _solve(gram, right.T, l2)
        else:
            x = torch.cat(list(_designs(features, mean, std)))
            targets = 2.0 * torch.nn.functional.one_hot(labels, num_classes).double() - 1.0
            weights = x.T @ _solve(x @ x.T, targets, l2)
        return cls(mean, std, weights)

    def scores(self, features: Tensor) -> Tensor:
        """float [N, C] -> float64 [N, K]; the largest of a row names the class. No probabilities."""
        return torch.cat([x @ self.weights for x in _designs(features, self.mean, self.std)])


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and deviation (that of the whole, not of a sample) plus 1e-5, of each feature: float64 [C], two passes."""
    count = len(features)
    mean = torch.stack([part.sum(0) for part in in_float64(features)]).sum(0) / count
    square = torch.stack([(part - mean).square().sum(0) for part in in_float64(features)]).sum(0) / count
    return mean, square.sqrt() + STD_EPS


def in_float64(features: Tensor) -> Iterator[Tensor]:
    """The rows in float64, `ROWS` at a time; on the CPU where their device has no float64."""
    for part in features.split(ROWS):
        yield (part.cpu() if part.device.type == "mps" else part).double()


def check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Refuses what no probe can be fitted to.

    Raises:
      ValueError: naming what is wrong.
    """
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(
            f"features are {list(features.shape)} and labels {list(labels.shape)}; give [N, C] and [N], N the same."
        )
    if not len(features):
        raise ValueError("there are no features to fit to; give at least one image.")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}; give class numbers, int64.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels are from {low} to {high} and there are {num_classes} classes; they count from 0.")
    if not all(bool(torch.isfinite(part).all()) for part in features.split(ROWS)):
        raise ValueError("features are not finite; the model's weights have diverged.")


def _designs(features: Tensor, mean: Tensor, std: Tensor) -> Iterator[Tensor]:
    """Standardised features with the constant column, float64 [at most ROWS, D] at a time."""
    for part in in_float64(features):
        x = part.new_full((len(part), part.shape[1] + 1), BIAS_FEATURE)
        torch.div(part - mean, std, out=x[:, :-1])
        yield x


def _solve(gram: Tensor, right: Tensor, l2: float) -> Tensor:
    """(gram + l2 I)^-1 right; overwrites gram."""
    gram.diagonal().add_(l2)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
