"""Batches for training and evaluation, from memory where the images fit, else decoded by worker processes.

Axes: B images in a batch, N images, c image channels, H and W pixels.
"""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixonomy.data import stream
from mixonomy.data.augment import augment_batch
from mixonomy.data.decode import decode
from mixonomy.data.sources import Split
from mixonomy.data.transforms import TrainTransform, evaluation_crop
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

MEMORY_BYTES = 2 * 2**30  # decoded images up to here live in memory as one uint8 tensor
EVAL_BATCH = 250


@dataclass(frozen=True)
class Batch:
    """A training batch, augmented but not yet normalised or mixed.

    Args:
      images: uint8 [B, c, H, W].
      labels: int64 [B].
      keys: the random keys of the samples, [B].
    """

    images: Tensor
    labels: Tensor
    keys: stream.UInts


class TrainData(Protocol):
    """An endless stream of batches that can start at any position."""

    kind: str

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """Batches from the sample at `position` of the stream on."""
        ...


def train_data(
    split: Split,
    augment: Augment,
    preprocessing: Preprocessing,
    *,
    seed: int,
    device: torch.device,
    workers: int,
) -> TrainData:
    """Chooses the in-memory path if the images are small, of one size, and the augmentation works on batches."""
    if not augment.randaugment_layers:
        pixels = _equal_pixels(split, augment, preprocessing)
        if pixels is not None:
            return InMemoryData(pixels.to(device), split, augment, preprocessing, seed)
    return WorkerData(split, augment, preprocessing, seed, workers)


