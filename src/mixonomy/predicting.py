"""Prediction: threads read and decode images ahead while the model answers those that are ready, in order.

Axes: B images in a batch, c image channels, H and W pixels, K classes.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.data import default_workers
from mixonomy.data.decode import decode
from mixonomy.data.transforms import evaluation_crop
from mixonomy.evals import Predictor
from mixonomy.evals.classify import check_probs
from mixonomy.inference import fast
from mixonomy.inference.exported import ExportedModel
from mixonomy.models import ModelInfo, info_of
from mixonomy.preprocessing import Preprocessing

Image = str | os.PathLike[str] | PIL.Image.Image | NDArray[np.uint8]
"""A file, an open image, or pixels uint8 [H, W] or [H, W, 3]."""

Classes = tuple[tuple[str, float], ...]
"""Names of classes and their probabilities."""

BATCH_PIXELS = {"cpu": 16 * 224**2, "mps": 64 * 224**2, "cuda": 256 * 224**2}
MAX_BATCH = 1024
"""A batch has as many images as these pixels make, at most `MAX_BATCH`: enough to keep the device busy."""

BATCHES_AHEAD = 2
MANY = 500  # images that repay a second or two of choosing the fastest path


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, or why it could not be read.

    Args:
      path: of the file; "image 0" and so on for what was no file.
      classes: the likeliest classes with their probabilities, the likeliest first.
      error: why the image could not be read; then there are no classes.
      predicted: the model's answer with its probabilities: the likeliest class; of a model for several classes in an
        image those at or above their thresholds, possibly none.
    """

    path: str
    classes: Classes = ()
    error: str | None = None
    predicted: Classes = ()


def predict(
    model: nn.Module,
    images: Iterable[Image],
    *,
    top: int = 5,
    device: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
) -> Generator[Prediction, None, None]:
    """See `mixonomy.predict`.

    Memory does not grow with the number of images: they are drawn `BATCHES_AHEAD` batches ahead. From `MANY` images on
    the model runs as `mixonomy.fast` chooses.

    Args:
      workers: threads that read and decode; as many as cores if not given.
      batch_size: images that the model sees at once; by their size and the device if not given.
    """
    if isinstance(images, str | os.PathLike | PIL.Image.Image | np.ndarray):
        raise ValueError(f"images is one {type(images).__name__}; give a list, such as [image].")
    for name, value in (("top", top), ("workers", workers), ("batch_size", batch_size)):
        if value is not None and value < (name != "workers"):
            raise ValueError(f"{name} is {value}; give at least {int(name != 'workers')}.")
    predictor = predictor_of(model, device)
    if isinstance(images, Sized) and len(images) >= MANY and not isinstance(model, ExportedModel):
        quick = fast(predictor.model, precision=predictor.precision)
        predictor = replace(predictor, model=quick, precision="fp32")  # the path casts by itself
    batch_size = batch_size or default_batch_size(predictor)
    workers = (default_workers() if workers is None else workers) or 1
    return _predictions(predictor, info_of(model), images, top, workers, batch_size)


def predictor_of(model: nn.Module, device: str = "auto") -> Predictor:
    """The model on its device, in the precision and with the loss it was trained with.

    Raises:
      ValueError: if there is no such device, or the model is an exported file, which runs on the CPU, and another is
        named.
    """
    info = info_of(model)
    if isinstance(model, ExportedModel):
        if device not in ("auto", "cpu"):
            raise ValueError(f"{model.path} is an exported file, which runs on the CPU here, not on {device!r}.")
        where = devices.resolve_device("cpu")
        devices.prepare(where)
        return Predictor(model, info.preprocessing, where, "fp32", info.loss, info.temperature, info.is_multilabel)
    where = devices.resolve_device(device)
    devices.prepare(where)
    return Predictor(
        model.to(where),
        info.preprocessing,
        where,
        devices.resolve_precision(info.precision, where),
        info.loss,
        info.temperature,
        info.is_multilabel,
    )


