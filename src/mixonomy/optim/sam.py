"""Sharpness-aware minimisation: the gradient is taken where the loss is highest nearby, the step from where we are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mixonomy import parallel

TINY = 1e-12  # keeps a gradient of zero from becoming 0 / 0


@contextmanager
def ascended(model: nn.Module, rho: float) -> Iterator[None]:
    """Moves the weights by `rho` along their gradient, and at the end back to the bit; buffers go back too.

    The gradients are dropped, so that those computed inside are all that is there afterwards. That the buffers
    (running means, say) stay those of the first pass is the authors' choice as well.

    Args:
      model: with the gradient g of the whole batch; weights without one stay where they are.
      rho: length of the way, in the units of the weights: w + rho * g / ||g||, one 2-norm over all weights.
    Source: Foret et al. 2021, "Sharpness-Aware Minimization", equation 2 (p = 2) and algorithm 1;
      google-research/sam sam_jax/training_utils/flax_training.py, `get_sam_gradient`.
    """
    weights = [p for p in model.parameters() if p.grad is not None]
    moved = [*weights, *model.buffers()]
    before = [tensor.detach().clone() for tensor in moved]
    with torch.no_grad():
        gradients = [p.grad for p in weights if p.grad is not None]
        norm = parallel.whole(nn.utils.get_total_norm(gradients)).clamp(min=TINY)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.addcmul_(gradient, rho / norm)
    for weight in weights:
        weight.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(moved, before, strict=True):
                tensor.copy_(value)
