"""Logistic regression on frozen features, its regularisation chosen on held-out images.

Axes: N images, C channels of the features, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixonomy.evals.features import Features, joined, top1
from mixonomy.evals.ridge import check, in_float64, standardisation

# From strong to weak: each solution is the start of the next search, and equal scores choose the stronger.
L2_GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MAX_ITERATIONS = 500


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Softmax regression on standardised features, see `fit`.

    Args:
      mean, std: float64 [C], of the images it was fitted to.
      weight: float64 [C, K].
      bias: float64 [K].
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, num_classes: int, l2: float) -> "LinearProbe":
        """Minimises the mean cross-entropy + l2 / 2 x the sum of the squared weights, in float64, by L-BFGS.

        The bias is not regularised. Features are standardised by their own mean and deviation.

        Args:
          features: float [N, C].
          labels: int64 [N] in [0, num_classes).
          l2: no unit, since features are standardised and the loss is a mean over images.
        Raises:
          ValueError: if shapes or labels do not fit, there are no images, a feature is not finite, or l2 is 0 or less.
        Source: torch.optim.LBFGS with strong Wolfe line search; scikit-learn's LogisticRegression(C=1 / (N l2)) has the
          same minimum.
        """
        check(features, labels, num_classes)
        (probe,) = _path(features, labels, num_classes, (l2,))
        return probe

    def scores(self, features: Tensor) -> Tensor:
        """float [N, C] -> float64 [N, K] logits."""
        return torch.cat(
            [_standardised(part, self.mean, self.std) @ self.weight for part in in_float64(features)]
        ).add_(self.bias)


@dataclass(frozen=True)
class LinearScores:
    """How a linear probe did.

    Args:
      top1: share of test images whose class it names.
      l2: what the held-out images chose.
      val_top1: the score that chose it, of a probe fitted without them.
      num_train: images it was fitted to in the end, the held-out ones included.
    """

    top1: float
    l2: float
    val_top1: float
    num_train: int

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value)."""
        yield "top1", self.top1
        yield "l2", self.l2
        yield "val_top1", self.val_top1


def linear_probe(
    train: Features, held_out: Features, test: Features, num_classes: int, l2_grid: Sequence[float] = L2_GRID
) -> LinearScores:
    """Chooses l2 on held-out images, fits again on them and the training images, and scores once on test images.

    Args:
      l2_grid: what to try, from strong to weak; of equal scores the first wins.
    """
    check(train.values, train.labels, num_classes)
    probes = _path(train.values, train.labels, num_classes, l2_grid)
    found = [(top1(probe, held_out), l2) for probe, l2 in zip(probes, l2_grid, strict=True)]
    val_top1, l2 = max(found, key=lambda pair: pair[0])  # the first of equal ones
    both = joined(train, held_out)
    probe = LinearProbe.fit(both.values, both.labels, num_classes, l2)
    return LinearScores(top1(probe, test), l2, val_top1, len(both))


def _path(features: Tensor, labels: Tensor, num_classes: int, l2_grid: Sequence[float]) -> Iterator[LinearProbe]:
    """The solutions for each l2, each search beginning where the one before ended."""
    mean, std = standardisation(features)
    x = torch.cat([_standardised(part, mean, std) for part in in_float64(features)])
    y = labels.to(x.device)
    weight = x.new_zeros(x.shape[1], num_classes).requires_grad_()
    bias = x.new_zeros(num_classes).requires_grad_()
    for l2 in l2_grid:
        if not l2 > 0.0:
            raise ValueError(f"l2 is {l2}; give more than 0.")
        _minimise(x, y, weight, bias, l2)
        yield LinearProbe(mean, std, weight.detach().clone(), bias.detach().clone())


def _minimise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, l2: float) -> None:
    """Moves weight and bias to the minimum."""
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(torch.addmm(bias, x, weight), y) + 0.5 * l2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)


def _standardised(part: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (part - mean) / std
