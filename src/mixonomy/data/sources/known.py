"""Data sets with a name: parquet files under the data root first, else what torchvision or Debian has."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.sources import parquet
from mixonomy.data.sources.base import SPLITS, Source, Split
from mixonomy.data.sources.files import Files, PackedStrings

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """How torchvision opens a data set, and where its data set objects keep labels and images.

    Args:
      dataset: name in torchvision.datasets.
      splits: our split -> the arguments of the constructor.
      labels, images: attributes of the object; images is a list of paths (or of (path, label)), or an array.
    """

    dataset: str
    splits: dict[str, dict[str, Any]]
    labels: str
    images: str
    to_pixels: Callable[[Any], NDArray[np.uint8]] | None = None
    channels: int = 3
    download: bool = True

    @property
    def origin(self) -> str:
        how = "downloaded by torchvision" if self.download else "read by torchvision from your copy"
        return f"NAME_train.parquet under --data-root, else {how}"


def _train_test(key: str = "split") -> dict[str, dict[str, Any]]:
    return {split: {key: split} for split in ("train", "test")}


_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
# Attributes as of torchvision 0.26 to 0.29.
KNOWN: dict[str, _Known] = {
    "cifar10": _Known("CIFAR10", _TRAIN_FLAG, "targets", "data", np.asarray),
    "cifar100": _Known("CIFAR100", _TRAIN_FLAG, "targets", "data", np.asarray),
    "mnist": _Known("MNIST", _TRAIN_FLAG, "targets", "data", np.asarray, channels=1),
    "fashion-mnist": _Known("FashionMNIST", _TRAIN_FLAG, "targets", "data", np.asarray, channels=1),
    "svhn": _Known("SVHN", _train_test(), "labels", "data", lambda data: data.transpose(0, 2, 3, 1)),
    "flowers102": _Known("Flowers102", {s: {"split": s} for s in SPLITS}, "_labels", "_image_files"),
    "dtd": _Known("DTD", {s: {"split": s} for s in SPLITS}, "_labels", "_image_files"),
    "pets": _Known("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, "_labels", "_images"),
    "food101": _Known("Food101", _train_test(), "_labels", "_image_files"),
    "eurosat": _Known("EuroSAT", {"train": {}}, "targets", "samples"),
    "imagenette": _Known("Imagenette", {s: {"split": s} for s in ("train", "val")}, "_labels", "_samples"),
    "imagenet1k": _Known(
        "ImageNet", {s: {"split": s} for s in ("train", "val")}, "targets", "samples", download=False
    ),
}  # fmt: skip


def open_known(name: str, root: Path) -> Source:
    """Opens a data set that `KNOWN` names.

    Args:
      root: folder of parquet files and of torchvision's copies.
    Raises:
      ValueError: if it is not there and cannot be downloaded.
    """
    if parquet.siblings(root / name):
        return parquet.open_prefix(root / name, name)
    if name == "fashion-mnist" and DEBIAN_FASHION.is_dir():
        return _open_debian_fashion()
    return _open_torchvision(name, root)


def _open_debian_fashion() -> Source:
    splits = {
        split: _read_idx(
            DEBIAN_FASHION / f"{stem}-images-idx3-ubyte.gz", DEBIAN_FASHION / f"{stem}-labels-idx1-ubyte.gz"
        )
        for split, stem in (("train", "train"), ("test", "t10k"))
    }
    return Source("fashion-mnist", FASHION_CLASSES, splits, channels=1)


def _read_idx(images_path: Path, labels_path: Path) -> Split:
    """Reads a pair of gzipped IDX files: 16 bytes of header before images, 8 before labels, all big-endian."""
    try:
        raw = gzip.decompress(images_path.read_bytes())
        count, height, width = np.frombuffer(raw, ">u4", count=3, offset=4)
        images = np.frombuffer(raw, np.uint8, offset=16).reshape(count, height, width)
        labels = np.frombuffer(gzip.decompress(labels_path.read_bytes()), np.uint8, offset=8).astype(np.int64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{images_path} or its labels are damaged ({error}); install the package again.") from None
    return Split(images, labels, [f"{images_path.name}[{i}]" for i in range(count)])


def _open_torchvision(name: str, root: Path) -> Source:
    from torchvision import datasets

    known = KNOWN[name]
    splits, class_names = {}, ()
    options = {"download": True} if known.download else {}
    for split, arguments in known.splits.items():
        try:
            opened = getattr(datasets, known.dataset)(root, **options, **arguments)
        except (OSError, RuntimeError, ImportError) as error:  # no network, no copy, a damaged archive, no scipy
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"data set {name!r} is not in {root} as {name}_train.parquet, and torchvision could not provide it "
                f"({reason}); put it there, or name another folder by --data-root or $MIXONOMY_DATA."
            ) from None
        labels = getattr(opened, known.labels, None)
        images = getattr(opened, known.images)
        if known.to_pixels:
            images = known.to_pixels(images)
            names = [f"{name}/{split}[{i}]" for i in range(len(images))]
        else:
            if isinstance(images[0], tuple):  # (path, label)
                labels = [label for _, label in images] if labels is None else labels
                images = [path for path, _ in images]
            images = Files(Path(), PackedStrings(str(path) for path in images))
            names = PackedStrings(Path(path).name for path in images.paths)
        splits[split] = Split(images, np.asarray(labels, dtype=np.int64), names)
        class_names = tuple(_first_name(c) for c in getattr(opened, "classes", ()))
    if not class_names:  # SVHN names no classes
        class_names = tuple(str(i) for i in range(int(splits["train"].labels.max()) + 1))
    return Source(name, class_names, splits, channels=known.channels)


def _first_name(name: str | tuple[str, ...]) -> str:
    """ImageNet's classes have several names each."""
    return name if isinstance(name, str) else name[0]
