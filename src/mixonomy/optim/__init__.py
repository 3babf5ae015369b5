"""Optimizers, schedules and losses."""

from mixonomy.optim.losses import Loss, class_weights, classification_loss, soft_targets
from mixonomy.optim.optimizers import LR, make_optimizers, peak_lr, peak_rest_lr, set_lr
from mixonomy.optim.sam import ascended
from mixonomy.optim.schedules import lr_factor

__all__ = [
    "LR",
    "Loss",
    "ascended",
    "class_weights",
    "classification_loss",
    "lr_factor",
    "make_optimizers",
    "peak_lr",
    "peak_rest_lr",
    "set_lr",
    "soft_targets",
]
