"""Batches for training and evaluation, from memory where the images fit, else decoded by worker processes.

Axes: B images in a batch, N images, c image channels, H and W pixels.
"""

import importlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixonomy import parallel
from mixonomy.data import stream
from mixonomy.data.augment import augment_batch
from mixonomy.data.bad_images import BadImage, BadImages
from mixonomy.data.batch import Batch
from mixonomy.data.decode import decode
from mixonomy.data.shuffle import PIECE, WINDOW, SampleOrder, WindowedOrder
from mixonomy.data.sources import Split
from mixonomy.data.sources.base import Images, Labels, are_in_sequence, prefetch, read_ahead
from mixonomy.data.splits import is_large
from mixonomy.data.transforms import TrainTransform, enlarged, evaluation_crop
from mixonomy.data.workers import PREFETCH, alive, default_workers, shared_memory, worker_options
from mixonomy.devices import on_device
from mixonomy.preprocessing import Preprocessing

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy.recipe import Augment

MEMORY_BYTES = 2 * 2**30  # decoded images up to here live in memory as one uint8 tensor
EVAL_BATCH = 250


class TrainData(Protocol):
    """An endless stream of batches that can start at any position."""

    kind: str

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """Batches from the sample at `position` of the stream on; of each this rank's part."""
        ...


def train_data(
    split: Split,
    augment: "Augment",
    preprocessing: Preprocessing,
    *,
    seed: int,
    device: torch.device,
    workers: int,
    bad: BadImages | None = None,
    is_balanced: bool = False,
) -> TrainData:
    """Chooses the in-memory path if the images are small, of one size, and the augmentation works on batches.

    Args:
      bad: takes note of images that cannot be read; the first is an error if not given.
      is_balanced: whether every class comes equally often, instead of every image.
    Raises:
      ValueError: if an image, or every image, cannot be read, or images with several classes are to be balanced.
    """
    bad = BadImages() if bad is None else bad
    if is_balanced and split.is_multilabel:
        raise ValueError("images with several labels cannot be drawn equally often by class; use --balance loss.")
    if is_balanced and is_large(split):
        raise ValueError(f"{len(split):,} images are too many to be drawn equally often by class; use --balance loss.")
    order = order_of(split, seed, is_balanced=is_balanced)
    if not augment.randaugment_layers:
        pixels = _equal_pixels(split, augment, preprocessing, device, bad)
        if pixels is not None:
            return InMemoryData(pixels, split, augment, preprocessing, order, bad)
    return WorkerData(split, augment, preprocessing, order, workers, bad)


def order_of(split: Split, seed: int, *, is_balanced: bool = False) -> SampleOrder:
    """The order in which training sees the samples: of shards one that reads mostly in sequence."""
    if is_balanced:
        return stream.Order(seed, len(split), split.labels.astype(np.int64))
    if are_in_sequence(split.images):
        return WindowedOrder(seed, len(split))
    return stream.Order(seed, len(split))


def read_image(split: Split, index: int, channels: int) -> Tensor | BadImage:
    """Decodes one image of a split to uint8 [channels, H, W], or says why it cannot."""
    try:
        return decode(split.images[index], channels)
    except (ValueError, OSError) as error:
        return _bad_image(split, index, error)


def _bad_image(split: Split, index: int, error: ValueError | OSError) -> BadImage:
    is_file = isinstance(error, OSError)
    reason = f"its file cannot be read ({error.strerror or error})" if is_file else str(error)
    return BadImage(split.names[index], reason)


