"""Weights as maps over the image: what token-mixing units and stem kernels look like, in numbers.

Axes: U units, S tokens of a grid (rows, columns), C channels, c image channels, P patch size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.nn import SpatialGatingUnit, TokenLinear, TokenMLP

LOCAL = 0.5  # a unit is local if its radius is below this share of that of a map that is the same everywhere


@dataclass(frozen=True)
class TokenMaps:
    """The weights of one token mixer.

    Args:
      name: of the layer.
      units: float64 [U, rows, columns], what each hidden unit reads: its weights over the tokens. Of a layer with one
        matrix (ResMLP, gMLP), what each output token reads.
      written: float64 [U, rows, columns], what each hidden unit writes; None where there is one matrix.
      mixing: float64 [S, S], all of the layer's matrices multiplied: output token by input token, without the GELU.
    """

    name: str
    units: Tensor
    written: Tensor | None
    mixing: Tensor


@dataclass(frozen=True)
class MapNumbers:
    """What the units of one layer are like, means over them; see the functions below for each.

    Args:
      frequency: cycles per token (or per pixel, of a stem).
      mirror: 0 to 1.
      opposite, alike: -1 to 1.
      radius: share of that of a map that is the same everywhere.
      local: share of units whose radius is below LOCAL.
      rank: effective rank of the units' matrix, as a share of the largest possible.
      mixing_rank: that of `TokenMaps.mixing`; None of a stem.
    """

    frequency: float
    mirror: float
    opposite: float
    alike: float
    radius: float
    local: float
    rank: float
    mixing_rank: float | None = None


def token_maps(model: nn.Module, grid: tuple[int, int]) -> list[TokenMaps]:
    """The token mixers of a Mixer, ResMLP or gMLP in the order of its blocks; none of other models.

    Args:
      grid: (rows, columns) of tokens.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, TokenMLP):
            read, write = _weight(module.fc1), _weight(module.fc2)
            found.append(TokenMaps(name, read.unflatten(1, grid), write.T.unflatten(1, grid), write @ read))
        elif isinstance(module, TokenLinear | SpatialGatingUnit):
            matrix = _weight(module if isinstance(module, TokenLinear) else module.proj)
            found.append(TokenMaps(name, matrix.unflatten(1, grid), None, matrix))
    return found


