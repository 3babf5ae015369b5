"""ImageNet ReaL: validation images with reassessed labels, of which an image may have several or none.

Axes: B images in a batch, N images of the split, K classes of the model.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NUM_IMAGES = 50_000
NUM_CLASSES = 1000
MIN_SAME = 0.5  # of the images in ImageNet's order about 0.9 have their own label among ReaL's; in another about 0.001
NO_IMAGE = -1
NO_CLASS = -1
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")

Labels = Sequence[frozenset[int]]
"""For each of ImageNet's 50,000 validation images, in the order of their numbers, the classes that count as right."""


def read_real(path: str | Path) -> Labels:
    """Reads real.json.

    Raises:
      ValueError: if there is no such file, or it is not 50,000 lists of numbers from 0 to 999.
    Source: Beyer et al. 2020, "Are we done with ImageNet?"; google-research/reassessed-imagenet real.json.
    """
    try:
        lists = json.loads(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
        found = [frozenset(labels) for labels in lists]
        classes = set().union(*found)
    except OSError as error:
        raise ValueError(f"no ReaL labels in {path} ({error.strerror}); give the file real.json.") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no ReaL labels ({error}); give the file real.json.") from None
    if len(found) != NUM_IMAGES or not classes <= set(range(NUM_CLASSES)):
        raise ValueError(
            f"{path} has {len(found):,} lists; real.json has {NUM_IMAGES:,} of them, of numbers from 0 to 999."
        )
    return found


def image_index(name: str) -> int:
    """The place in real.json of an image by its name, such as "val/ILSVRC2012_val_00000001.JPEG"; -1 of another."""
    found = _NAME.search(Path(name).name)
    number = int(found[1]) if found else 0
    return number - 1 if 1 <= number <= NUM_IMAGES else NO_IMAGE


@dataclass
class Real:
    """Sums over scored images: a prediction is right if it is among the reassessed labels.

    Args:
      labels: of all validation images, see `read_real`.
      images: int64 [N], for each image of the split its place in `labels`; -1 where it is no validation image.
      classes: int64 [K], for each output of the model the class of ImageNet; -1 where it is none.
      correct, n: images whose prediction is right, and those that have labels.
      num_empty: validation images without labels, which do not count.
      num_others: images that are not ImageNet's validation images, which do not count either.
    """

    labels: Labels
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    correct: int = 0
    n: int = 0
    num_empty: int = 0
    num_others: int = 0

    @classmethod
    def of_names(cls, labels: Labels, names: Sequence[str], classes: NDArray[np.int64]) -> "Real":
        """For images with the names that ImageNet gives them.

        Raises:
          ValueError: if no name is that of a validation image.
        """
        images = np.array([image_index(name) for name in names], dtype=np.int64)
        if (images == NO_IMAGE).all():
            raise ValueError(
                f"none of the {len(names):,} images is named like ImageNet's validation images "
                f"(ILSVRC2012_val_00000001.JPEG), which have ReaL labels; give those, another --split, or --real-by "
                f"index if all {NUM_IMAGES:,} are in ImageNet's order."
            )
        return cls(labels, images, classes)

    @classmethod
    def in_order(
        cls, labels: Labels, own: NDArray[Any], of_data: NDArray[np.int64], classes: NDArray[np.int64]
    ) -> "Real":
        """For all validation images in ImageNet's own order, whatever they are called.

        Args:
          own: int64 [N], the label that the data gives each image.
          of_data: for each class of the data its class of ImageNet.
        Raises:
          ValueError: if they are more or fewer, or the labels of the data tell that they are in another order.
        """
        if len(own) != NUM_IMAGES:
            raise ValueError(
                f"there are {len(own):,} images and ImageNet has {NUM_IMAGES:,} for validation, so their places do "
                f"not say which they are; give all of them in ImageNet's order, or --real-by name."
            )
        images = np.arange(NUM_IMAGES)
        given = of_data[own[images]].tolist()
        same = [answer in right for answer, right in zip(given, labels, strict=True) if right]
        if sum(same) < MIN_SAME * len(same):
            raise ValueError(
                f"only {sum(same) / len(same):.1%} of the images have a label that ReaL gives for their place, "
                f"so they are not in ImageNet's order; bring them into it, or give --real-by name."
            )
        return cls(labels, images, classes)

    def add(self, probs: Tensor, indices: Sequence[int]) -> None:
        """Adds a batch: float [B, K] on the CPU, and which images of the split they are."""
        predicted = self.classes[probs.argmax(1).numpy()]
        for index, answer in zip(indices, predicted.tolist(), strict=True):
            place = int(self.images[index])
            if place == NO_IMAGE:
                self.num_others += 1
            elif not self.labels[place]:
                self.num_empty += 1
            else:
                self.n += 1
                self.correct += answer in self.labels[place]

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value); no accuracy where no image has labels."""
        if self.n:
            yield "real_top1", self.correct / self.n
        yield "real_n", self.n
        yield "real_empty", self.num_empty
        yield "real_others", self.num_others


def imagenet_classes(
    num_outputs: int, imagenet_indices: Sequence[int], label_map: Tensor | None, source: str
) -> NDArray[np.int64]:
    """For each output of a model its class of ImageNet, int64 [K]; -1 where there is none.

    Args:
      num_outputs: K; a model with 1,000 is taken for one of ImageNet in its order, which the data may contradict.
      imagenet_indices: for each class of the data its class of ImageNet; none of data that does not say.
      label_map: the model's class for each class of the data, see `map_classes`.
      source: the data's name, for messages.
    Raises:
      ValueError: if neither model nor data say which classes of ImageNet theirs are, or they disagree.
    """
    of_data = np.arange(len(imagenet_indices)) if label_map is None else label_map.numpy()
    known = np.full(num_outputs, NO_CLASS, dtype=np.int64)
    if imagenet_indices:
        known[of_data] = imagenet_indices
    if num_outputs == NUM_CLASSES:
        everything = np.arange(NUM_CLASSES)
        if ((known != NO_CLASS) & (known != everything)).any():
            raise ValueError(f"the model's 1,000 classes are not in ImageNet's order, which {source} knows by name.")
        return everything
    if not imagenet_indices:
        raise ValueError(
            f"{source} does not say which of ImageNet's classes its own are; give data with all 1,000, or parquet "
            f"files with imagenet_indices in their metadata."
        )
    return known
