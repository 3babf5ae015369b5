"""RandAugment with the operations and the scale of big_vision, with which the paper's models were trained.

Works on the planes of one image: arithmetic on whole planes takes a tenth of the time that it takes on interleaved
pixels, and what moves pixels is Pillow's, plane by plane.

Lengths in pixels are big_vision's at 224 pixels, and in proportion at other sizes, where its own would push a small
image out of the frame.

Source: big_vision pp/autoaugment.py (distort_image_with_randaugment) for the operations, what a magnitude means for
each, and the grey; Cubuk et al. 2019, "RandAugment".

Axes: c image channels (1 or 3), H and W pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mixonomy.data.decode import GREY_WEIGHTS

Planes = NDArray[np.uint8]
"""uint8 [c, H, W]."""

MAX_LEVEL = 10.0  # the magnitude at which an operation has the strength 1; more is allowed
FILL = 128  # what comes in from outside of the image
SIDE = 224  # the image size that big_vision's lengths are for
TRANSLATE, CUTOUT = 100 / SIDE, 40 / SIDE  # at strength 1, in sides of the image
CONTRAST_GREY = 196  # see `contrast`
DRAWS = 4  # uniform numbers that one layer takes


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) that an operation may use: for its sign, and for a place."""

    sign: float
    y: float
    x: float


def randaugment(planes: Planes, draws: Sequence[float], magnitude: float) -> Planes:
    """Applies as many operations as there are draws for, one after the other, each chosen uniformly among 16.

    Args:
      draws: [layers * DRAWS] in [0, 1).
      magnitude: of all operations; 10 is strength 1, and rotates by 30 degrees, say.
    """
    for start in range(0, len(draws), DRAWS):
        which, *rest = draws[start : start + DRAWS]
        planes = OPERATIONS[int(which * len(OPERATIONS))](planes, magnitude / MAX_LEVEL, Draws(*rest))
    return planes


def autocontrast(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Stretches each channel to the range from 0 to 255; the strength has no influence."""
    out = planes.copy()
    for plane in out:
        low, high = int(plane.min()), int(plane.max())
        if low < high:
            plane[...] = (plane - np.uint8(low)).astype(np.uint16) * np.uint16(255) // np.uint16(high - low)
    return out


def equalize(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Makes the grey levels of each channel about equally frequent; the strength has no influence."""
    return _by_plane(planes, ImageOps.equalize)


def invert(planes: Planes, strength: float, draws: Draws) -> Planes:
    """The negative; the strength has no influence."""
    return 255 - planes


def rotate(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Turns around the centre by 30 degrees times the strength, to either side."""
    degrees = _signed(30.0 * strength, draws)
    return _by_plane(planes, lambda image: image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=FILL))


def posterize(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Keeps the upper 4 bits times the strength, at least one: the stronger, the milder, as in big_vision."""
    bits = min(max(int(4 * strength), 1), 8)
    return planes & np.uint8(256 - 2 ** (8 - bits))


def solarize(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Inverts pixels from 256 times the strength on: the stronger, the milder; nothing from strength 1 on."""
    is_inverted = planes >= int(256 * strength)
    return planes ^ (is_inverted.view(np.uint8) * np.uint8(255))


def solarize_add(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Adds 110 times the strength to pixels below 128."""
    is_dark = planes < 128
    return planes + is_dark.view(np.uint8) * np.minimum(np.uint8(min(int(110 * strength), 255)), 255 - planes)


def color(planes: Planes, strength: float, draws: Draws) -> Planes:
    """More (or less) colour than the grey image; strength 0.5 changes nothing."""
    if len(planes) == 1:
        return planes
    pixels = planes.astype(np.float32)
    grey = (np.array(GREY_WEIGHTS, dtype=np.float32) @ pixels.reshape(3, -1)).reshape(planes.shape[1:])
    return _blend(grey, pixels, strength)


def contrast(planes: Planes, strength: float, draws: Draws) -> Planes:
    """More (or less) difference from one grey level; strength 0.5 changes nothing.

    big_vision means the mean grey level, but takes the number of pixels over 256, which is 196 at 224 x 224: the
    paper's models saw that, whatever the image.
    """
    return _blend(np.float32(CONTRAST_GREY), planes, strength)


def brightness(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Brighter (or darker); strength 0.5 changes nothing."""
    return _blend(np.float32(0), planes, strength)


def sharpness(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Sharper (or smoother), but for the outermost pixels; strength 0.5 changes nothing."""
    if min(planes.shape[1:]) < 3:
        return planes
    wide = planes.astype(np.uint16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    inner = wide[:, 1:-1, 1:-1]
    smooth = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + np.uint16(4) * inner  # Pillow's SMOOTH: 5 in the middle of 1s
    out = planes.copy()
    out[:, 1:-1, 1:-1] = _blend(smooth / np.float32(13), inner, strength)
    return out


def shear_x(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Moves each row by 0.3 times the strength pixels more than the one above, to either side."""
    shear = _signed(0.3 * strength, draws)
    return _affine(planes, (1.0, shear, 0.0, 0.0, 1.0, 0.0))


def shear_y(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Moves each column by 0.3 times the strength pixels more than the one before, up or down."""
    shear = _signed(0.3 * strength, draws)
    return _affine(planes, (1.0, 0.0, 0.0, shear, 1.0, 0.0))


def translate_x(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Moves by 100 / 224 of the width times the strength, to either side."""
    return translate_y(planes.swapaxes(1, 2), strength, draws).swapaxes(1, 2)


def translate_y(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Moves by 100 / 224 of the height times the strength, up or down."""
    height = planes.shape[1]
    by = min(round(TRANSLATE * height * strength), height)
    out = np.full_like(planes, FILL)
    if draws.sign < 0.5:
        out[:, by:] = planes[:, : height - by]
    else:
        out[:, : height - by] = planes[:, by:]
    return out


def cutout(planes: Planes, strength: float, draws: Draws) -> Planes:
    """Greys a box of 80 / 224 of each side times the strength, around a uniform place, cut at the edge."""
    out = planes.copy()
    spans = []
    for place, side in zip((draws.y, draws.x), planes.shape[1:], strict=True):
        centre, half = int(place * side), int(CUTOUT * side * strength)
        spans.append(slice(max(centre - half, 0), centre + half))
    out[:, *spans] = FILL
    return out


Operation = Callable[[Planes, float, Draws], Planes]
OPERATIONS: tuple[Operation, ...] = (
    autocontrast, equalize, invert, rotate, posterize, solarize, color, contrast,
    brightness, sharpness, shear_x, shear_y, translate_x, translate_y, cutout, solarize_add,
)  # fmt: skip


def _blend(grey: NDArray[np.floating] | np.floating, pixels: NDArray, strength: float) -> Planes:
    """From what is grey (factor 0) to the image (factor 1) and beyond; the factor is 1.8 times the strength + 0.1."""
    factor = np.float32(1.8 * strength + 0.1)
    mixed = pixels * factor
    mixed += grey * (np.float32(1) - factor)
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _signed(value: float, draws: Draws) -> float:
    return value if draws.sign < 0.5 else -value


def _affine(planes: Planes, matrix: tuple[float, ...]) -> Planes:
    """Each output pixel (x, y) is the nearest to (a x + b y + c, d x + e y + f); matrix (a, b, c, d, e, f)."""

    def moved(image: Image.Image) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=FILL)

    return _by_plane(planes, moved)


def _by_plane(planes: Planes, change: Callable[[Image.Image], Image.Image]) -> Planes:
    return np.stack([np.asarray(change(Image.fromarray(plane))) for plane in planes])
