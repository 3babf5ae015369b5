"""Real images for an exported file: to check it on, to find the ranges of int8, and to judge int8 by.

Axes: N images, c image channels, H and W pixels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixonomy import data
from mixonomy.evals import map_classes
from mixonomy.models import ModelInfo
from mixonomy.preprocessing import Preprocessing

CHECKED = 256
CALIBRATION = 300  # Source: NNCF's default for post-training quantization
SEED = 0


@dataclass(frozen=True)
class RealImages:
    """The images of a source, prepared as for the model.

    Args:
      source: the SOURCE string.
      preprocessing: of the model.
      check, calibration: uint8 [N, c, H, W], some of those that nothing is judged by.
      val: labelled images that the model has not learned from; None where there are none.
      label_map: the model's class for each class of the data; None if they are the same.
    """

    source: str
    preprocessing: Preprocessing
    check: Tensor
    calibration: Tensor
    val: data.Split | None
    label_map: Tensor | None

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the validation images, uint8 [B, c, H, W], and their classes, int64 [B]."""
        assert self.val is not None
        split = data.EvalData(self.val, self.preprocessing, workers=data.default_workers(), bad=data.BadImages("skip"))
        for images, labels, _ in split.batches():
            yield images, labels if self.label_map is None else self.label_map[labels]


def real_images(info: ModelInfo, source: str | None, data_root: str | None, *, calibration: bool) -> RealImages:
    """The images to check a model's file on.

    Args:
      info: of the model.
      source: a SOURCE string; what the model was trained on if None.
      data_root: folder of the known data sets; $MIXONOMY_DATA if None.
      calibration: whether images for int8 are wanted too, and those to judge it by.
    Raises:
      ValueError: if the model names no data and none is given, or it is not there, or its classes are others.
    """
    own = info.trained_on
    if source is None:
        if own is None:
            raise ValueError("these weights name no data to check the file on; say which by --data SOURCE.")
        source = own.source
    opened = data.open_source(source, data_root)
    is_given = source != own.source if own is not None else True
    some, val = _parts(opened, info, is_given=is_given)
    label_map = None
    if calibration and info.class_names:
        label_map = map_classes(info.class_names, opened.class_names)
    order = np.random.default_rng(SEED).choice(len(some), min(len(some), CHECKED + CALIBRATION), replace=False)
    nothing = torch.empty(0)
    return RealImages(
        source,
        info.preprocessing,
        _pixels(some.pick(np.sort(order[:CHECKED])), info.preprocessing),
        _pixels(some.pick(np.sort(order[-CALIBRATION:])), info.preprocessing) if calibration else nothing,
        val if calibration else None,
        label_map,
    )


def _parts(opened: data.Source, info: ModelInfo, *, is_given: bool) -> tuple[data.Split, data.Split | None]:
    """(images that nothing is judged by, images that the model has not learned from or None)."""
    own, splits = info.trained_on, opened.splits
    if own is not None and not is_given and own.digest != opened.digest():
        return next(iter(splits.values())), None  # which of them it learned from is not known
    if own is not None and own.digest == opened.digest() and "train" in splits:
        plan = data.plan_splits(opened, own.val_share, train_on_val=own.with_val, train_images=own.train_images)
        return plan.train, plan.val
    first, *others = splits
    if others:
        return splits[first], splits[next((name for name in ("val", "test") if name in others), others[0])]
    share = min(0.5, (CHECKED + CALIBRATION) / len(splits[first]))
    val, some = data.hold_out(splits[first], share)
    return some, val


def _pixels(split: data.Split, preprocessing: Preprocessing) -> Tensor:
    """uint8 [N, c, H, W]; without those that cannot be read."""
    found = data.EvalData(split, preprocessing, workers=data.default_workers(), bad=data.BadImages("skip"))
    return torch.cat([images for images, *_ in found.batches()])
