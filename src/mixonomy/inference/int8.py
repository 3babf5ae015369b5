"""Channel MLPs in 8-bit integers, on a CPU: weights by rows, activations by ranges that calibration images gave.

A real value is scale * (integer - zero point). Weights are int8 with a scale for each output and zero point 0 (-127 to
127), activations uint8 with one scale and zero point for each tensor. Sums are 32-bit integers, so only rounding to
these grids loses anything. Token mixing, D_S / D_C of the channel MLPs' work, stays in bfloat16: oneDNN has no
fast product of integers for 196 tokens.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", section 2.
Axes: B images, S tokens, C channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixonomy.inference.packed import packed
from mixonomy.nn import MLP, Block

_onednn: Any = torch.ops.onednn  # the operators that torch.compile calls
LEVELS = 255
BATCH = 32  # calibration images at once


@dataclass
class Range:
    """Smallest and largest value of a tensor, zero included so that it has an exact integer."""

    low: float = 0.0
    high: float = 0.0

    def add(self, x: Tensor) -> None:
        """Widens the range to hold all values of a tensor."""
        low, high = x.detach().aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    @property
    def scale(self) -> float:
        """The step from one integer to the next."""
        return max(self.high - self.low, 1e-6) / LEVELS

    @property
    def zero_point(self) -> int:
        """The integer of zero."""
        return round(-self.low / self.scale)


class Int8Linear(nn.Module):
    """uint8 -> uint8 or bfloat16, by a linear layer with an int8 weight.

    Args:
      linear: the float layer.
      inputs: range of what comes in.
      outputs: range of what goes out as uint8; bfloat16 goes out if None.
      gelu: as in `PackedLinear`.
    """

    def __init__(self, linear: nn.Linear, inputs: Range, outputs: Range | None = None, gelu: str | None = None):
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        integers = (weight / scale.unsqueeze(1)).round().to(torch.int8)
        self.weight = _onednn.qlinear_prepack(integers, None)
        self.scale, self.zeros = scale, torch.zeros(len(scale), dtype=torch.int32)
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self.inputs = (inputs.scale, inputs.zero_point)
        out = (1.0, 0, torch.bfloat16) if outputs is None else (outputs.scale, outputs.zero_point, torch.uint8)
        self.outputs = (*out, *(("none", [], "") if gelu is None else ("gelu", [], gelu)))

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [..., in] -> [..., out]."""
        return _onednn.qlinear_pointwise(x, *self.inputs, self.weight, self.scale, self.zeros, self.bias, *self.outputs)


class Int8MLP(nn.Module):
    """`mixonomy.nn.MLP` without dropout: uint8 in, uint8 between the two layers, bfloat16 out."""

    def __init__(self, mlp: MLP, inputs: Range, hidden: Range):
        super().__init__()
        self.fc1 = Int8Linear(mlp.fc1, inputs, hidden, gelu="none")  # see `packed`
        self.fc2 = Int8Linear(mlp.fc2, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [..., dim] -> bfloat16 [..., dim]."""
        return self.fc2(self.fc1(x))


class NormToUint8(nn.Module):
    """LayerNorm whose output is divided by the scale and moved by the zero point, then rounded to uint8."""

    def __init__(self, norm: nn.LayerNorm, outputs: Range):
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight = norm.weight.detach().float() / outputs.scale
        self.bias = norm.bias.detach().float() / outputs.scale + outputs.zero_point

    def forward(self, x: Tensor) -> Tensor:
        """bfloat16 [..., C] -> uint8 [..., C]."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps).round_().clamp_(0, LEVELS).to(torch.uint8)


def int8(model: nn.Module, calibration: Tensor) -> nn.Module:
    """A copy of a model in bfloat16 (`packed`), with the channel MLPs of its blocks in 8-bit integers.

    Args:
      model: images [B, c, H, W] -> logits [B, K], with blocks of LayerNorm and MLP; left as it is.
      calibration: images float [N, c, H, W], as the model will see them; they give the ranges of activations.
    Raises:
      ValueError: if the model has no such block.
    """
    blocks = [name for name, module in model.named_modules() if _has_mlp(module)]
    if not blocks:
        raise ValueError("the model has no block of LayerNorm and MLP.")
    ranges = _ranges(model, blocks, calibration)
    small = packed(model, torch.bfloat16)
    for name in blocks:
        block: Any = model.get_submodule(name)
        new = small.get_submodule(name)
        new.norm2 = NormToUint8(block.norm2, ranges[name][0])
        new.channel_mixer = Int8MLP(block.channel_mixer, *ranges[name])
    return small


def _has_mlp(module: nn.Module) -> bool:
    return type(module) is Block and type(module.norm2) is nn.LayerNorm and type(module.channel_mixer) is MLP


def _ranges(model: nn.Module, blocks: list[str], images: Tensor) -> dict[str, tuple[Range, Range]]:
    """Of the input and of the hidden activations of each block's channel MLP."""
    ranges, handles = {name: (Range(), Range()) for name in blocks}, []
    for name in blocks:
        mlp: Any = model.get_submodule(f"{name}.channel_mixer")
        for layer, seen in ((mlp.fc1, ranges[name][0]), (mlp.fc2, ranges[name][1])):
            handles.append(layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.add(inputs[0])))
    try:
        for batch in images.split(BATCH):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return ranges
