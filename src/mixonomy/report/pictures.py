"""Pictures of the report: mistakes, likely label errors, and training images as training sees them.

Axes: B images, c image channels, H and W pixels.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixonomy import data
from mixonomy.data.decode import decode
from mixonomy.data.loading import order_of
from mixonomy.data.mix import mix
from mixonomy.data.splits import is_large
from mixonomy.data.transforms import evaluation_crop
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Recipe
from mixonomy.report.finished import FinishedRun
from mixonomy.report.markup import Picture

MAX_PIXELS = 128  # longer sides are scaled down, so that the page stays small
TINY_PIXELS = 64  # images up to here are shown with hard pixel edges
NUM_SAMPLES = 6
NUM_EPOCHS = 6
FIRST = 1000  # training images that samples are taken from where there are too many to look at all


@dataclass(frozen=True)
class RunPictures:
    """All pictures of a report, in the order of what they illustrate.

    Args:
      mistakes: of "worst" in test.json.
      label_errors: split -> of those that are listed.
      confused: of each pair of classes, an example of either direction.
      samples: label (a class number, or several) and pictures of a few training images, see `training_pictures`.
    """

    mistakes: list[Picture]
    label_errors: dict[str, list[Picture]]
    confused: list[list[Picture | None]]
    samples: list[tuple[int | list[int], list[Picture]]]


def run_pictures(run: FinishedRun, data_root: str | None) -> RunPictures:
    """Reads the pictures from the data that the run was trained on.

    Args:
      data_root: folder of the known data sets; $MIXONOMY_DATA if None.
    Raises:
      ValueError: if the data is not there or has changed, or an image cannot be read.
    """
    source = data.open_source(run.recipe.data.source, data_root)
    config = run.recipe.data
    plan = data.plan_splits(
        source, config.val_share, train_on_val=config.train_on_val, train_images=config.train_images
    )
    channels = run.preprocessing.channels
    splits = {"test": plan.test, "val": plan.val}
    label_errors = {}
    for name, errors in run.label_errors().items():
        split = splits[name]
        if split is None:
            raise ValueError("the validation images are not where they were; the data changed after the run.")
        label_errors[name] = [_record_picture(split, one, channels) for one in errors["listed"]]
    bad = {image["name"] for image in run.result["bad_images"]}
    readable = plan.train.pick(np.arange(FIRST)) if is_large(plan.train) else plan.train
    if bad:
        readable = readable.pick(np.flatnonzero([name not in bad for name in readable.names]))
    return RunPictures(
        mistakes=[_record_picture(plan.test, one, channels) for one in run.test["worst"]],
        label_errors=label_errors,
        confused=[
            [None if one is None else _record_picture(plan.test, one, channels) for one in pair["examples"]]
            for pair in run.test.get("confused_pairs", ())
        ],
        samples=training_pictures(readable, run.recipe, run.preprocessing),
    )


def _record_picture(split: data.Split, record: dict[str, Any], channels: int) -> Picture:
    """The image of a record in test.json (which has its index, name and label), whole, as it is in the data."""
    index = record["index"]
    if index >= len(split) or split.names[index] != record["name"] or _label(split, index) != record["label"]:
        raise ValueError(f"image {record['name']!r} is not where it was; the data changed after the run.")
    return picture(decode(split.images[index], channels), record["name"])


def _label(split: data.Split, index: int) -> int | list[int]:
    """The class number of an image, or all of them where it may have several."""
    return np.flatnonzero(split.labels[index]).tolist() if split.is_multilabel else int(split.labels[index])


def training_pictures(
    split: data.Split, recipe: Recipe, preprocessing: Preprocessing
) -> list[tuple[int | list[int], list[Picture]]]:
    """A few training images as they are without augmentation, and as training sees them in successive epochs.

    They go through the code of training: its loader, and its mixing of a batch, which is here the few images. With
    the recipe's seed, but another order than in training, so the random numbers are others of the same kind.

    Returns:
      (label, pictures) of each image: plain first, then epoch by epoch.
    """
    few = split.pick(_spread(split.labels[:]))  # read, where they lie in a file
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
        order = order_of(few, recipe.seed).at(epoch * size, size).indices
        for index, pixels in zip(order.tolist(), mixed.round().to(torch.uint8), strict=True):
            rows[index].append(pixels)
    alts = ["without augmentation", *(f"as seen in epoch {epoch + 1}" for epoch in range(NUM_EPOCHS))]
    return [
        (_label(few, index), [picture(pixels, alt) for pixels, alt in zip(row, alts, strict=True)])
        for index, row in enumerate(rows)
    ]


def _spread(labels: np.ndarray) -> np.ndarray:
    """Indices of the first images of a few classes, evenly over the class list; of fewer classes, then of any.

    Args:
      labels: int64 [N] or bool [N, K].
    """
    if labels.ndim == 2:
        firsts = np.unique(labels.argmax(0)[labels.any(0)])
    else:
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
