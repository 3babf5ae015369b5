"""Classification losses over soft targets.

Axes: B images, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mixonomy.choices import Loss

MAX_WEIGHT = 100.0  # of a class; a rarer one would drown the others in noise


def soft_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """int64 [B] or bool [B, K] -> float [B, K]: 1 for each label, less `label_smoothing`, spread over all K classes."""
    hot = functional.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels.float()
    return hot * (1.0 - label_smoothing) + hot.sum(1, keepdim=True) * (label_smoothing / num_classes)


def class_weights(counts: NDArray[np.int64], num_images: int, *, is_multilabel: bool) -> Tensor:
    """float32 [K]: what an image of each class weighs in the loss so that all classes weigh the same.

    Args:
      counts: int64 [K], training images of each class; where there are none the weight is 1.
      num_images: N.
      is_multilabel: then the weight of a yes is the number of noes for each; else N / (K n_k), whose mean over
        the images is 1 (scikit-learn's "balanced").
    """
    some = np.maximum(counts, 1)
    num_classes = max(int((counts > 0).sum()), 1)
    weights = (num_images - some) / some if is_multilabel else num_images / (num_classes * some)
    weights = np.where(counts > 0, np.clip(weights, 1.0 / MAX_WEIGHT, MAX_WEIGHT), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def classification_loss(
    logits: Tensor, targets: Tensor, loss: Loss, weights: Tensor | None = None, *, is_multilabel: bool = False
) -> Tensor:
    """Mean over images of the cross-entropy, in nats, as float32.

    Args:
      logits: float [B, K].
      targets: float [B, K].
      loss: "softmax", or "sigmoid": binary cross-entropies summed over the classes
        (big_vision utils.py, `sigmoid_xent`).
      weights: float [K] of `class_weights`: of images by their classes, or of each yes where `is_multilabel`.
    """
    logits = logits.float()
    if is_multilabel:
        entropies = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
        return entropies.sum(1).mean()
    if loss == "softmax":
        of_image = functional.cross_entropy(logits, targets, reduction="none")
    else:
        of_image = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
    return (of_image if weights is None else of_image * (targets @ weights)).mean()
