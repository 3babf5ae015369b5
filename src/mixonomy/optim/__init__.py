"""Optimizers, schedules and losses."""

from mixonomy.optim.losses import Loss, class_weights, classification_loss, soft_targets
from mixonomy.optim.optimizers import make_optimizers, set_lr
from mixonomy.optim.schedules import lr_factor

__all__ = ["Loss", "class_weights", "classification_loss", "lr_factor", "make_optimizers", "set_lr", "soft_targets"]
