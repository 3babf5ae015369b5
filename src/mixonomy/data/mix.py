"""Mixup and cutmix: each image is mixed with its neighbour in the batch, and so are their labels.

Axes: B images, c image channels, H and W pixels, K classes.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mixonomy.data import stream
from mixonomy.data.augment import CUTMIX, MIXUP, inside
from mixonomy.devices import on_device

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy.recipe import Augment


def mix(
    images: Tensor, targets: Tensor, keys: stream.UInts, config: "Augment", first_key: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mixes a batch as the recipe says; returns it unchanged if it says nothing.

    Args:
      images: float [B, c, H, W].
      targets: float [B, K], one row of class weights per image.
      keys: [B] from `stream.sample_keys`.
      first_key: of the whole batch, where this is a part of one; keys[0] if not given.
    """
    if config.mixup:
        seed = int(keys[0]) if first_key is None else first_key
        return mixup(images, targets, beta=config.mixup, seed=seed ^ MIXUP)
    if config.cutmix_prob:
        return cutmix(images, targets, keys, config.cutmix_prob)
    return images, targets


def mixup(images: Tensor, targets: Tensor, *, beta: float, seed: int) -> tuple[Tensor, Tensor]:
    """Adds the neighbour's pixels and labels with one weight for the whole batch, never above a half.

    Source: big_vision utils.py (get_mixup): a ~ Beta(p, p), a = max(a, 1 - a), partner by a roll of one.
    """
    weight = np.random.default_rng(seed).beta(beta, beta)
    weight = max(weight, 1.0 - weight)
    return (
        torch.lerp(images.roll(1, 0), images, weight),
        torch.lerp(targets.roll(1, 0), targets, weight),
    )


def cutmix(images: Tensor, targets: Tensor, keys: stream.UInts, prob: float) -> tuple[Tensor, Tensor]:
    """Pastes a box of the neighbour into an image with probability `prob`; labels mix by the box's true area.

    The box covers a uniform share of the image (Beta(1, 1)) around a uniform centre and is cut at the edge.
    Source: Yun et al. 2019, "CutMix", section 3.1.
    """
    height, width = images.shape[2:]
    apply, share, y, x = stream.uniforms(keys, 4, CUTMIX).T
    half_height, half_width = (np.sqrt(share) * side / 2 for side in (height, width))
    top = np.maximum(y * height - half_height, 0).astype(np.int64)
    left = np.maximum(x * width - half_width, 0).astype(np.int64)
    bottom = np.minimum(y * height + half_height, height).astype(np.int64)
    right = np.minimum(x * width + half_width, width).astype(np.int64)
    boxes = np.stack([top, left, bottom - top, right - left], axis=1)
    boxes[apply >= prob, 2:] = 0
    shares = torch.from_numpy(boxes[:, 2] * boxes[:, 3] / (height * width)).to(targets.dtype)
    pasted = on_device(shares, targets.device)[:, None]
    mask = inside(boxes, (height, width), images.device).to(images.dtype)
    # A weight of 0 or 1 picks exactly, and on a CPU several times as fast as torch.where.
    return torch.lerp(images, images.roll(1, 0), mask), torch.lerp(targets, targets.roll(1, 0), pasted)
