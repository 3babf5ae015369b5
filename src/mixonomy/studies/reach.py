"""How far the layers of any image model look, read off their Jacobians.

For an output place o and an input place i let J(o, i) be the block of the Jacobian between all channels of the two. A
layer's distance is

    sum over o, i of d(o, i) |J(o, i)|^2 / sum over o, i of |J(o, i)|^2,

with d the distance of the centres of the places as a share of the image's side (of the square root of its area, where
it is not square). It is a mean over images and output places, taken at random. The squares are never computed
entry by entry: for a vector v of random signs over the channels at o, the squared gradient of v . y at i has the mean
|J(o, i)|^2 (Hutchinson 1990), and one backward pass gives it for all i.

Axes: B images, S tokens, C channels, h and w places.
"""

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.nn.modes import evaluation_mode

# One step of depth; the outermost modules of such names are taken.
BLOCK = re.compile(r"(Block|Bottleneck|BottleneckLayer|InvertedResidual|DepthwiseSeparableConv)\w{0,2}$")


@dataclass(frozen=True)
class Reach:
    """How far one layer looks; distances are shares of the image's side.

    Args:
      layer, kind: name and class.
      grid: (rows, columns) of its output.
      distance: of what it reads in its own input; a skip counts, as the distance 0.
      elsewhere: share of the squared Jacobian at other places than the output's own.
      distance_elsewhere: mean distance of those other places alone; None if there are none.
      from_image: distance from the output's place to the pixels that it depends on, through all layers before.
      uniform: what `distance_elsewhere` would be if all other places counted alike.
    """

    layer: str
    kind: str
    grid: tuple[int, int]
    distance: float
    elsewhere: float
    distance_elsewhere: float | None
    from_image: float
    uniform: float


def reach(model: nn.Module, images: Tensor, *, num_probes: int = 16, seed: int = 0) -> list[Reach]:
    """Measures all blocks of a model.

    A class token has no place: it is neither probed nor counted.

    Args:
      model: images float [B, c, H, W] -> logits; stays as it is. Its blocks put out tokens [B, S, C], with or without a
        class token before them, or [B, C, h, w].
      images: as the model reads them, on its device; the Jacobian is taken at these.
      num_probes: output places for each image and layer.
      seed: of places and signs.
    Returns:
      One for each block, in the order in which they run.
    Raises:
      ValueError: if the model has no blocks that are known, or their output has no places.
    """
    names = block_names(model)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no blocks that are known by the name of their class; its layers cannot be "
            f"told apart."
        )
    generator = torch.Generator().manual_seed(seed)
    size = (images.shape[2], images.shape[3])
    with evaluation_mode(model), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        calls = _watched(model, leaf, names)
        found = []
        for name, (args, kwargs, output) in calls.items():
            layer = model.get_submodule(name)
            start = args[0].detach().clone().requires_grad_()
            own = layer(start.clone(), *args[1:], **kwargs)  # some layers write into their input
            grid = _grid(own, size, name)
            sums = _sums(own, start, _grid(start, size, name), size, num_probes, generator)
            whole = _sums(output, leaf, size, size, num_probes, generator)
            distance, total, far, elsewhere, uniform = (float(part) for part in sums)
            found.append(
                Reach(
                    name,
                    type(layer).__name__,
                    grid,
                    distance=distance / total,
                    elsewhere=elsewhere / total,
                    distance_elsewhere=far / elsewhere if elsewhere > 1e-12 * total else None,
                    from_image=float(whole[0] / whole[1]),
                    uniform=uniform,
                )
            )
    return found


def block_names(model: nn.Module) -> list[str]:
    """The names of the outermost modules whose class is called a block."""
    names: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in names)
        if name and BLOCK.search(type(module).__name__) and not is_inside:
            names.append(name)
    return names


