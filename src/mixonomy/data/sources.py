"""Where images come from: one SOURCE string opens any of them, as random access from index to image and label."""

import difflib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Encoded = bytes | NDArray[np.uint8]
"""An image file's bytes, or pixels [H, W] or [H, W, 3]."""

SPLITS = ("train", "val", "test")
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class Images(Protocol):
    """Random access to images."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Encoded: ...


@dataclass(frozen=True)
class Split:
    """Images with labels; `split[i]` is (image, label).

    Args:
      images: encoded files or pixel arrays.
      labels: int64 [N].
      names: what to call each image in messages and reports.
    """

    images: Images
    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Encoded, int]:
        return self.images[index], int(self.labels[index])

    def pick(self, indices: NDArray[np.int64]) -> "Split":
        """The samples at these indices, in this order, without copying images."""
        return Split(_Picked(self.images, indices), self.labels[indices], [self.names[int(i)] for i in indices])


@dataclass(frozen=True)
class Source:
    """A data set: its splits, and the names of its classes in label order.

    Args:
      channels: 3, or 1 where the images are grey by nature.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    channels: int = 3

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell data sets apart by class names, image names and labels."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update("\n".join([name, *split.names]).encode() + split.labels.tobytes())
        return digest.hexdigest()[:16]


def open_source(text: str, root: str | Path | None = None) -> Source:
    """Opens the data set that a SOURCE string names.

    Args:
      text: "digits", a known name, a .parquet file, or the prefix of NAME_train.parquet and its siblings.
      root: folder of the known names; $MIXONOMY_DATA, else ~/.cache/mixonomy/data, if not given.
    Raises:
      ValueError: if nothing is found there, or a file is not what it should be; says what is allowed.
    """
    if text == "digits":
        return _open_prefix(Path(__file__).with_name("digits"), "digits")
    folder = Path(root or os.environ.get("MIXONOMY_DATA") or Path.home() / ".cache/mixonomy/data").expanduser()
    if text in KNOWN:
        if _siblings(folder / text):
            return _open_prefix(folder / text, text)
        if text == "fashion-mnist" and DEBIAN_FASHION.is_dir():
            return _open_debian_fashion()
        return _open_torchvision(text, folder)
    path = Path(text).expanduser()
    if text.endswith(".parquet"):
        split, class_names, channels = _read_parquet(path)
        return Source(path.stem, class_names, {"train": split}, channels)
    if path.name and _siblings(path):
        return _open_prefix(path, path.name)
    near = difflib.get_close_matches(text, ["digits", *KNOWN], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"no data set {text!r}: it is no known name (`mixonomy list data`), no .parquet file, "
        f"and there is no {path.name}_train.parquet in {path.parent}{hint}"
    )


def known_sources() -> list[tuple[str, str]]:
    """(name, where it comes from) of every name that `open_source` knows."""
    return [("digits", "embedded"), *((name, known.origin) for name, known in KNOWN.items())]


@dataclass(frozen=True)
class _Picked:
    images: Images
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Encoded:
        return self.images[int(self.indices[index])]


@dataclass(frozen=True)
class _Column:
    """The binary column of a parquet table, whole in memory as compressed image files."""

    column: Any  # pyarrow.ChunkedArray

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int, /) -> bytes:
        return self.column[index].as_py()


