"""Augmentation of a whole uint8 batch at once, each image with random numbers of its own.

The per-sample path (`transforms.py`) draws the same numbers; a test compares the two.

Axes: B images, c image channels, H and W pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.data import stream
from mixonomy.data.boxes import DRAWS, Boxes, or_central_box, random_boxes
from mixonomy.devices import on_device

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy.recipe import Augment

DEFAULT_PAD = 4
DEFAULT_MIN_AREA = 0.05  # inception crop; big_vision pp/ops_image.py (inception_crop, area_min=5)
CROP_RATIO = (3 / 4, 4 / 3)
ERASE_AREA, ERASE_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # torchvision's and timm's RandomErasing; height / width
ERASE_VALUE = 127  # the middle of the range of pixels

# The purposes for which one sample draws random numbers, see `stream.uniforms`.
CROP, FLIP, ERASE, CUTMIX, MIXUP, RANDAUGMENT = range(6)


def augment_batch(images: Tensor, keys: stream.UInts, config: "Augment", image_size: tuple[int, int]) -> Tensor:
    """Crops, flips and erases; does not mix images.

    Args:
      images: uint8 [B, c, H, W], all of one size: for the crop inception any, for resmall that of `enlarged`, else
        `image_size`.
      keys: [B] from `stream.sample_keys`.
    Returns:
      uint8 [B, c, *image_size].
    """
    if config.crop == "inception":
        draws = stream.uniforms(keys, DRAWS, CROP)
        area = (config.min_area or DEFAULT_MIN_AREA, 1.0)
        size = (images.shape[2], images.shape[3])
        boxes = random_boxes(draws, size, area=area, ratio=CROP_RATIO, whole=True)
        images = resized_crops(images, or_central_box(boxes, size, CROP_RATIO), image_size)
    elif config.crop == "pad":
        images = shifted(images, stream.uniforms(keys, 2, CROP), config.pad or DEFAULT_PAD)
    elif config.crop == "resmall":
        images = windows(
            images, window_corners(stream.uniforms(keys, 2, CROP), images.shape[2:], image_size), image_size
        )
    if config.flip:
        flips = on_device(flipped(keys).astype(np.uint8), images.device).view(-1, 1, 1, 1)
        # Either all bits of an image change or none: on a CPU several times as fast as torch.where.
        images = images ^ ((images ^ images.flip(3)) & (flips * 255))
    if config.erase_prob:
        boxes = erased_boxes(keys, config.erase_prob, image_size)
        images = images.masked_fill(inside(boxes, image_size, images.device), ERASE_VALUE)
    return images


def flipped(keys: stream.UInts) -> NDArray[np.bool_]:
    """Which images are mirrored: each with probability 0.5. [B] -> [B]"""
    return stream.uniforms(keys, 1, FLIP)[:, 0] < 0.5


def erased_boxes(keys: stream.UInts, prob: float, image_size: tuple[int, int]) -> Boxes:
    """The box that random erasing greys in each image; height and width 0 where it does not."""
    draws = stream.uniforms(keys, DRAWS + 1, ERASE)
    ratio = (1 / ERASE_RATIO[1], 1 / ERASE_RATIO[0])
    boxes = random_boxes(draws[:, 1:], image_size, area=ERASE_AREA, ratio=ratio, whole=False)
    boxes[draws[:, 0] >= prob, 2:] = 0
    return boxes


def shifts(draws: NDArray[np.float64], pad: int) -> NDArray[np.int64]:
    """How far into the image with its black frame each crop begins, 0 to 2 pad pixels. [B, 2] in [0, 1) -> [B, 2]"""
    return (draws * (2 * pad + 1)).astype(np.int64)


def shifted(images: Tensor, draws: NDArray[np.float64], pad: int) -> Tensor:
    """Shifts each image by -pad to pad pixels in both directions; black comes in. draws [B, 2] in [0, 1)."""
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    return windows(padded, shifts(draws, pad), (images.shape[2], images.shape[3]))


def window_corners(draws: NDArray[np.float64], size: Sequence[int], image_size: tuple[int, int]) -> NDArray[np.int64]:
    """Top and left of a window of `image_size` anywhere in an image of `size`. [B, 2] in [0, 1) -> [B, 2]"""
    return (draws * (np.array(size) - np.array(image_size) + 1)).astype(np.int64)


def windows(images: Tensor, corners: NDArray[np.int64], image_size: tuple[int, int]) -> Tensor:
    """Cuts one window out of each image: uint8 [B, c, H, W], top and left [B, 2] -> [B, c, *image_size]."""
    (height, width), (top, left) = image_size, corners.T
    batch = np.arange(len(images))
    if images.device.type == "cpu":  # numpy copies row by row where torch picks pixel by pixel
        views = np.lib.stride_tricks.sliding_window_view(images.numpy(), (height, width), axis=(2, 3))
        return torch.from_numpy(views[batch, :, top, left])
    at, y, x = (on_device(place, images.device) for place in (batch, top, left))
    return images.unfold(2, height, 1).unfold(3, width, 1)[at, :, y, x]


def resized_crops(images: Tensor, boxes: Boxes, image_size: tuple[int, int]) -> Tensor:
    """Cuts a box out of each image and stretches it to `image_size`, bilinear and antialiased.

    Resizing is linear and separable, so it is one small matrix per image and axis.
    """
    top, left, height, width = on_device(boxes, images.device).float().unbind(1)
    rows = _resize_weights(top, height, images.shape[2], image_size[0])  # [B, h, H]
    columns = _resize_weights(left, width, images.shape[3], image_size[1])  # [B, w, W]
    out = rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)  # [B, c, h, w]
    return out.round_().clamp_(0, 255).to(torch.uint8)


def _resize_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """[B, size_out, size_in]: what share of each input pixel goes into each output pixel.

    A triangle around the output pixel's place in the input, as wide as the scale (at least one pixel).
    Source: Pillow libImaging/Resample.c (bilinear filter), which torch's antialiased resize follows.
    """
    scale = (length / size_out).view(-1, 1, 1)
    support = scale.clamp(min=1.0)
    centre = (torch.arange(size_out, device=start.device) + 0.5).view(1, -1, 1) * scale  # from the box's edge
    place = torch.arange(size_in, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1.0 - (place + 0.5 - centre).abs() / support).clamp(min=0.0)
    weights = weights * ((place >= 0) & (place < length.view(-1, 1, 1)))
    return weights / weights.sum(2, keepdim=True)


def inside(boxes: Boxes, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Which pixels lie in each image's box: bool [B, 1, H, W], on the device."""
    top, left, height, width = on_device(boxes, device).view(-1, 4, 1, 1).unbind(1)
    rows = torch.arange(image_size[0], device=device).view(1, -1, 1)
    columns = torch.arange(image_size[1], device=device).view(1, 1, -1)
    mask = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return mask[:, None]
