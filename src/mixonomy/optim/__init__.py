"""Optimizers, schedules and losses."""

from mixonomy.optim.losses import classification_loss, soft_targets
from mixonomy.optim.optimizers import make_optimizers, set_lr
from mixonomy.optim.schedules import lr_factor

__all__ = ["classification_loss", "lr_factor", "make_optimizers", "set_lr", "soft_targets"]