@dataclass(frozen=True)
class _Files:
    """Image files that are read when asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> bytes:
        return self.paths[index].read_bytes()


def _siblings(prefix: Path) -> dict[str, Path]:
    """The files PREFIX_train.parquet, PREFIX_val.parquet and PREFIX_test.parquet that exist."""
    paths = {split: prefix.with_name(f"{prefix.name}_{split}.parquet") for split in SPLITS}
    return {split: path for split, path in paths.items() if path.exists()}


def _open_prefix(prefix: Path, name: str) -> Source:
    """Joins PREFIX_train.parquet, PREFIX_val.parquet and PREFIX_test.parquet, as far as they exist."""
    read = {split: (path, *_read_parquet(path)) for split, path in _siblings(prefix).items()}
    first_path, _, class_names, channels = read.get("train") or next(iter(read.values()))
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    splits = {}
    for name_of_split, (path, split, names, other_channels) in read.items():
        unknown = sorted(set(names) - set(class_names))
        if unknown or other_channels != channels:
            what = f"classes that {first_path.name} lacks: {', '.join(unknown[:5])}" if unknown else "other channels"
            raise ValueError(f"{path.name} has {what}; all parts of a data set need the same classes and channels.")
        if names != class_names:
            split = replace(split, labels=np.array([numbers[n] for n in names], dtype=np.int64)[split.labels])
        splits[name_of_split] = split
    return Source(name, class_names, splits, channels)


def _read_parquet(path: Path) -> tuple[Split, tuple[str, ...], int]:
    """Reads columns image (bytes, or a struct with bytes), label, and filename if there is one."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"no file {path}; give a .parquet file with the columns image and label.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet ({reason}); write it again or give another.") from None
    for column in ("image", "label"):
        if column not in table.column_names:
            has = ", ".join(table.column_names)
            raise ValueError(f"{path} has no column {column!r}, only {has}; image (bytes) and label are needed.")
    if not table.num_rows:
        raise ValueError(f"{path} has no rows; a data set needs images.")
    images = table["image"]
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:  # Hugging Face's image feature
        images = pc.call_function("struct_field", [images], pc.StructFieldOptions(indices=["bytes"]))
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise ValueError(f"column image of {path} holds {images.type}; it must hold the bytes of image files.")
    if images.null_count:
        raise ValueError(f"column image of {path} has {images.null_count} empty entries; remove those rows.")
    labels, class_names = _labels(table, path)
    has_names = "filename" in table.column_names
    given = table["filename"].to_pylist() if has_names else [None] * len(labels)
    names = [f"{path.name}[{i}]" if name is None else str(name) for i, name in enumerate(given)]
    channels = (table.schema.metadata or {}).get(b"channels", b"3")
    if channels not in (b"1", b"3"):
        raise ValueError(f"{path} says it has {channels.decode()!r} channels; 1 (grey) and 3 (RGB) are read.")
    return Split(_Column(images), labels, names), class_names, int(channels)


def _labels(table: Any, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    import pyarrow as pa

    metadata = table.schema.metadata or {}
    column = table["label"]
    if column.null_count:
        raise ValueError(f"column label of {path} has {column.null_count} empty entries; every image needs a label.")
    if pa.types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = column.to_pylist()
        class_names = tuple(sorted(set(texts)))
        numbers = {name: i for i, name in enumerate(class_names)}
        return np.array([numbers[text] for text in texts], dtype=np.int64), class_names
    if not pa.types.is_integer(column.type):
        raise ValueError(f"column label of {path} holds {column.type}; it must hold integers or class names.")
    labels = column.to_numpy().astype(np.int64)
    class_names = ()
    try:
        if b"class_names" in metadata:
            class_names = tuple(json.loads(metadata[b"class_names"]))
        elif b"huggingface" in metadata:
            class_names = tuple(json.loads(metadata[b"huggingface"])["info"]["features"]["label"].get("names") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has class names in its metadata that cannot be read ({error!r}).") from None
    class_names = class_names or tuple(str(i) for i in range(int(labels.max()) + 1))
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"{path} has labels from {labels.min()} to {labels.max()}, but {len(class_names)} class names; "
            f"labels count from 0."
        )
    return labels, class_names


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
            images = _Files([Path(path) for path in images])
            names = [path.name for path in images.paths]
        splits[split] = Split(images, np.asarray(labels, dtype=np.int64), names)
        class_names = tuple(_first_name(c) for c in getattr(opened, "classes", ()))
    if not class_names:  # SVHN names no classes
        class_names = tuple(str(i) for i in range(int(splits["train"].labels.max()) + 1))
    return Source(name, class_names, splits, channels=known.channels)


def _first_name(name: str | tuple[str, ...]) -> str:
    """ImageNet's classes have several names each."""
    return name if isinstance(name, str) else name[0]
