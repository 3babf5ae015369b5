"""Layers for inference on a CPU that call oneDNN as directly as torch allows: what a model's layers are exchanged for.

What costs time beside the matrix products goes: weights are laid out for oneDNN once instead of at every call, bias
and GELU are done while a product's result is still in cache, and no tokens are transposed or copied for a skip.

Axes: B images, S tokens, C channels.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixonomy.nn import MLP, Block, TokenMLP
from mixonomy.nn.block import LayerScale

_onednn: Any = torch.ops.mkldnn  # the operators that torch.compile calls


class PackedLinear(nn.Module):
    """A linear layer with its weight in oneDNN's own layout.

    Args:
      linear: in the dtype of the inputs.
      gelu: "tanh" or "none" (the exact one) to apply it to the output, as `nn.GELU` names its kinds.
    """

    def __init__(self, linear: nn.Linear, gelu: str | None = None):
        super().__init__()
        self.weight, self.bias = _onednn._reorder_linear_weight(linear.weight.detach()), detached(linear.bias)
        self.after = ("none", [], "") if gelu is None else ("gelu", [], gelu)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return _onednn._linear_pointwise(x, self.weight, self.bias, *self.after)


class PackedMLP(nn.Module):
    """`mixonomy.nn.MLP` without dropout."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.fc1, self.fc2 = PackedLinear(mlp.fc1, mlp.act.approximate), PackedLinear(mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.fc2(self.fc1(x))


class PackedBlock(nn.Module):
    """The block of a Mixer: tokens are mixed from the left, W [S', S] @ y [B, S, C], and both skips add in place.

    Args:
      block: of token MLP and channel MLP, without layer scale; what comes in is overwritten.
    """

    def __init__(self, block: Any):
        super().__init__()
        tokens: TokenMLP = block.token_mixer
        self.norm1, self.norm2, self.channel_mixer = block.norm1, block.norm2, PackedMLP(block.channel_mixer)
        self.weight1, self.bias1 = tokens.fc1.weight.detach(), tokens.fc1.bias.detach().unsqueeze(1)
        self.weight2, self.bias2 = tokens.fc2.weight.detach(), tokens.fc2.bias.detach().unsqueeze(1)
        self.gelu = tokens.act.approximate

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        hidden = F.gelu(torch.matmul(self.weight1, self.norm1(x)).add_(self.bias1), approximate=self.gelu)
        x = x.baddbmm_(self.weight2.expand(len(x), -1, -1), hidden).add_(self.bias2)
        return self.channel_mixer(self.norm2(x)).add_(x)


class PatchLinear(nn.Module):
    """A convolution whose windows do not overlap, as a linear layer on the values of each window."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.window = conv.kernel_size
        self.weight, self.bias = conv.weight.detach().flatten(1), detached(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, C, H/P, W/P], channels last in memory."""
        height, width = self.window
        # [B, c, H/P, P, W/P, P] -> [B, H/P, W/P, c, P, P] -> [B, H/P, W/P, c P P]
        windows = x.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(windows, self.weight, self.bias).permute(0, 3, 1, 2)


def packed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model for inference on a CPU, with its layers exchanged for those above.

    Of a model that is not of our own layers, only linear layers and patch embeddings are.

    Args:
      model: images [B, c, H, W] -> logits [B, K]; left as it is.
      dtype: of images, weights and of what is computed; sums inside a product are float32.
    """
    twin = copy.deepcopy(model).eval().to(dtype)
    for module in twin.modules():
        # The exact form is the faster of the two on a CPU. They differ by less than 5e-4, and bfloat16 rounds a value
        # of 1 by up to 4e-3.
        if isinstance(module, nn.GELU) and dtype == torch.bfloat16:
            module.approximate = "none"
    return exchange(twin)


def exchange(module: nn.Module) -> nn.Module:
    """Exchanges the layers of a module, in place; returns it, or what it is exchanged for itself."""
    kind: Any = type(module)  # a subclass may compute something else
    layer: Any = module
    if kind is nn.Conv2d and is_patch_embedding(layer):
        return PatchLinear(layer)
    if kind is Block and is_plain_mixer(layer):
        return PackedBlock(layer)
    if kind in _EXCHANGES:
        return _EXCHANGES[kind](layer)
    for name, child in module.named_children():
        setattr(module, name, exchange(child))
    return module


_EXCHANGES = {MLP: PackedMLP, nn.Linear: PackedLinear}


def is_plain_mixer(block: Block) -> bool:
    """Whether a block is a token MLP and a channel MLP, with nothing on the branches but their norms."""
    mixers = (type(block.token_mixer), type(block.channel_mixer))
    return mixers == (TokenMLP, MLP) and not any(isinstance(s, LayerScale) for s in (block.scale1, block.scale2))


def is_patch_embedding(conv: nn.Conv2d) -> bool:
    """Whether a convolution's windows cover the image once, without gaps or overlap."""
    is_plain = conv.groups == 1 and conv.padding in ((0, 0), "valid") and conv.dilation == (1, 1)
    return is_plain and conv.kernel_size == conv.stride and conv.kernel_size != (1, 1)


def detached(bias: Tensor | None) -> Tensor | None:
    """A bias without its gradient, where there is one."""
    return None if bias is None else bias.detach()