def stem_kernels(model: nn.Module) -> Tensor | None:
    """float64 [C, c, P, P], the first convolution that reads pixels with kernels larger than 1 x 1; None without."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels in (1, 3) and min(module.kernel_size) > 1:
            return module.weight.detach().cpu().double()
    return None


def numbers_of(maps: Tensor, mixing: Tensor | None = None) -> MapNumbers:
    """All numbers of units.

    Args:
      maps: float64 [U, rows, columns], or [U, c, rows, columns], where each unit is a map of c channels.
      mixing: see `TokenMaps`.
    """
    maps = maps.unsqueeze(1) if maps.ndim == 3 else maps
    flat = maps.flatten(1)
    radii = radius(maps)
    opposite, alike = extremes(flat)
    return MapNumbers(
        frequency=float(frequency(maps).mean()),
        mirror=float(mirror(maps).mean()),
        opposite=float(opposite.mean()),
        alike=float(alike.mean()),
        radius=float(radii.mean()),
        local=float((radii < LOCAL).double().mean()),
        rank=effective_rank(flat) / min(flat.shape),
        mixing_rank=None if mixing is None else effective_rank(mixing) / len(mixing),
    )


def frequency(maps: Tensor) -> Tensor:
    """Mean spatial frequency of each map, weighted by power: low for smooth maps, high for what flickers.

    Of a two-dimensional cosine transform (DCT-II, which needs no periodic border), all channels together; term (i, j)
    of rows x columns has the frequency sqrt((i / 2 rows)^2 + (j / 2 columns)^2).

    Args:
      maps: float64 [U, c, rows, columns].
    Returns:
      [U], cycles per place, 0 for a constant map, at most sqrt(0.5); white noise has about 0.38 on a large grid.
    """
    rows, columns = maps.shape[-2:]
    power = (_cosines(rows) @ maps @ _cosines(columns).T).square().sum(1)  # [U, rows, columns]
    steps = torch.meshgrid(
        torch.arange(rows, dtype=power.dtype) / (2 * rows),
        torch.arange(columns, dtype=power.dtype) / (2 * columns),
        indexing="ij",
    )
    return (power * torch.hypot(*steps)).sum((1, 2)) / power.sum((1, 2)).clamp_min(_tiny(power))


def mirror(maps: Tensor) -> Tensor:
    """How even or odd each map is: |cosine| between it and its mirror image, mean of left-right and up-down.

    Returns:
      [U], 1 for maps that are symmetric or change their sign in either mirror; noise has about 0.8 / sqrt(places).
    """
    found = [torch.cosine_similarity(maps.flatten(1), maps.flip(axis).flatten(1)).abs() for axis in (-1, -2)]
    return (found[0] + found[1]) / 2


def extremes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """How close each unit's nearest opposite, and its nearest other unit, are: -min and max of the cosines.

    Args:
      vectors: [U, D], two units or more.
    Returns:
      ([U], [U]), each from -1 to 1; 1 where another unit is exactly its negative, or exactly the same direction.
    """
    cosines = _cosine_matrix(vectors)
    return -cosines.min(1).values, cosines.max(1).values


def radius(maps: Tensor) -> Tensor:
    """How far each map spreads: root mean square distance of squared weights from their centre of mass.

    Returns:
      [U], as a share of the same number for a map that is the same everywhere, which has sqrt((rows^2 + columns^2 - 2)
      / 12); 0 for a single place, above 1 for maps that are heavy at the borders.
    """
    rows, columns = maps.shape[-2:]
    weight = maps.square().sum(1)  # [U, rows, columns]
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(_tiny(weight))
    spread = torch.zeros(len(weight), dtype=weight.dtype)
    for share in (weight.sum(2), weight.sum(1)):  # along rows, along columns
        place = torch.arange(share.shape[1], dtype=share.dtype)
        spread += share @ place.square() - (share @ place).square()
    return (spread.clamp_min(0) / max((rows**2 + columns**2 - 2) / 12, 1e-12)).sqrt()


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values divided by their sum: n where n are equal and the others 0.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = torch.linalg.svdvals(matrix)
    share = values / values.sum().clamp_min(_tiny(values))
    share = share[share > 0]
    return math.exp(float(-(share * share.log()).sum()))


def paired_order(maps: Tensor) -> list[int]:
    """The order in which units are drawn: the lowest frequency first, each followed by its opposite.

    Of the units that are left, the one of the lowest `frequency` comes next, and after it the one whose cosine with it
    is lowest. The paper sorts alike, by a heuristic that it does not state (appendix D).

    Args:
      maps: float64 [U, rows, columns] or [U, c, rows, columns].
    """
    maps = maps.unsqueeze(1) if maps.ndim == 3 else maps
    cosines, by_frequency = _cosine_matrix(maps.flatten(1)), frequency(maps).argsort(stable=True).tolist()
    is_left = torch.ones(len(maps), dtype=torch.bool)
    order: list[int] = []
    for unit in by_frequency:
        if not is_left[unit]:
            continue
        is_left[unit] = False
        order.append(unit)
        if is_left.any():
            opposite = int(cosines[unit].masked_fill(~is_left, math.inf).argmin())
            is_left[opposite] = False
            order.append(opposite)
    return order


def depth_trend(values: list[float]) -> float | None:
    """Spearman's rank correlation of a number with the depth; None of fewer than three blocks or equal values."""
    if len(values) < 3 or len(set(values)) < 2:
        return None
    ranks = _ranks(values)
    depths = [float(i) for i in range(len(values))]
    return float(torch.corrcoef(torch.tensor([depths, ranks], dtype=torch.float64))[0, 1])


def _ranks(values: list[float]) -> list[float]:
    """Ranks from 0, equal values share their mean."""
    ordered = sorted(values)
    return [sum(i for i, other in enumerate(ordered) if other == value) / ordered.count(value) for value in values]


def _weight(linear: nn.Linear) -> Tensor:
    return linear.weight.detach().cpu().double()


def _cosine_matrix(vectors: Tensor) -> Tensor:
    """[U, U], with NaN-free zeros for units without weights; a unit's own place holds 0."""
    unit = nn.functional.normalize(vectors, dim=1)
    return (unit @ unit.T).fill_diagonal_(0.0)


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II matrix, float64 [size, size]."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