def default_batch_size(predictor: Predictor) -> int:
    """Images that the model sees at once, by their size and the device."""
    height, width = predictor.preprocessing.image_size
    return min(max(BATCH_PIXELS[predictor.device.type] // (height * width), 1), MAX_BATCH)


def _predictions(
    predictor: Predictor, info: ModelInfo, images: Iterable[Image], top: int, workers: int, batch_size: int
) -> Generator[Prediction, None, None]:
    decoded = _decoded(images, predictor.preprocessing, workers, BATCHES_AHEAD * batch_size)
    while batch := list(islice(decoded, batch_size)):
        good = [pixels for _, pixels in batch if isinstance(pixels, Tensor)]
        answers = answers_of(predictor(torch.stack(good)), info, top) if good else iter(())
        for name, pixels in batch:
            if isinstance(pixels, Tensor):
                classes, predicted = next(answers)
                yield Prediction(name, classes, predicted=predicted)
            else:
                yield Prediction(name, error=pixels)


def _decoded(
    images: Iterable[Image], preprocessing: Preprocessing, workers: int, ahead: int
) -> Iterator[tuple[str, Tensor | str]]:
    """Yields the name of each image, and its pixels uint8 [c, *image_size] or why it cannot be read."""
    pending: deque[tuple[str, Future[Tensor | str]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for number, image in enumerate(images):
                pending.append((_name(image, number), pool.submit(_read, image, preprocessing)))
                if len(pending) > ahead:
                    name, future = pending.popleft()
                    yield name, future.result()
            while pending:
                name, future = pending.popleft()
                yield name, future.result()
        finally:  # the reader may have seen enough
            for _, future in pending:
                future.cancel()


def _name(image: Image, number: int) -> str:
    """The path of a file; else the place among the images.

    Raises:
      ValueError: if it is no image.
    """
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)) or not image.size:
            raise ValueError(
                f"image {number} is an array {image.dtype} {list(image.shape)}; give uint8 [H, W] or [H, W, 3]."
            )
    elif not isinstance(image, PIL.Image.Image):
        raise ValueError(f"image {number} is a {type(image).__name__}; give a path, a PIL image or a uint8 array.")
    return f"image {number}"


def _read(image: Image, preprocessing: Preprocessing) -> Tensor | str:
    try:
        encoded = Path(image).read_bytes() if isinstance(image, str | os.PathLike) else image
        return evaluation_crop(decode(encoded, preprocessing.channels), preprocessing)
    except IsADirectoryError:
        return "a folder, not an image file"
    except FileNotFoundError as error:
        is_link = os.path.islink(os.fspath(image)) if isinstance(image, str | os.PathLike) else False
        return f"a link to a file that is not there ({error.strerror})" if is_link else str(error.strerror)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def answers_of(probs: Tensor, info: ModelInfo, top: int) -> Iterator[tuple[Classes, Classes]]:
    """float64 [B, K] -> for each image (the `top` likeliest classes, the predicted ones), the likeliest first."""
    num_classes = probs.shape[1]
    names = info.class_names or tuple(str(k) for k in range(num_classes))
    if len(names) != num_classes:
        raise ValueError(f"the model has {num_classes} outputs and {len(names)} class names; name every one.")
    check_probs(probs, num_classes)
    thresholds = torch.tensor(info.thresholds, dtype=probs.dtype)
    best = probs.topk(min(top, num_classes))
    for row, values, indices in zip(probs, best.values.tolist(), best.indices.tolist(), strict=True):
        classes = tuple((names[k], prob) for k, prob in zip(indices, values, strict=True))
        if not info.is_multilabel:
            yield classes, classes[:1]
            continue
        chosen = (row >= thresholds).nonzero().flatten().tolist()
        chosen.sort(key=row.tolist().__getitem__, reverse=True)
        yield classes, tuple((names[k], float(row[k])) for k in chosen)