class Pixels:
    """Images of one size as a tensor on a device, each decoded when it is first asked for.

    Args:
      one: decodes the image of an index, uint8 of that size, or says why it cannot.
      size: (c, H, W).
    """

    def __init__(
        self, one: Callable[[int], Tensor | BadImage], split: Split, size: tuple[int, ...], device: torch.device
    ):
        self.one, self.split = one, split
        self.images = torch.zeros((len(split), *size), dtype=torch.uint8, device=device)
        self.was_read = np.zeros(len(split), dtype=np.bool_)
        self.is_readable = np.zeros(len(split), dtype=np.bool_)

    def read(self, indices: NDArray[np.int64]) -> list[BadImage]:
        """Decodes those that have not been yet.

        Returns:
          Those that cannot be read, at their first time; their places stay black.
        Raises:
          ValueError: if all have been tried, and not one can be read.
        """
        fresh = np.unique(indices[~self.was_read[indices]])
        if not len(fresh):
            return []
        found = _in_threads(self.one, self.split, fresh)
        good = np.array([isinstance(image, Tensor) for image in found])
        if good.any():
            images = torch.stack([image for image in found if isinstance(image, Tensor)])
            self.images[on_device(fresh[good], self.images.device)] = on_device(images, self.images.device)
        self.was_read[fresh], self.is_readable[fresh] = True, good
        if self.was_read.all() and not self.is_readable.any():
            raise none_readable(self.split, range(len(self.split)))
        return [image for image in found if isinstance(image, BadImage)]


class InMemoryData:
    """All training images as one uint8 tensor on the device, augmented batch-wise.

    Args:
      pixels: of all samples of the split; those that cannot be read are left out of their batches.
      bad: is told of those.
    """

    kind = "in memory"

    def __init__(
        self,
        pixels: Pixels,
        split: Split,
        augment: "Augment",
        preprocessing: Preprocessing,
        order: SampleOrder,
        bad: BadImages,
    ):
        self.pixels, self.order, self.bad = pixels, order, bad
        self.labels = torch.from_numpy(np.array(split.labels)).to(pixels.images.device)
        self.augment, self.image_size = augment, preprocessing.image_size

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """See `TrainData`."""
        own, all_images = parallel.part(batch_size), self.pixels.images
        while True:
            visits = self.order.at(position + own.start, own.stop - own.start)
            self.bad.add(*self.pixels.read(visits.indices))
            good = self.pixels.is_readable[visits.indices]
            indices, keys = visits.indices[good], visits.keys[good]
            picked = on_device(indices, all_images.device)
            images = augment_batch(all_images.index_select(0, picked), keys, self.augment, self.image_size)
            yield Batch(images, self.labels[picked], keys)
            position += batch_size


class WorkerData:
    """Images decoded and augmented one by one in worker processes, in the order of the stream.

    The workers write into a few batches of shared memory that are used again and again: new memory for every batch
    would cost them a third of a small JPEG's time, in pages that the kernel hands out and clears.
    """

    kind = "decoded by workers"

    def __init__(
        self,
        split: Split,
        augment: "Augment",
        preprocessing: Preprocessing,
        order: SampleOrder,
        workers: int,
        bad: BadImages,
    ):
        self.split, self.transform = split, TrainTransform(augment, preprocessing)
        self.image_shape = (preprocessing.channels, *preprocessing.image_size)
        self.order, self.workers, self.bad = order, workers, bad

    def batches(self, position: int, batch_size: int) -> Generator[Batch, None, None]:
        """See `TrainData`."""
        # A worker is given the next batch when one is taken from the loader: as many as are ahead, and the one taken.
        num_slots, own = self.workers * PREFETCH + 1, parallel.part(batch_size)
        slots = shared_memory((num_slots, own.stop - own.start, *self.image_shape), self.workers)
        samples = _TrainSamples(self.split, self.transform, slots)
        turns = max(self.workers, 1)
        visits = VisitSampler(self.split.images, self.order, position, batch_size, num_slots, turns, own)
        importlib.import_module("torchcodec.decoders")  # here once, not in each worker
        # A batch is one item: it is put together where its images are decoded.
        options = worker_options(self.workers)
        loader = DataLoader(samples, batch_size=None, sampler=visits, collate_fn=None, **options)
        for number, made in enumerate(alive(loader)):
            self.bad.add(*made.bad)  # an error is raised here: a worker's would bring its traceback along
            # By numpy, in one thread: torch's others would wait for work on cores that the workers need.
            images = slots[number % num_slots, : len(made.keys)].numpy().copy()
            yield Batch(torch.from_numpy(images), torch.from_numpy(made.labels), made.keys, made.bad)


@dataclass(frozen=True)
class _Made:
    """What a worker sends of a batch, whose images are in shared memory."""

    labels: Labels
    keys: stream.UInts
    bad: tuple[BadImage, ...]