def default_workers() -> int:
    """As many worker processes as cores this process may use, at most 8."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def named_decode(split: Split, index: int, channels: int) -> Tensor:
    """Decodes one image of a split; an error names the image."""
    try:
        return decode(split.images[index], channels)
    except ValueError as error:
        raise ValueError(f"image {split.names[index]!r}: {error}; remove or replace it.") from None


class InMemoryData:
    """All training images as one uint8 tensor on the device, augmented batch-wise."""

    kind = "in memory"

    def __init__(self, pixels: Tensor, split: Split, augment: Augment, preprocessing: Preprocessing, seed: int):
        self.pixels, self.labels = pixels, torch.from_numpy(split.labels).to(pixels.device)
        self.augment, self.image_size, self.seed = augment, preprocessing.image_size, seed

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """See `TrainData`."""
        while True:
            epochs, indices = stream.samples_at(self.seed, position, batch_size, len(self.labels))
            keys = stream.sample_keys(self.seed, epochs, indices)
            picked = torch.from_numpy(indices).to(self.pixels.device)
            images = augment_batch(self.pixels[picked], keys, self.augment, self.image_size)
            yield Batch(images, self.labels[picked], keys)
            position += batch_size


class WorkerData:
    """Images decoded and augmented one by one in worker processes, in the order of the stream."""

    kind = "decoded by workers"

    def __init__(self, split: Split, augment: Augment, preprocessing: Preprocessing, seed: int, workers: int):
        self.dataset = _TrainSamples(split, TrainTransform(augment, preprocessing), preprocessing.channels, seed)
        self.seed, self.workers = seed, workers

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """See `TrainData`."""
        order = _StreamOrder(self.seed, position, batch_size, len(self.dataset.split))
        loader = DataLoader(self.dataset, batch_sampler=order, collate_fn=_collate, **_worker_options(self.workers))
        for batch in loader:
            if isinstance(batch, ValueError):  # a bad image; raised in a worker it would bring its traceback along
                raise batch
            yield batch


@dataclass(frozen=True)
class _TrainSamples(Dataset):
    split: Split
    transform: TrainTransform
    channels: int
    seed: int

    def __getitem__(self, visit: tuple[int, int]) -> tuple[Tensor, int, int] | ValueError:
        epoch, index = visit
        key = int(stream.sample_keys(self.seed, np.array([epoch]), np.array([index]))[0])
        try:
            pixels = named_decode(self.split, index, self.channels)
        except ValueError as error:
            return error
        return self.transform(pixels, key), int(self.split.labels[index]), key


@dataclass(frozen=True)
class _StreamOrder:
    """An endless batch sampler over (epoch, index)."""

    seed: int
    position: int
    batch_size: int
    num_samples: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = self.position
        while True:
            epochs, indices = stream.samples_at(self.seed, position, self.batch_size, self.num_samples)
            yield list(zip(epochs.tolist(), indices.tolist(), strict=True))
            position += self.batch_size


def _collate(samples: list[tuple[Tensor, int, int] | ValueError]) -> Batch | ValueError:
    good = [sample for sample in samples if not isinstance(sample, ValueError)]
    if len(good) < len(samples):
        return next(sample for sample in samples if isinstance(sample, ValueError))
    images, labels, keys = zip(*good, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), np.array(keys, dtype=np.uint64))


class EvalData:
    """A split in its own order as evaluation sees it; kept in memory after the first pass if it fits.

    Args:
      workers: processes that decode what does not fit.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, *, workers: int = 0):
        self.split, self.preprocessing, self.workers = split, preprocessing, workers
        self._pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.split)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (uint8 [B, c, H, W], int64 [B]); the last batch is as small as it comes."""
        labels = torch.from_numpy(self.split.labels)
        height, width = self.preprocessing.image_size
        if len(self) * self.preprocessing.channels * height * width <= MEMORY_BYTES:
            if self._pixels is None:
                self._pixels = _in_threads(self._one, len(self))
            yield from zip(self._pixels.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True)
            return
        batches = [list(range(i, min(i + EVAL_BATCH, len(self)))) for i in range(0, len(self), EVAL_BATCH)]
        options = _worker_options(self.workers)
        loader = DataLoader(_EvalSamples(self), batch_sampler=batches, collate_fn=list, **options)
        for images, some in zip(loader, labels.split(EVAL_BATCH), strict=True):
            if bad := [image for image in images if isinstance(image, ValueError)]:
                raise bad[0]
            yield torch.stack(images), some

    def _one(self, index: int) -> Tensor:
        return evaluation_crop(named_decode(self.split, index, self.preprocessing.channels), self.preprocessing)


@dataclass(frozen=True)
class _EvalSamples(Dataset):
    data: EvalData

    def __getitem__(self, index: int) -> Tensor | ValueError:
        try:
            return self.data._one(index)
        except ValueError as error:
            return error


def _leave_ctrl_c_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _worker_options(workers: int) -> dict[str, Any]:
    if not workers:
        return {"num_workers": 0}
    return {
        "worker_init_fn": _leave_ctrl_c_to_the_parent,
        "num_workers": workers,
        "prefetch_factor": 2,
        "multiprocessing_context": "fork" if sys.platform == "linux" else None,
    }


def _equal_pixels(split: Split, augment: Augment, preprocessing: Preprocessing) -> Tensor | None:
    """All images as uint8 [N, c, H, W], or None if they differ in size or do not fit.

    Where the recipe does not crop at random from the original, they are brought to the model's size here, once.
    """
    first = named_decode(split, 0, preprocessing.channels)
    keeps_size = augment.crop == "inception"
    size = first.shape if keeps_size else (preprocessing.channels, *preprocessing.image_size)
    if len(split) * int(np.prod(size)) > MEMORY_BYTES:
        return None

    def one(index: int) -> Tensor:
        pixels = named_decode(split, index, preprocessing.channels)
        if not keeps_size:
            return evaluation_crop(pixels, preprocessing)
        if pixels.shape != first.shape:
            raise _UnequalSizes
        return pixels

    try:
        return _in_threads(one, len(split))
    except _UnequalSizes:
        return None


class _UnequalSizes(Exception):
    """Some image has another size than the first."""


def _in_threads(one: Any, count: int) -> Tensor:
    """Stacks one(0) ... one(count - 1); decoding and resizing leave Python's lock to the other threads."""
    out: Tensor | None = None
    chunks = [range(i, min(i + 256, count)) for i in range(0, count, 256)]
    with ThreadPoolExecutor(default_workers()) as pool:
        for chunk, images in zip(chunks, pool.map(lambda c: torch.stack([one(i) for i in c]), chunks), strict=True):
            if out is None:
                out = torch.empty((count, *images.shape[1:]), dtype=torch.uint8)
            out[chunk.start : chunk.stop] = images
    assert out is not None, "a split has at least one image"
    return out
