"""Pictures of the report: the worst mistakes, and training images as training sees them.

Axes: B images, c image channels, H and W pixels.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixonomy import data
from mixonomy.data.decode import decode
from mixonomy.data.mix import mix
from mixonomy.data.stream import Order
from mixonomy.data.transforms import evaluation_crop
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Recipe
from mixonomy.report.markup import Picture

MAX_PIXELS = 128  # longer sides are scaled down, so that the page stays small
TINY_PIXELS = 64  # images up to here are shown with hard pixel edges
NUM_SAMPLES = 6
NUM_EPOCHS = 6


def mistake_pictures(split: data.Split, mistakes: Sequence[dict[str, Any]], channels: int) -> list[Picture]:
    """The images of wrong predictions, whole, as they are in the data.

    Args:
      mistakes: entries of "worst" in test.json.
    Raises:
      ValueError: if the data is not what the run was scored on, or an image cannot be read.
    """
    pictures = []
    for mistake in mistakes:
        index = mistake["index"]
        if index >= len(split) or split.names[index] != mistake["name"] or split.labels[index] != mistake["label"]:
            raise ValueError(f"image {mistake['name']!r} is not where it was; the data changed after the run.")
        pictures.append(picture(decode(split.images[index], channels), mistake["name"]))
    return pictures


def training_pictures(
    split: data.Split, recipe: Recipe, preprocessing: Preprocessing
) -> list[tuple[int, list[Picture]]]:
    """A few training images as they are without augmentation, and as training sees them in successive epochs.

    They go through the code of training: its loader, and its mixing of a batch, which is here the few images. With
    the recipe's seed, but another order than in training, so the random numbers are others of the same kind.

    Returns:
      (label, pictures) of each image: plain first, then epoch by epoch.
    """
    few = split.pick(_spread(split.labels))
    loader = data.train_data(
        few, recipe.augment, preprocessing, seed=recipe.seed, device=torch.device("cpu"), workers=0
    )
    size, stream = len(few), loader.batches(0, len(few))
    rows: list[list[Tensor]] = [
        [evaluation_crop(decode(few.images[i], preprocessing.channels), preprocessing)] for i in range(size)
    ]
    for epoch in range(NUM_EPOCHS):
        batch = next(stream)
        mixed, _ = mix(batch.images.float(), torch.eye(size), batch.keys, recipe.augment)
        order = Order(recipe.seed, size).at(epoch * size, size).indices
        for index, pixels in zip(order.tolist(), mixed.round().to(torch.uint8), strict=True):
            rows[index].append(pixels)
    alts = ["without augmentation", *(f"as seen in epoch {epoch + 1}" for epoch in range(NUM_EPOCHS))]
    return [
        (int(label), [picture(pixels, alt) for pixels, alt in zip(row, alts, strict=True)])
        for label, row in zip(few.labels, rows, strict=True)
    ]


def _spread(labels: np.ndarray) -> np.ndarray:
    """Indices of the first images of a few classes, evenly over the class list; of fewer classes, then of any."""
    _, firsts = np.unique(labels, return_index=True)
    if len(firsts) >= NUM_SAMPLES:
        return firsts[np.linspace(0, len(firsts) - 1, NUM_SAMPLES).round().astype(int)]
    others = np.setdiff1d(np.arange(len(labels)), firsts)
    return np.sort(np.concatenate([firsts, others])[:NUM_SAMPLES])


def picture(pixels: Tensor, alt: str) -> Picture:
    """uint8 [c, H, W] as a PNG inside a data URI."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).squeeze(2).numpy()  # [c, H, W] -> [H, W, 3] or [H, W]
    image = Image.fromarray(array)
    image.thumbnail((MAX_PIXELS, MAX_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, alt, is_tiny=max(array.shape[:2]) <= TINY_PIXELS)
