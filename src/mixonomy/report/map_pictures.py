"""Pictures of weights and of where a model looked.

Axes: U units, c image channels, H and W pixels, rows and columns of a map.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.report.markup import Picture

MAP_PIXELS = 40  # about so wide is a map
PER_ROW = 16
GAP = 4  # pixels between maps
# Blue, white, orange: told apart by colour-blind readers, and white is zero.
BLUE, WHITE, ORANGE = (np.array(colour, float) for colour in ((33, 90, 168), (247, 247, 247), (196, 84, 8)))
BLACK = np.array((20.0, 20.0, 20.0))


def mosaic(maps: Tensor, alt: str, per_row: int = PER_ROW) -> Picture:
    """All maps side by side in their order; each is scaled to its own largest weight.

    Args:
      maps: [U, rows, columns] in colours of `diverging`, or [U, 3, rows, columns], which are colours themselves, with
        mid-grey for zero.
    """
    array = maps.double().numpy()
    peak = np.abs(array).reshape(len(array), -1).max(1).clip(1e-12)
    scaled = array / peak.reshape(-1, *[1] * (array.ndim - 1))
    colours = diverging(scaled) if array.ndim == 3 else 127.5 + 127.5 * scaled.transpose(0, 2, 3, 1)
    times = max(round(MAP_PIXELS / array.shape[-1]), 1)
    tiles = colours.repeat(times, 1).repeat(times, 2)
    height, width = tiles.shape[1] + GAP, tiles.shape[2] + GAP
    lines = -(-len(tiles) // per_row)
    canvas = np.full((lines * height - GAP, min(per_row, len(tiles)) * width - GAP, 4), 0.0)
    for number, tile in enumerate(tiles):
        top, left = number // per_row * height, number % per_row * width
        part = canvas[top : top + tile.shape[0], left : left + tile.shape[1]]
        part[..., :3], part[..., 3] = tile, 255.0
    return Picture(_png(canvas), alt, is_tiny=True)


def diverging(values: NDArray) -> NDArray:
    """[-1, 1] -> RGB from 0 to 255 on a last axis: negative is blue, zero white, positive orange."""
    share = np.clip(np.abs(values), 0, 1)[..., None]
    return WHITE + share * (np.where(values[..., None] < 0, BLUE, ORANGE) - WHITE)


def gradient_picture(gradient: Tensor, alt: str) -> Picture:
    """An input gradient [H, W] from black to white; the brightest hundredth is all white."""
    array = gradient.double().cpu().numpy()
    share = (array / max(float(np.quantile(array, 0.99)), 1e-12)).clip(0, 1)
    return Picture(_png(_large(BLACK + share[..., None] * (255 - BLACK))), alt, is_tiny=True)


def occlusion_picture(change: Tensor, alt: str) -> Picture:
    """An occlusion map [rows, columns]: orange where hiding takes probability away, blue where it adds."""
    array = change.double().cpu().numpy()
    return Picture(_png(_large(diverging(array / max(np.abs(array).max(), 1e-12)))), alt, is_tiny=True)


def _large(colours: NDArray) -> NDArray:
    times = max(round(128 / colours.shape[1]), 1)
    return colours.repeat(times, 0).repeat(times, 1)


def _png(colours: NDArray) -> str:
    """A data URI of RGB or RGBA from 0 to 255."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(colours.round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
