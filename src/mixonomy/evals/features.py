"""Features of images by a frozen model, kept on disk under a name that is a digest of all they depend on.

Axes: B images in a batch, N images, C channels of the features, K classes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mixonomy import __version__, parallel
from mixonomy.data import BadImage, BadImages, EvalData, Split
from mixonomy.data.loading import none_readable
from mixonomy.devices import autocast
from mixonomy.evals.predictor import Predictor, normalise
from mixonomy.models.files import write_atomically

FORMAT = 1
ROWS = 4096


@dataclass(frozen=True, eq=False)
class Features:
    """What a model makes of images, and their labels.

    Args:
      values: float32 [N, C], on the CPU.
      labels: int64 [N].
      indices: int64 [N], which images of the split; rising.
    """

    values: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, rows: Tensor | NDArray[np.int64]) -> "Features":
        """Some rows, in this order."""
        at = torch.as_tensor(rows)
        return Features(self.values[at], self.labels[at], self.indices[at])

    def of_images(self, indices: Sequence[int] | NDArray[np.int64]) -> "Features":
        """The rows of these images of the split, in the order of the split; those that could not be read have none."""
        return self.pick(np.flatnonzero(np.isin(self.indices.numpy(), indices)))


class FeatureModel(Protocol):
    """A model whose representation before the head can be asked for."""

    def features(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, C]."""
        ...


class Probe(Protocol):
    """A classifier on features: `RidgeProbe`, `LinearProbe` or `KNN`."""

    def scores(self, features: Tensor) -> Tensor:
        """float [N, C] -> [N, K]; the largest of a row names the class."""
        ...


def top1(probe: Probe, features: Features) -> float:
    """Share of images whose class the probe names; of equal scores the first class counts."""
    parts = zip(features.values.split(ROWS), features.labels.split(ROWS), strict=True)
    return sum(int((probe.scores(x).argmax(1).cpu() == y).sum()) for x, y in parts) / len(features)


def joined(first: Features, second: Features) -> Features:
    """The rows of both; indices are those of the splits they came from."""
    return Features(
        torch.cat([first.values, second.values]),
        torch.cat([first.labels, second.labels]),
        torch.cat([first.indices, second.indices]),
    )


def features_of(
    predictor: Predictor,
    split: Split,
    *,
    workers: int = 0,
    bad: BadImages | None = None,
    cache: Path | None = None,
) -> Features:
    """Runs the model's `features` over the images of a split, or reads what an earlier call wrote.

    Args:
      predictor: the model with its preprocessing, device and precision.
      workers: processes that decode what does not fit in memory.
      bad: takes note of images that cannot be read; the first is an error if not given.
      cache: folder of the files, made where it is missing; nothing is kept if not given. A file is found by a digest of
        the weights, the layers, preprocessing, precision, and the bytes of all images; any change gives another file.
    Raises:
      ValueError: if an image may have several labels, the model has no `features`, or they are not finite.
    """
    if split.is_multilabel:
        raise ValueError("images with several labels cannot be probed; give data with one label for each image.")
    if not callable(getattr(predictor.model, "features", None)):
        raise ValueError(
            f"this {type(predictor.model).__name__} has no features(images) -> [B, C]; give it that method to probe it."
        )
    bad = BadImages() if bad is None else bad
    path = None if cache is None else cache / f"{digest(predictor, split)}.safetensors"
    found = None if path is None else _read(path)
    if found is None:
        found = _compute(predictor, split, workers, bad)
        if path is not None:
            _write(path, *found)
    else:
        bad.add(*(BadImage(split.names[index], error) for index, error in found[2]))
    values, indices = found[0], found[1]
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the model's features are not finite; its weights have diverged. Train it with a lower --lr.")
    return Features(values, torch.from_numpy(np.array(split.labels))[indices], indices)


def digest(predictor: Predictor, split: Split) -> str:
    """Thirty-two hexadecimal digits of everything that features depend on; labels and names are not among it."""
    model, preprocessing = predictor.model, predictor.preprocessing
    # repr shows what weights do not: the form of the GELU, strides, epsilons.
    facts = [FORMAT, __version__, repr(model), preprocessing.to_dict(), predictor.precision, predictor.device.type]
    found = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for index in range(len(split)):
        try:
            encoded = split.images[index]
        except OSError:
            encoded = b""
        shape = list(encoded.shape) if isinstance(encoded, np.ndarray) else len(encoded)
        found.update(f"{index} {shape}\n".encode())
        found.update(np.ascontiguousarray(encoded).data if isinstance(encoded, np.ndarray) else encoded)
    return found.hexdigest()[:32]


Found = tuple[Tensor, Tensor, list[tuple[int, str]]]
"""Features [N, C], indices [N], and of each image that could not be read its index and why."""


@torch.inference_mode()
def _compute(predictor: Predictor, split: Split, workers: int, bad: BadImages) -> Found:
    model, was_training = cast(FeatureModel, predictor.model), predictor.model.training

    def own() -> Iterator[tuple[Tensor, Tensor]]:
        for images, _, where in EvalData(split, predictor.preprocessing, workers=workers, bad=bad).batches():
            with autocast(predictor.device, predictor.precision):
                x = model.features(normalise(images.to(predictor.device), predictor.preprocessing))
            yield x.float().cpu(), where

    predictor.model.eval()
    try:
        made = list(parallel.in_turn(own()))
    finally:
        predictor.model.train(was_training)
    if not made:
        raise none_readable(split, range(len(split)))
    values, indices = zip(*made, strict=True)
    bad.share()
    at = torch.cat(indices)
    missing = sorted(set(range(len(split))) - set(at.tolist()))
    return torch.cat(values), at, [(index, bad.errors.get(split.names[index], "")) for index in missing]


def _write(path: Path, values: Tensor, indices: Tensor, missing: list[tuple[int, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "missing": missing}
    tensors = {"values": values.contiguous(), "indices": indices.contiguous()}
    write_atomically(path, save(tensors, metadata={"mixonomy_features": json.dumps(content)}))


def _read(path: Path) -> Found | None:
    """None where there is no such file, or it is damaged and must be computed again."""
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["mixonomy_features"])
            values, indices = file.get_tensor("values"), file.get_tensor("indices")
            missing = [(int(index), str(error)) for index, error in content["missing"]]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return values, indices, missing