def _watched(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, tuple[tuple, dict[str, Any], Tensor]]:
    """The arguments of each of these layers, cut off from what was before, and their outputs, with their history."""
    calls: dict[str, tuple[tuple, dict[str, Any], Tensor]] = {}
    given: dict[str, tuple[tuple, dict[str, Any]]] = {}

    def before(name: str):
        def keep(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given[name] = ((args[0].detach().clone(), *args[1:]), kwargs)

        return keep

    def after(name: str):
        def keep(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
            if name not in calls:
                calls[name] = (*given[name], output)
            return output.clone()  # what comes next may write into it

        return keep

    with ExitStack() as context:
        for name in names:
            module = model.get_submodule(name)
            context.callback(module.register_forward_pre_hook(before(name), with_kwargs=True).remove)
            context.callback(module.register_forward_hook(after(name)).remove)
        model(images)
    return calls


def _sums(
    output: Tensor, start: Tensor, grid: tuple[int, int], size: tuple[int, int], num_probes: int, generator
) -> Tensor:
    """Sums over probes of distance x square, square, both again elsewhere only, and the mean distance of other places.

    Args:
      grid: of `start`.
      size: (height, width) of the image.
    """
    out_grid = _grid(output, size, "")
    sums = torch.zeros(5, dtype=torch.float64)
    for number in range(num_probes):
        places = torch.randint(math.prod(out_grid), (len(output),), generator=generator)
        at_place = _placed(output, out_grid)[torch.arange(len(output)), places]  # [B, C]
        signs = torch.randint(2, at_place.shape, generator=generator) * 2.0 - 1.0
        (gradient,) = torch.autograd.grad(
            (at_place * signs.to(at_place)).sum(), start, retain_graph=True, materialize_grads=True
        )
        square = _placed(gradient, grid).square().sum(2).cpu().double()  # [B, places]
        distance, is_here = _distances(places, out_grid, grid, size)
        elsewhere = square.masked_fill(is_here, 0.0)
        sums[0] += (distance * square).sum()
        sums[1] += square.sum()
        sums[2] += (distance * elsewhere).sum()
        sums[3] += elsewhere.sum()
        sums[4] += (distance[~is_here].mean() - sums[4]) / (number + 1)
    return sums


def _distances(
    places: Tensor, out_grid: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """[B, places of the input]: distance from each output place, and whether the input's centre lies inside it."""
    scale = math.sqrt(size[0] * size[1])
    rows, columns = places // out_grid[1], places % out_grid[1]
    gaps = []
    for at, out_count, count in ((rows, out_grid[0], grid[0]), (columns, out_grid[1], grid[1])):
        centre = (at.double() + 0.5) / out_count
        gaps.append(centre[:, None] - (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    down, across = gaps[0][:, :, None] * size[0] / scale, gaps[1][:, None, :] * size[1] / scale
    inside = (gaps[0].abs() < 0.5 / out_grid[0])[:, :, None] & (gaps[1].abs() < 0.5 / out_grid[1])[:, None, :]
    return torch.hypot(down.expand_as(inside), across.expand_as(inside)).flatten(1), inside.flatten(1)


def _placed(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, places, C], without a class token."""
    if x.ndim == 3:
        return x[:, x.shape[1] - math.prod(grid) :]
    return (x if _is_channels_last(x) else x.permute(0, 2, 3, 1)).flatten(1, 2)


def _grid(x: Tensor, size: tuple[int, int], name: str) -> tuple[int, int]:
    """(rows, columns) of tokens, or of a map.

    Raises:
      ValueError: if there are none.
    """
    if isinstance(x, Tensor) and x.ndim == 4:
        return (x.shape[1], x.shape[2]) if _is_channels_last(x) else (x.shape[2], x.shape[3])
    if isinstance(x, Tensor) and x.ndim == 3:
        for num_tokens in (x.shape[1], x.shape[1] - 1):
            rows = round(math.sqrt(num_tokens * size[0] / size[1]))
            if rows and num_tokens % rows == 0 and rows * size[1] * rows == num_tokens * size[0]:
                return rows, num_tokens // rows
    shape = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
    raise ValueError(
        f"layer {name} works on {shape}; only [B, S, C] of a grid like the image and [B, C, h, w] have places."
    )


def _is_channels_last(x: Tensor) -> bool:
    """Whether four axes are [B, h, w, C], as in some of timm's models, of square images."""
    return x.shape[1] == x.shape[2] != x.shape[3]
