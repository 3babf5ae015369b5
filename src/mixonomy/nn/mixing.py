"""What a layer mixes: features of one location, features between locations, or both; read off the layer itself.

Axes: B images, S tokens, C channels.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Two inputs that an output depends on fall into different halves at least every second time.
NUM_SPLITS = 24
TOLERANCE = 1e-10  # of the largest output: far above float64 rounding, far below what a weight of ordinary size does
# Initial values such as 0, 1e-6 (layer scale, gating units) or 1e-5 would hide what the layer does once it is trained.
SMALLEST_WEIGHT = 0.01


class MixingPattern(NamedTuple):
    """Which axes a layer mixes.

    Args:
      locations: some output location depends on more than one input location.
      channels: some output channel depends on more than one input channel.
    """

    locations: bool
    channels: bool


def mixing_pattern(layer: nn.Module, example: Tensor, *, seed: int = 0) -> MixingPattern:
    """Reads off the Jacobian of a layer which axes it mixes, from random probes, without building the matrix.

    An axis is mixed if some place on it in the output (a location with all its channels; a channel with all its
    locations) depends on two or more places on it in the input. What follows from that:

    - A skip adds each place to itself, so it mixes nothing; permuting places only renames them and mixes nothing.
    - Strides do not matter: a P x P convolution of stride P mixes the pixels of its patch, a 1 x 1 convolution of
      stride 2 mixes no locations, though both put out a smaller grid.
    - Normalisations count as any layer: LayerNorm over C mixes channels, GroupNorm over channels and places both,
      InstanceNorm locations, BatchNorm in evaluation neither.
    - Taken alone, each channel's own map (depthwise convolution, pooling, token MLP) mixes locations only.

    The probes: places of the input are split at random into two halves, each half is drawn anew in turn, and an output
    place that moves both times depends on both halves. By the mean value theorem it moves only if the Jacobian has
    entries there. All output places are watched at once, so that `NUM_SPLITS` independent splits miss a
    mixing layer, were there only one such output of only two inputs, with probability at most 2^-24; with a
    ReLU after it, which is silent for half of the inputs, 1e-3, divided further by every other such output.

    The layer is copied to the CPU in float64 and evaluation mode, and is itself left as it is. Parameters of the copy
    that are small throughout (below 0.01: zero heads, layer scale, gates that start closed) are drawn anew, since the
    pattern is the architecture's; parameters with zeros among other values keep them.

    Args:
      layer: any module that takes one tensor and returns one.
      example: [B, S, C] or [B, C, H, W], float; three axes are tokens, four are an image with channels second. Only
        its shape is used. One location, or one channel, cannot be mixed.
      seed: of probes and redrawn parameters.
    Returns:
      The pattern; an output of two axes [B, K] is one location with K channels.
    Raises:
      ValueError: if the example or the output has another number of axes or is no float tensor.
    """
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.ndim not in (3, 4):
        what = f"{example.dtype} {list(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"the example is {what}; give a float tensor [B, S, C] or [B, C, H, W].")
    if example.numel() == 0:
        raise ValueError(f"the example has the shape {list(example.shape)}; give one that is not empty.")
    generator = torch.Generator().manual_seed(seed)
    probe = copy.deepcopy(layer).to("cpu", torch.float64).eval()
    shape = (1, *example.shape[1:])
    with torch.no_grad():
        for parameter in probe.parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.abs().max() < SMALLEST_WEIGHT:
                std = (parameter[0].numel() if parameter.ndim > 1 else 1) ** -0.5
                parameter.copy_(std * _normal(parameter.shape, generator))
        return MixingPattern(
            locations=_mixes(probe, shape, _by_location, generator),
            channels=_mixes(probe, shape, _by_channel, generator),
        )


def _mixes(layer: nn.Module, shape: tuple[int, ...], places: Callable[[Tensor], Tensor], generator) -> bool:
    """Whether an output place depends on more than one input place; `places` puts the axis in question first."""
    num_places = places(torch.empty(shape)).shape[0]
    if num_places < 2:
        return False
    for _ in range(NUM_SPLITS):
        base = _normal(shape, generator)
        before = _output(layer, base)
        order = torch.randperm(num_places, generator=generator)
        moved = []
        for half in order.tensor_split(2):
            changed = base.clone()
            view = places(changed)  # a view, so that writing to it changes the input
            view[half] = _normal(view[half].shape, generator)
            difference = (_output(layer, changed) - before).abs()
            moved.append((places(difference).flatten(1) > TOLERANCE * before.abs().max()).any(dim=1))
        if (moved[0] & moved[1]).any():
            return True
    return False


def _output(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output as [1, S, C] or [1, C, H, W]."""
    y = layer(x.clone())  # some layers write into their input
    if not isinstance(y, Tensor):
        raise ValueError(f"{type(layer).__name__} returns a {type(y).__name__}; wrap it so that it returns one tensor.")
    if not y.is_floating_point() or y.ndim not in (2, 3, 4):
        raise ValueError(
            f"{type(layer).__name__} returns {y.dtype} {list(y.shape)}; only float outputs [B, K], [B, S, C] and "
            "[B, C, H, W] have locations and channels."
        )
    if not y.isfinite().all():
        raise ValueError(f"{type(layer).__name__} returns values that are not finite for random inputs.")
    return y.unsqueeze(1) if y.ndim == 2 else y  # [1, K] -> [1, 1, K]


def _by_location(x: Tensor) -> Tensor:
    """[1, S, C] -> [S, C], [1, C, H, W] -> [H * W, C]; a view."""
    return x[0] if x.ndim == 3 else x[0].flatten(1).T


def _by_channel(x: Tensor) -> Tensor:
    """[1, S, C] -> [C, S], [1, C, H, W] -> [C, H, W]; a view."""
    return x[0].T if x.ndim == 3 else x[0]


def _normal(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