@dataclass(frozen=True)
class _TrainSamples(Dataset):
    split: Split
    transform: TrainTransform
    slots: Tensor  # uint8 [slots, B, c, H, W]

    def __getitem__(self, task: tuple[int, stream.Visits, NDArray[np.int64]]) -> _Made:
        slot, visits, soon = task
        read_ahead(self.split.images, soon)
        images = self.slots[slot].numpy()
        good, bad = [], []
        draws = self.transform.draws(visits.keys)
        for place, index in enumerate(visits.indices.tolist()):
            try:
                self.transform(self.split.images[index], draws[place], images[len(good)])
                good.append(place)
            except (ValueError, OSError) as error:
                bad.append(_bad_image(self.split, index, error))
        return _Made(self.split.labels[visits.indices[good]], visits.keys[good], tuple(bad))


@dataclass(frozen=True)
class VisitSampler:
    """An endless sampler of parts of batches, each with the slot of shared memory that it goes into.

    With each go the indices that its worker has not been told of and needs soon: those of its next batch, since workers
    take turns, and with the first batch those of that, too.
    """

    images: Images
    order: SampleOrder
    position: int
    batch_size: int
    num_slots: int
    turns: int
    part: slice

    def __iter__(self) -> Iterator[tuple[int, stream.Visits, NDArray[np.int64]]]:
        known: deque[stream.Visits] = deque()
        for number in itertools.count():
            while len(known) <= self.turns:
                position = self.position + (number + len(known)) * self.batch_size
                known.append(self.order.at(position + self.part.start, self.part.stop - self.part.start))
            self._prefetch(number)
            visits, soon = known.popleft(), known[-1].indices
            yield (
                number % self.num_slots,
                visits,
                soon if number >= self.turns else np.concatenate([visits.indices, soon]),
            )

    def _prefetch(self, number: int) -> None:
        """Has the stretches read in sequence that the window after this one takes its samples from."""
        if not isinstance(self.order, WindowedOrder):
            return
        length, position = PIECE * WINDOW, self.position + number * self.batch_size
        if self.order.num_samples <= 2 * length:
            stretches = [] if number else [range(self.order.num_samples)]
        else:
            # At first all of this window, too.
            first = position + length if number else position - position % self.order.num_samples % length
            stretches = self.order.stretches(first, position + length + self.batch_size - first)
        prefetch(self.images, stretches)


