"""Transforms of one image: the evaluation crops, and the per-sample path of training.

Axes: c image channels, H and W pixels.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixonomy.data.augment import (
    CROP_RATIO,
    DEFAULT_MIN_AREA,
    DEFAULT_PAD,
    ERASE_AREA,
    ERASE_RATIO,
    ERASE_VALUE,
)
from mixonomy.preprocessing import PAD_VALUE, Preprocessing

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
        return torch.nn.functional.pad(_resized(pixels, size), bars, value=PAD_VALUE)
    if preprocessing.crop == "squash":
        return _resized(pixels, [height, width])
    larger = (height * preprocessing.resize, width * preprocessing.resize)
    if preprocessing.crop == "resmall":
        scale = max(larger[0] / pixels.shape[1], larger[1] / pixels.shape[2])
        larger = (pixels.shape[1] * scale, pixels.shape[2] * scale)
    size = [max(round(larger[0]), height), max(round(larger[1]), width)]
    if size[0] * size[1] > MAX_PIXELS:
        shape = f"{pixels.shape[1]}x{pixels.shape[2]} pixels"
        raise ValueError(f"not a usable image ({shape} is too long and narrow for the crop {preprocessing.crop})")
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return _resized(pixels, size)[:, top : top + height, left : left + width]


def _resized(pixels: Tensor, size: list[int]) -> Tensor:
    """uint8 [c, H, W] -> uint8 [c, *size]; what torchvision's v2 resize gives, without seconds of importing it."""
    if list(pixels.shape[1:]) == size:
        return pixels
    return torch.nn.functional.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]


class TrainTransform:
    """One training image by torchvision's transforms, with a random state of its own.

    Args:
      config: the recipe's augmentation, without the mixing of images.
      preprocessing: of evaluation; gives the size, and the crop where the recipe has none.

    RandAugment is torchvision's. big_vision's, which the paper's runs used, has 16 operations to torchvision's 14,
    stronger ones at the same magnitude (its scale ends at 10), and applies each with a probability of its own.
    """

    def __init__(self, config: "Augment", preprocessing: Preprocessing):
        from torchvision.transforms import v2

        size = list(preprocessing.image_size)
        self.preprocessing = preprocessing
        self.crop = config.crop
        steps: list[torch.nn.Module] = []
        if config.crop == "inception":
            area = (config.min_area or DEFAULT_MIN_AREA, 1.0)
            steps.append(v2.RandomResizedCrop(size, scale=area, ratio=CROP_RATIO, antialias=True))
        elif config.crop == "pad":
            steps.append(v2.RandomCrop(size, padding=config.pad or DEFAULT_PAD))
        if config.flip:
            steps.append(v2.RandomHorizontalFlip())
        if config.randaugment_layers:
            magnitude = config.randaugment_magnitude
            magnitude = DEFAULT_MAGNITUDE if magnitude is None else magnitude
            # On a PIL image, where these operations are several times faster than on a uint8 tensor.
            steps += [
                v2.ToPILImage(),
                v2.RandAugment(config.randaugment_layers, magnitude, fill=ERASE_VALUE),
                v2.PILToTensor(),
            ]
        if config.erase_prob:
            steps.append(v2.RandomErasing(config.erase_prob, scale=ERASE_AREA, ratio=ERASE_RATIO, value=ERASE_VALUE))
        self.steps = v2.Compose(steps) if steps else v2.Identity()

    def __call__(self, pixels: Tensor, key: int) -> Tensor:
        """uint8 [c, H, W] -> uint8 [c, *image_size]; the result depends on the pixels and the key alone.

        Seeds torch's process-wide generator and puts its state back; not for threads.
        """
        if self.crop != "inception":
            pixels = evaluation_crop(pixels, self.preprocessing)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            return self.steps(pixels)
