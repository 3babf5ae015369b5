"""Activation checkpointing: blocks that keep their input alone, and compute the rest again for the backward pass."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint

from mixonomy.models.timm_model import TimmModel


class CheckpointedBlocks(nn.Sequential):
    """Blocks in a row whose activations are computed a second time in the backward pass.

    Dropout and stochastic depth are drawn alike both times, and autocast stands as it stood.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Sequential."""
        if not self.training:
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False)
        return x


def checkpoint_blocks(model: nn.Module) -> None:
    """Turns activation checkpointing on, for good: block by block, or by timm's own rule for its models.

    Names of weights stay, and gradients stay the same to the bit on a CPU.

    Raises:
      ValueError: if the model has no `blocks` in a row and timm does not know how, or has BatchNorm, whose running
        means would move twice in a step.
    """
    name = type(model.body if isinstance(model, TimmModel) else model).__name__
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            f"checkpoint_blocks computes blocks twice, which would move the running means of {name}'s BatchNorm twice; "
            "use accumulate for less memory, or a model without BatchNorm."
        )
    blocks = getattr(model, "blocks", None)
    if isinstance(model, TimmModel):
        try:
            model.body.set_grad_checkpointing(True)
        except (AttributeError, AssertionError):
            raise ValueError(f"timm does not know how to checkpoint {name}; leave checkpoint_blocks out.") from None
    elif isinstance(blocks, nn.Sequential):
        model.blocks = CheckpointedBlocks(*blocks)
        model.blocks.train(blocks.training)
    else:
        raise ValueError(
            f"checkpoint_blocks needs a model that keeps its blocks in an nn.Sequential named `blocks`, and {name} "
            "does not; leave it out, or use accumulate for less memory."
        )
