"""Image files to augmented batches, by our pipeline and by others'.

Axes: B images, H and W pixels.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixonomy.bench import turns
from mixonomy.data import BadImages, Split, open_source
from mixonomy.data.augment import DEFAULT_MIN_AREA
from mixonomy.data.loading import WorkerData, order_of
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

LAYERS, MAGNITUDE = 2, 15  # of RandAugment, as the paper's ImageNet runs
OUR_SHARDS = f"{turns.OURS} (shards)"
LAP = 8  # batches of one timed repetition

Batches = Iterator[tuple[Tensor, Tensor]]
"""Images uint8 [B, 3, H, W], labels int64 [B]."""


@dataclass(frozen=True)
class Case:
    """What is read, and how.

    Args:
      folder: has images/CLASS/FILE and shards/NUMBER.tar, see `prepared`.
      num_images: in the folder, a multiple of the batch size.
      workers: processes that decode; 0 for the training process itself.
      turn_s: what the timed repetitions of one turn fill, at least two.
    """

    folder: str
    num_images: int
    image_size: int
    batch_size: int
    workers: int
    has_randaugment: bool
    turn_s: float = 10.0

    @property
    def lap(self) -> int:
        """Batches of one repetition."""
        return LAP * max(self.workers, 1)


def our_batches(case: Case, passes: int) -> Batches:
    """As `mixonomy train` makes them from files, without an end."""
    return _our_batches(case, split_of(case))


def our_shard_batches(case: Case, passes: int) -> Batches:
    """As `mixonomy train` makes them from the same tar files that webdataset reads."""
    return _our_batches(case, open_source(f"shards:{case.folder}/shards").splits["train"])


def _our_batches(case: Case, split: Split) -> Batches:
    layers, magnitude = (LAYERS, MAGNITUDE) if case.has_randaugment else (0, None)
    augment = Augment(crop="inception", flip=True, randaugment_layers=layers, randaugment_magnitude=magnitude)
    preprocessing = Preprocessing((case.image_size, case.image_size))
    data = WorkerData(split, augment, preprocessing, order_of(split, 0), case.workers, BadImages())
    for batch in data.batches(0, case.batch_size):
        yield batch.images, batch.labels


def _torchvision_transform(case: Case) -> Any:
    from torchvision import transforms

    augment = [transforms.RandAugment(LAYERS, MAGNITUDE)] if case.has_randaugment else []
    crop = transforms.RandomResizedCrop(case.image_size, scale=(DEFAULT_MIN_AREA, 1.0))
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), *augment, transforms.PILToTensor()])


def torchvision_batches(case: Case, passes: int) -> Batches:
    """By ImageFolder and DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(f"{case.folder}/images", _torchvision_transform(case))
    dataset.samples *= passes
    yield from DataLoader(dataset, case.batch_size, shuffle=True, num_workers=case.workers)


def timm_batches(case: Case, passes: int) -> Batches:
    """By create_loader; its batches before they become floats."""
    from timm.data.dataset import ImageDataset
    from timm.data.loader import create_loader

    dataset = ImageDataset(f"{case.folder}/images")
    reader: Any = dataset.reader
    reader.samples *= passes
    loader: Any = create_loader(
        dataset,
        input_size=(3, case.image_size, case.image_size),
        batch_size=case.batch_size,
        is_training=True,
        scale=(DEFAULT_MIN_AREA, 1.0),
        color_jitter=0.0,
        auto_augment=f"rand-m{MAGNITUDE}-n{LAYERS}" if case.has_randaugment else None,
        num_workers=case.workers,
        device=torch.device("cpu"),
    )
    yield from loader.loader


def webdataset_batches(case: Case, passes: int) -> Batches:
    """By WebDataset and WebLoader, with torchvision's transforms."""
    try:
        webdataset: Any = importlib.import_module("webdataset")  # fills its namespace in a way type checkers miss
    except ImportError:
        raise ValueError("needs the package webdataset, which is not installed") from None
    from torch.utils.data import default_collate

    shards = sorted(str(path) for path in Path(case.folder, "shards").glob("*.tar"))
    transform = _torchvision_transform(case)
    dataset: Any = webdataset.WebDataset(shards, shardshuffle=False).repeat(passes)
    dataset = dataset.shuffle(2 * case.batch_size).decode("pil").to_tuple("jpg;png;webp;bmp;gif;tiff", "cls")
    dataset = dataset.map_tuple(transform, int).batched(case.batch_size, collation_fn=default_collate)
    yield from webdataset.WebLoader(dataset, batch_size=None, num_workers=case.workers)


LOADERS: dict[str, Callable[[Case, int], Batches]] = {
    turns.OURS: our_batches,
    OUR_SHARDS: our_shard_batches,
    "torchvision": torchvision_batches,
    "timm": timm_batches,
    "webdataset": webdataset_batches,
}


def split_of(case: Case) -> Split:
    return open_source(f"{case.folder}/images").splits["train"]