class EvalData:
    """A split in its own order as evaluation sees it; kept in memory after the first pass if it fits.

    Batches are the same on any number of ranks, to which they go in turn.

    Args:
      workers: processes that decode what does not fit.
      bad: takes note of images that cannot be read, which are left out; the first is an error if not given.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, *, workers: int = 0, bad: BadImages | None = None):
        self.split, self.preprocessing, self.workers = split, preprocessing, workers
        self.bad = BadImages() if bad is None else bad
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.split)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields uint8 [B, c, H, W], labels int64 [B] or bool [B, K], and int64 [B]: which images of the split.

        Of several ranks each gets every R-th batch. The last batch is as small as it comes.

        Raises:
          ValueError: if an image cannot be read and that is an error, or none can be read.
        """
        labels = self.split.labels
        height, width = self.preprocessing.image_size
        parts = torch.arange(len(self)).split(EVAL_BATCH)[parallel.rank() :: parallel.size()]
        if len(self) * self.preprocessing.channels * height * width <= MEMORY_BYTES:
            if self._kept is None:
                self._kept = self._in_memory(parts)
            for images, indices in self._kept:
                yield images, torch.from_numpy(labels[indices.numpy()]), indices
            return
        # A batch is one item: an open file between processes for each image would be more than many systems allow.
        options = worker_options(self.workers)
        sampler = [part.tolist() for part in parts]
        loader = DataLoader(_EvalBatches(self), batch_size=None, sampler=sampler, collate_fn=None, **options)
        num_good = 0
        for images, indices, bad in alive(loader):
            self.bad.add(*bad)
            if len(indices):
                yield images, torch.from_numpy(labels[indices.numpy()]), indices
            num_good += len(indices)
        if not num_good and parallel.size() == 1:
            raise none_readable(self.split, range(len(self)))

    def _in_memory(self, parts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each part the images that can be read, uint8 [B, c, H, W], and which they are, int64 [B]."""
        kept = []
        for part in parts:
            found = _in_threads(self._one, self.split, part.numpy())
            self.bad.add(*(image for image in found if isinstance(image, BadImage)))
            good = torch.tensor([isinstance(image, Tensor) for image in found])
            if good.any():
                kept.append((torch.stack([image for image in found if isinstance(image, Tensor)]), part[good]))
        if parts and not kept and parallel.size() == 1:
            raise none_readable(self.split, torch.cat(list(parts)).numpy())
        return kept

    def _one(self, index: int) -> Tensor | BadImage:
        pixels = read_image(self.split, index, self.preprocessing.channels)
        return pixels if isinstance(pixels, BadImage) else evaluation_crop(pixels, self.preprocessing)


@dataclass(frozen=True)
class _EvalBatches(Dataset):
    data: EvalData

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, tuple[BadImage, ...]]:
        """Images uint8 [B, c, H, W], which they are, int64 [B], and those that cannot be read."""
        read_ahead(self.data.split.images, np.array(indices, dtype=np.int64))
        found = [self.data._one(index) for index in indices]
        good = [image for image in found if isinstance(image, Tensor)]
        seen = [index for index, image in zip(indices, found, strict=True) if isinstance(image, Tensor)]
        bad = tuple(image for image in found if isinstance(image, BadImage))
        return torch.stack(good) if good else torch.empty(0), torch.tensor(seen, dtype=torch.int64), bad


def _equal_pixels(
    split: Split, augment: "Augment", preprocessing: Preprocessing, device: torch.device, bad: BadImages
) -> Pixels | None:
    """All images of a split, or None if they differ in size or do not fit.

    What is the same at every visit is done here, once: resizing, and the crop unless it is random. Where that leaves
    the size open all are decoded at once, since a later one could have another; else the first step need not wait.
    """
    size, is_open = (preprocessing.channels, *preprocessing.image_size), augment.crop in ("inception", "resmall")

    def prepared(pixels: Tensor) -> Tensor:
        if augment.crop == "inception":
            return pixels
        if augment.crop == "resmall":
            return enlarged(pixels, preprocessing.image_size)
        return evaluation_crop(pixels, preprocessing)

    if is_open:
        readable = (read_image(split, index, preprocessing.channels) for index in range(len(split)))
        first = next((pixels for pixels in readable if isinstance(pixels, Tensor)), None)
        if first is None:
            raise none_readable(split, range(len(split)))
        size = tuple(prepared(first).shape)
    if len(split) * int(np.prod(size)) > MEMORY_BYTES:
        return None

    def one(index: int) -> Tensor | BadImage:
        pixels = read_image(split, index, preprocessing.channels)
        if isinstance(pixels, BadImage):
            return pixels
        pixels = prepared(pixels)
        if tuple(pixels.shape) != size:
            raise _UnequalSizes
        return pixels

    found = Pixels(one, split, size, device)
    if is_open:
        try:
            bad.add(*found.read(np.arange(len(split))))
        except _UnequalSizes:
            return None
    return found


class _UnequalSizes(Exception):
    """Some image has another size than the first."""


def none_readable(split: Split, tried: range | NDArray[np.int64]) -> ValueError:
    """The error where of the images of a split that were tried, at least one, not one can be read."""
    name = split.names[int(tried[0])]
    return ValueError(
        f"none of the {len(tried):,} images tried, such as {name!r}, can be read; `mixonomy data check` says why."
    )


def _in_threads(
    one: Callable[[int], Tensor | BadImage], split: Split, indices: NDArray[np.int64]
) -> list[Tensor | BadImage]:
    """`one` of each index; decoding and resizing leave Python's lock to the other threads."""
    threads = default_workers()
    length = min(max(len(indices) // (4 * threads), 16), 256)

    def several(start: int) -> list[Tensor | BadImage]:
        wanted = indices[start : start + length]
        read_ahead(split.images, wanted)
        return [one(index) for index in wanted.tolist()]

    with ThreadPoolExecutor(threads) as pool:
        return [image for images in pool.map(several, range(0, len(indices), length)) for image in images]
