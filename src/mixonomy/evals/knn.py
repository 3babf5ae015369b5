"""The k nearest neighbours vote, each with a weight by its similarity: a look at features with nothing to fit.

Axes: N images, C channels of the features, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixonomy.evals.ridge import check

K_NEIGHBOURS = 20
TEMPERATURE = 0.07
ROWS = 1024


@dataclass(frozen=True, eq=False)
class KNN:
    """Labelled features to look for neighbours among.

    Args:
      bank: float32 [N, C], rows of length 1.
      labels: int64 [N].
      num_neighbours: k; all N where there are fewer.
      temperature: a neighbour of cosine similarity s votes with the weight exp(s / temperature).
    """

    bank: Tensor
    labels: Tensor
    num_classes: int
    num_neighbours: int
    temperature: float

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        num_neighbours: int = K_NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> "KNN":
        """Keeps the features, scaled to length 1. The number of neighbours is fixed, so that no data chooses it.

        Args:
          features: float [N, C].
          labels: int64 [N] in [0, num_classes).
        Raises:
          ValueError: if shapes or labels do not fit, there are no images, or a feature is not finite.
        Source: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section
          3.4 (weights and temperature); dino eval_knn.py (k = 20).
        """
        check(features, labels, num_classes)
        if num_neighbours < 1 or not temperature > 0.0:
            raise ValueError(
                f"num_neighbours is {num_neighbours} and temperature {temperature}; give at least 1, and more than 0."
            )
        return cls(_unit(features), labels, num_classes, min(num_neighbours, len(features)), temperature)

    def scores(self, features: Tensor) -> Tensor:
        """float [N, C] -> float32 [N, K], shares of the vote that sum to 1."""
        return torch.cat([self._votes(part) for part in features.split(ROWS)])

    def _votes(self, features: Tensor) -> Tensor:
        nearest = (_unit(features) @ self.bank.T).topk(self.num_neighbours, dim=1)
        votes = (nearest.values / self.temperature).softmax(1)
        return votes.new_zeros(len(votes), self.num_classes).scatter_add_(1, self.labels[nearest.indices], votes)


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)
