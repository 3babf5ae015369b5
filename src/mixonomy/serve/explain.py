"""Why a model answered as it did: which region mattered, what the token-mixing units did, what a shuffle changes.

Axes: B images, c image channels, H and W pixels, K classes, S tokens, C channels, D hidden units of a token MLP.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mixonomy.evals import Predictor
from mixonomy.evals.predictor import normalise
from mixonomy.inference.exported import ExportedModel
from mixonomy.models import info_of, permuted
from mixonomy.models.gmlp import GMLP
from mixonomy.models.isotropic import Isotropic
from mixonomy.models.mixer import Mixer
from mixonomy.models.permute import shuffle_patches
from mixonomy.models.resmlp import ResMLP
from mixonomy.models.vit import ViT
from mixonomy.preprocessing import PAD_VALUE

MAX_CELLS = 10  # a side, of the occlusion map: a hundred predictions of one image
CHUNK = 16  # of them at once, between which others are answered
REACH = 0.5  # of a cell that a window covers beside its own on each side
FALLBACK_GRID = 14  # patches a side that are shuffled where a model has none of its own
MAX_UNITS = 8


@dataclass(frozen=True)
class Unit:
    """One hidden unit of a token MLP on one image: it sums up places of every channel, and adds to places of it.

    Args:
      index: among the block's D units.
      strength: mean absolute activation over the channels, as a share of the strongest unit's.
      reads, writes: its weights [rows, columns] over the places, scaled to [-1, 1].
      takes: what it took from each place of this image: mean over channels of |weight * value|, scaled to [0, 1].
    """

    index: int
    strength: float
    reads: list[list[float]]
    writes: list[list[float]]
    takes: list[list[float]]


def grid_of(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int, int]:
    """(rows, columns, P) of the patches of a model; of models without, squares that divide the image."""
    if isinstance(model, Isotropic):
        size = model.stem.proj.kernel_size[0]
    elif isinstance(model, ExportedModel) and "patch_size" in (arguments := info_of(model).arguments):
        size = arguments["patch_size"]
    else:
        side = min(image_size)
        size = next(p for p in range(max(side // FALLBACK_GRID, 1), 0, -1) if not any(s % p for s in image_size))
    return image_size[0] // size, image_size[1] // size, size


def can_be_permuted(model: nn.Module) -> bool:
    """Whether `mixonomy.permuted` makes a model of it that undoes a shuffle."""
    return isinstance(model, Mixer | ViT | ResMLP | GMLP)


def num_token_mlps(model: nn.Module) -> int:
    """Blocks whose token-mixing units can be shown."""
    return len(model.blocks) if isinstance(model, Mixer) else 0


def windows(image_size: tuple[int, int], patch_size: int) -> tuple[int, int, list[tuple[slice, slice]]]:
    """(rows, columns) of an occlusion map, and the window of pixels that each of its cells covers.

    Cells are whole patches where the patches are not too many.
    """
    rows, columns = (max(min(MAX_CELLS, side // patch_size, side), 1) for side in image_size)

    def span(side: int, count: int, i: int) -> slice:
        return slice(max(round((i - REACH) * side / count), 0), min(round((i + 1 + REACH) * side / count), side))

    (height, width) = image_size
    return (
        rows,
        columns,
        [(span(height, rows, i), span(width, columns, j)) for i in range(rows) for j in range(columns)],
    )


def occluded(pixels: Tensor, places: list[tuple[slice, slice]]) -> Iterator[Tensor]:
    """The image uint8 [c, H, W] with each window greyed in turn, in chunks uint8 [B, c, H, W]."""
    for start in range(0, len(places), CHUNK):
        some = places[start : start + CHUNK]
        batch = pixels.expand(len(some), *pixels.shape).clone()
        for image, (down, across) in zip(batch, some, strict=True):
            image[:, down, across] = PAD_VALUE
        yield batch


@torch.inference_mode()
def token_units(model: Mixer, predictor: Predictor, pixels: Tensor, block: int) -> list[Unit]:
    """The units of one block's token MLP that were most active on an image uint8 [c, H, W], the strongest first.

    Source: MLP-Mixer paper, equation 1 and figure 5, which shows the weights that `reads` holds.
    """
    mixer: Any = model.blocks[block].token_mixer
    seen: list[Tensor] = []
    handle = mixer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(normalise(pixels[None].to(predictor.device), predictor.preprocessing))
    finally:
        handle.remove()
    tokens = seen[0][0].float()  # [S, C]
    hidden = mixer.act(mixer.fc1.weight @ tokens + mixer.fc1.bias[:, None])  # [D, C]
    strength = hidden.abs().mean(1)
    best = strength.topk(min(MAX_UNITS, len(strength)))
    rows, columns, _ = grid_of(model, predictor.preprocessing.image_size)
    magnitude = tokens.abs().mean(1)

    def scaled(values: Tensor) -> list[list[float]]:
        values = values / values.abs().max().clamp_min(1e-12)
        return [[round(value, 3) for value in row] for row in values.unflatten(0, (rows, columns)).tolist()]

    return [
        Unit(
            index,
            round(value / max(best.values[0].item(), 1e-12), 4),
            reads=scaled(mixer.fc1.weight[index]),
            writes=scaled(mixer.fc2.weight[:, index]),
            takes=scaled(mixer.fc1.weight[index].abs() * magnitude),
        )
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def partial_permutation(size: int, share: float, seed: int) -> Tensor:
    """A permutation of range(size) that moves this share of the places among themselves and leaves the others.

    The places that move at a smaller share move at a larger one as well.
    """
    generator = torch.Generator().manual_seed(seed)
    moving = torch.randperm(size, generator=generator)[: round(share * size)].sort().values
    order = torch.arange(size)
    order[moving] = moving[torch.randperm(len(moving), generator=generator)]
    return order


class Shuffler:
    """Shuffled images and the models that undo the shuffle; keeps the last such model.

    Args:
      model: as loaded.
      predictor: of the model; its precision and preprocessing are taken for the converted one.
    """

    def __init__(self, model: nn.Module, predictor: Predictor, precision: Any):
        self.model, self.predictor, self.precision = model, predictor, precision
        self.rows, self.columns, self.patch_size = grid_of(model, predictor.preprocessing.image_size)
        self._last: tuple[tuple[float, float, int], Predictor] | None = None

    def shuffled(self, pixels: Tensor, patches: float, inside: float, seed: int) -> Tensor:
        """The image uint8 [c, H, W] with shares of its patches, and of the pixels in each, in another order."""
        return shuffle_patches(pixels[None], self.patch_size, **self._orders(patches, inside, seed))[0]

    def converted(self, patches: float, inside: float, seed: int) -> Predictor:
        """What sees images so shuffled as the model sees plain ones, in the precision of the model itself."""
        key = (patches, inside, seed)
        if self._last is None or self._last[0] != key:
            self._last = None  # before the next is made, so that there are never two
            model = permuted(self.model, **self._orders(patches, inside, seed))
            self._last = key, replace(self.predictor, model=model, precision=self.precision)
        return self._last[1]

    def _orders(self, patches: float, inside: float, seed: int) -> dict[str, Tensor]:
        return {
            "patches": partial_permutation(self.rows * self.columns, patches, seed),
            "pixels": partial_permutation(self.patch_size**2, inside, seed + 1),
        }


def png_uri(pixels: Tensor) -> str:
    """An image uint8 [c, H, W] as a data URI."""
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
