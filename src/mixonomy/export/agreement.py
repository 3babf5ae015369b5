"""Whether a file gives a model's own answers: its logits, its likeliest classes and its probabilities.

Axes: N images, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest difference between a file's logits and the model's in float32, times the largest logit where that is over 1.

float32 keeps 24 bits, so sums in another order differ by 1e-6 or so; what is computed otherwise differs by more.
"""


@dataclass(frozen=True)
class Agreement:
    """How the answers for the same images differ.

    Args:
      n: number of images.
      max_difference: the largest of the logits.
      max_prob_difference: the largest of the probabilities.
      tolerance: what is allowed for the logits; for the probabilities it is `TOLERANCE`.
      changed: images with another likeliest class.
      near_ties: those among them whose two likeliest classes are so close that the tolerance explains it.
    """

    n: int
    max_difference: float
    max_prob_difference: float
    tolerance: float
    changed: int
    near_ties: int

    @property
    def top1_agreement(self) -> float:
        """Share of images with the same likeliest class."""
        return 1.0 - self.changed / self.n

    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if not self.max_difference <= self.tolerance:  # also if it is not a number
            return f"its logits differ by up to {self.max_difference:.2g}, over the tolerance of {self.tolerance:.2g}"
        if not self.max_prob_difference <= TOLERANCE:
            return f"its probabilities differ by up to {self.max_prob_difference:.2g}, over {TOLERANCE:.2g}"
        if self.changed > self.near_ties:
            return f"it names other classes for {self.changed - self.near_ties} of {self.n} images"
        return None


def agreement(logits: Tensor, probs: Tensor, found_logits: Tensor, found_probs: Tensor) -> Agreement:
    """Compares the model's logits and probabilities with a file's, all [N, K]."""
    logits, probs, found_logits, found_probs = (x.double() for x in (logits, probs, found_logits, found_probs))
    largest = max(1.0, float(logits.abs().max()))
    tolerance = TOLERANCE * largest
    changed = logits.argmax(1) != found_logits.argmax(1)
    margins = torch.full((len(logits),), torch.inf, dtype=torch.float64)
    if logits.shape[1] > 1:
        best = logits.topk(2).values
        margins = best[:, 0] - best[:, 1]
    return Agreement(
        len(logits),
        _largest(found_logits - logits),
        _largest(found_probs - probs),
        tolerance,
        int(changed.sum()),
        int((changed & (margins <= 2 * tolerance)).sum()),  # each of the two may move by the tolerance
    )


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if bool(difference.isfinite().all()) else float("inf")
