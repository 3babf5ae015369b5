"""Classification losses over soft targets.

Axes: B images, K classes.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Loss = Literal["softmax", "sigmoid"]


def soft_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """int64 [B] -> float [B, K]: 1 for the label, less `label_smoothing` that is spread over all K classes."""
    one_hot = functional.one_hot(labels, num_classes).float()
    return one_hot * (1.0 - label_smoothing) + label_smoothing / num_classes


def classification_loss(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Mean over images of the cross-entropy, in nats, as float32.

    Args:
      logits: float [B, K].
      targets: float [B, K], class weights.
      loss: "softmax", or "sigmoid": binary cross-entropies summed over the classes
        (big_vision utils.py, `sigmoid_xent`).
    """
    logits = logits.float()
    if loss == "softmax":
        return functional.cross_entropy(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
