"""Transforms of one image: the evaluation crops, and the per-sample path of training.

Axes: c image channels, H and W pixels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.data import stream
from mixonomy.data.augment import (
    CROP,
    CROP_RATIO,
    DEFAULT_MIN_AREA,
    DEFAULT_PAD,
    ERASE_VALUE,
    RANDAUGMENT,
    erased_boxes,
    flipped,
    shifts,
    window_corners,
)
from mixonomy.data.boxes import DRAWS, random_box
from mixonomy.data.decode import Box, decode, decode_crop
from mixonomy.data.randaugment import DRAWS as LAYER_DRAWS
from mixonomy.data.randaugment import randaugment
from mixonomy.data.sources.base import Encoded
from mixonomy.preprocessing import DEFAULT_RESIZE, PAD_VALUE, Preprocessing

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy.recipe import Augment

DEFAULT_MAGNITUDE = 10
MAX_PIXELS = 2**27  # of an image enlarged before it is cut; half a gigabyte or less, so that one file fills no memory
WHOLE = ("squash", "pad")  # crops that cut nothing off


def evaluation_crop(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [c, H, W] of any size -> uint8 [c, *image_size], bilinear and antialiased.

    Raises:
      ValueError: if the image is so long and narrow that enlarging its shorter side takes over `MAX_PIXELS`.
    Source: MLP-Mixer paper, appendix C, for resmall and resize.
    """
    height, width = preprocessing.image_size
    if tuple(pixels.shape[1:]) == (height, width) and (preprocessing.crop in WHOLE or preprocessing.resize == 1):
        return pixels
    if preprocessing.crop == "pad":
        scale = min(height / pixels.shape[1], width / pixels.shape[2])
        size = [max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[2] * scale), 1)]
        down, right = height - size[0], width - size[1]
        bars = [right // 2, right - right // 2, down // 2, down - down // 2]  # left, right, top, bottom
        return torch.nn.functional.pad(resized(pixels, size), bars, value=PAD_VALUE)
    if preprocessing.crop == "squash":
        return resized(pixels, [height, width])
    larger = enlarged(
        pixels, preprocessing.image_size, preprocessing.resize, keeps_shape=preprocessing.crop == "resmall"
    )
    top, left = round((larger.shape[1] - height) / 2), round((larger.shape[2] - width) / 2)
    return larger[:, top : top + height, left : left + width]


def enlarged(
    pixels: Tensor, image_size: tuple[int, int], resize: float = DEFAULT_RESIZE, *, keeps_shape: bool = True
) -> Tensor:
    """The image as large as `resize` times the image size, to cut that out of it.

    Args:
      keeps_shape: whether only the shorter side (beside the image size's) becomes so long, or the whole is stretched.
    Raises:
      ValueError: if the image is so long and narrow that this takes over `MAX_PIXELS`.
    """
    height, width = image_size
    larger = (height * resize, width * resize)
    if keeps_shape:
        scale = max(larger[0] / pixels.shape[1], larger[1] / pixels.shape[2])
        larger = (pixels.shape[1] * scale, pixels.shape[2] * scale)
    size = [max(round(larger[0]), height), max(round(larger[1]), width)]
    if size[0] * size[1] > MAX_PIXELS:
        shape = f"{pixels.shape[1]}x{pixels.shape[2]} pixels"
        name = "resmall" if keeps_shape else "resize"
        raise ValueError(f"not a usable image ({shape} is too long and narrow for the crop {name})")
    return resized(pixels, size)


def resized(pixels: Tensor, size: list[int]) -> Tensor:
    """uint8 [c, H, W] -> uint8 [c, *size]; what torchvision's v2 resize gives, without seconds of importing it."""
    if list(pixels.shape[1:]) == size:
        return pixels
    return torch.nn.functional.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training image; empty or None for what the recipe does not do.

    Args:
      crop: uniform in [0, 1): [DRAWS] for the inception crop, [2] for resmall, else none.
      shift: how far the pad crop begins into the image with its frame, down and right.
      is_flipped: whether it is mirrored.
      randaugment: uniform in [0, 1), see `randaugment`.
      erased: the box that is greyed.
    """

    crop: list[float]
    shift: list[int] | None
    is_flipped: bool
    randaugment: list[float]
    erased: list[int] | None


class TrainTransform:
    """Training images one by one, from their files to a place in a batch.

    Crops, flips and erases as `augment_batch` does, with the same random numbers, and applies RandAugment.

    Args:
      config: the recipe's augmentation, without the mixing of images.
      preprocessing: of evaluation; gives the size, and the crop where the recipe has none.
    """

    def __init__(self, config: "Augment", preprocessing: Preprocessing):
        self.config, self.preprocessing = config, preprocessing
        self.area = (config.min_area or DEFAULT_MIN_AREA, 1.0)
        self.pad = config.pad or DEFAULT_PAD
        magnitude = config.randaugment_magnitude
        self.magnitude = DEFAULT_MAGNITUDE if magnitude is None else magnitude

    def draws(self, keys: stream.UInts) -> list[Draws]:
        """The random numbers of each image of a batch, a pure function of its key. [B] -> B of them"""
        config, count = self.config, len(keys)
        nothing: list[Any] = [None] * count
        crop: list[list[float]] = [[]] * count
        if config.crop == "inception":
            crop = stream.uniforms(keys, DRAWS, CROP).tolist()
        elif config.crop == "resmall":
            crop = stream.uniforms(keys, 2, CROP).tolist()
        shift = shifts(stream.uniforms(keys, 2, CROP), self.pad).tolist() if config.crop == "pad" else nothing
        is_flipped = flipped(keys).tolist() if config.flip else [False] * count
        layers = stream.uniforms(keys, config.randaugment_layers * LAYER_DRAWS, RANDAUGMENT).tolist()
        erased = nothing
        if config.erase_prob:
            erased = erased_boxes(keys, config.erase_prob, self.preprocessing.image_size).tolist()
        return [Draws(*each) for each in zip(crop, shift, is_flipped, layers, erased, strict=True)]

    def __call__(self, image: Encoded, draws: Draws, out: NDArray[np.uint8]) -> None:
        """Decodes and augments one image.

        Args:
          image: an image file, or pixels.
          out: uint8 [c, *image_size]; the result is written here.
        Raises:
          ValueError: if the image cannot be read.
        """
        preprocessing, channels = self.preprocessing, self.preprocessing.channels
        if self.config.crop == "inception":

            def choose(size: tuple[int, int]) -> Box:
                return random_box(draws.crop, size, area=self.area, ratio=CROP_RATIO)

            box = decode_crop(image, channels, choose, preprocessing.image_size)
            pixels = resized(box, list(preprocessing.image_size))
        elif self.config.crop == "resmall":
            height, width = preprocessing.image_size
            larger = enlarged(decode(image, channels), preprocessing.image_size)
            top, left = window_corners(np.array(draws.crop), larger.shape[1:], preprocessing.image_size)
            pixels = larger[:, top : top + height, left : left + width]
        else:
            pixels = evaluation_crop(decode(image, channels), preprocessing)
            if draws.shift is not None:
                (top, left), (height, width) = draws.shift, preprocessing.image_size
                pixels = torch.nn.functional.pad(pixels, (self.pad,) * 4)[:, top : top + height, left : left + width]
        interleaved = pixels.permute(1, 2, 0).numpy()
        if draws.is_flipped:
            interleaved = interleaved[:, ::-1]
        for channel, plane in enumerate(out):  # plane by plane: half the time of a copy with the axes permuted
            plane[...] = interleaved[..., channel]
        if draws.randaugment:
            out[...] = randaugment(out, draws.randaugment, self.magnitude)
        if draws.erased is not None:
            top, left, height, width = draws.erased
            out[:, top : top + height, left : left + width] = ERASE_VALUE
