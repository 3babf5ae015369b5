"""Random boxes inside an image, drawn for a whole batch at once, as torchvision draws them one by one.

Axes: B images.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ATTEMPTS = 10  # torchvision's RandomResizedCrop and RandomErasing give up after as many
DRAWS = 2 * ATTEMPTS + 2  # uniform numbers that one box takes

Boxes = NDArray[np.int64]
"""[B, 4]: top, left, height, width in pixels; height 0 where no attempt fitted."""


def random_boxes(
    draws: NDArray[np.float64],
    image_size: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    whole: bool,
) -> Boxes:
    """The first of ten (area, aspect ratio) attempts that fits into the image, at a uniform place.

    Args:
      draws: [B, DRAWS] in [0, 1).
      image_size: (height, width) in pixels.
      area: range of the box's share of the image.
      ratio: range of width / height; its logarithm is uniform.
      whole: whether a box may be as high or wide as the image.
    Source: torchvision transforms/v2/_geometry.py (RandomResizedCrop), _augment.py (RandomErasing).
    """
    height, width = image_size
    areas = height * width * (area[0] + draws[:, :ATTEMPTS] * (area[1] - area[0]))
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    ratios = np.exp(log_low + draws[:, ATTEMPTS : 2 * ATTEMPTS] * (log_high - log_low))
    widths = np.round(np.sqrt(areas * ratios)).astype(np.int64)
    heights = np.round(np.sqrt(areas / ratios)).astype(np.int64)
    slack = 0 if whole else 1
    fits = (heights > 0) & (widths > 0) & (heights <= height - slack) & (widths <= width - slack)
    rows = np.arange(len(draws))
    first = fits.argmax(axis=1)
    h = np.where(fits.any(axis=1), heights[rows, first], 0)
    w = np.where(fits.any(axis=1), widths[rows, first], 0)
    top = (draws[:, -2] * (height - h + 1)).astype(np.int64)
    left = (draws[:, -1] * (width - w + 1)).astype(np.int64)
    return np.stack([top, left, h, w], axis=1)


def or_central_box(boxes: Boxes, image_size: tuple[int, int], ratio: tuple[float, float]) -> Boxes:
    """Replaces boxes of height 0 by the largest central one within the range of aspect ratios."""
    return np.where(boxes[:, 2:3] > 0, boxes, np.array(_central_box(image_size, ratio)))


def random_box(
    draws: Sequence[float], image_size: tuple[int, int], *, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """`random_boxes` (whole) and `or_central_box` for one image: numpy would take longer than a small JPEG's resize.

    Args:
      draws: [DRAWS] in [0, 1).
    Returns:
      (top, left, height, width) in pixels.
    """
    height, width = image_size
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for share, shape in zip(draws[:ATTEMPTS], draws[ATTEMPTS : 2 * ATTEMPTS], strict=True):
        pixels = height * width * (area[0] + share * (area[1] - area[0]))
        aspect = math.exp(log_low + shape * (log_high - log_low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    return _central_box(image_size, ratio)


def _central_box(image_size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = image_size
    shape = width / height
    w = width if shape <= ratio[1] else round(height * ratio[1])
    h = height if shape >= ratio[0] else round(width / ratio[0])
    return (height - h) // 2, (width - w) // 2, h, w
