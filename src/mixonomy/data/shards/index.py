"""The index of a set of shards: where each image lies, its labels, its name and its checksum.

One safetensors file, whose columns are memory-mapped: opening it reads its header, whatever its size. An image of one
class takes 24 bytes on disk, and its name. Sizes, counts and numbers that describe the whole are JSON in the header.
Written column by column from one part for each shard, which is such a file with one shard; so memory stays flat.

Axes: S shards, N images, M labels of all images together.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.sources.files import PackedStrings

FORMAT = 1
NAME = "index.safetensors"
INFO = "_info.json"  # timm's name for what describes a set of shards
BLOCK = 512  # bytes; the data of each member of a tar file begins at a multiple
KEY = "mixonomy_shards"
COLUMNS: dict[str, str] = {  # in this order in the file, so that each is aligned
    "shard_ends": "<i8",  # [S], images up to the end of each shard
    "shard_bytes": "<i8",  # [S], of each tar file
    "shard_versions": "<i8",  # [S], see `Stat`; only of shards that were read to make the index
    "shard_name_ends": "<i8",  # [S]
    "label_ends": "<i8",  # [N], labels up to the end of each image's; only where an image may have several
    "name_ends": "<i8",  # [N]
    "blocks": "<u4",  # [N], place of the image in its shard, in blocks
    "lengths": "<u4",  # [N], bytes
    "checksums": "<u4",  # [N], CRC-32; only where all are known
    "labels": "<i4",  # [M], class numbers; [N] where an image has one
    "shard_names": "<u1",
    "names": "<u1",
}
RUNNING = {"shard_ends": "blocks", "shard_name_ends": "shard_names", "label_ends": "labels", "name_ends": "names"}
"""Column of ends -> the column in which they count."""
SAFETENSORS_TYPES = {"<i8": "I64", "<i4": "I32", "<u4": "U32", "<u1": "U8"}

LAYOUT = ("shard_ends", "shard_bytes", "blocks", "lengths", "checksums", "shard_name_ends", "shard_names")
"""Columns that say how images lie in shards."""

Columns = dict[str, NDArray[Any]]


class NoIndex(ValueError):
    """A file that is no index, or damaged."""


@dataclass(frozen=True, eq=False)
class Index:
    """An index that is open.

    Args:
      path: of its file.
      about: what describes the whole: format, name, class_names, channels, imagenet_indices, splits (name -> first
        shard and the one after the last), digest, layout (hexadecimal, of how the images lie in the
        shards), is_packed (by `mixonomy data pack`).
      columns: see COLUMNS.
    """

    path: Path
    about: dict[str, Any]
    columns: Columns = field(repr=False)

    def __reduce__(self):  # a process that is not forked maps the file itself
        return open_index, (self.path,)

    def __len__(self) -> int:
        return len(self.columns["blocks"])

    @property
    def num_shards(self) -> int:
        """S."""
        return len(self.columns["shard_ends"])

    def shard_names(self) -> PackedStrings:
        """Paths of the shards from the folder or URL of the whole."""
        return PackedStrings.stored(self.columns["shard_names"], self.columns["shard_name_ends"], 0)

    def shard(self, number: int) -> tuple[str, int, int]:
        """Path, bytes and version of a shard; all that were packed together have one version."""
        return _shard(self, number)

    def images(self, split: str) -> range:
        """The images of a split."""
        first, after = self.about["splits"][split]
        ends = self.columns["shard_ends"]
        return range(int(ends[first - 1]) if first else 0, int(ends[after - 1]) if after else 0)

    def names(self, images: range) -> PackedStrings:
        """Names of a range of images."""
        ends = self.columns["name_ends"]
        start = int(ends[images.start - 1]) if images.start else 0
        return PackedStrings.stored(self.columns["names"], ends[images.start : images.stop], start)


@lru_cache(2**12)
def _shard(index: Index, number: int) -> tuple[str, int, int]:
    versions = index.columns.get("shard_versions")
    version = int(index.about.get("layout", "0"), 16) if versions is None else int(versions[number])
    return index.shard_names()[number], int(index.columns["shard_bytes"][number]), version


@dataclass
class Part:
    """What is found in, or written to, one shard."""

    shard: str
    num_bytes: int = 0
    version: int | None = None
    blocks: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    checksums: list[int | None] = field(default_factory=list)
    labels: list[Sequence[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def columns(self) -> Columns:
        """All columns but those of what is not known of all; labels as where there may be several."""
        names, shard = [os.fsencode(name) for name in self.names], os.fsencode(self.shard)
        columns: dict[str, Any] = {
            "shard_ends": [len(self.blocks)],
            "shard_bytes": [self.num_bytes],
            "shard_versions": [self.version],
            "shard_name_ends": [len(shard)],
            "label_ends": np.cumsum([len(labels) for labels in self.labels]),
            "name_ends": np.cumsum([len(name) for name in names]),
            "blocks": self.blocks,
            "lengths": self.lengths,
            "checksums": self.checksums,
            "labels": [number for labels in self.labels for number in labels],
            "shard_names": np.frombuffer(shard, dtype=np.uint8),
            "names": np.frombuffer(b"".join(names), dtype=np.uint8),
        }
        unknown = [name for name in ("shard_versions", "checksums") if None in columns[name]]
        known = {name: column for name, column in columns.items() if name not in unknown}
        return {name: np.asarray(column, dtype=COLUMNS[name]) for name, column in known.items()}


def write(path: Path, columns: dict[str, tuple[int, Iterable[NDArray[Any]]]], about: dict[str, Any]) -> None:
    """Writes an index so that it is there whole or not at all.

    Args:
      columns: name -> (length, arrays that make it up one after the other).
      about: see `Index`.
    Raises:
      OSError: if it cannot be written.
    """
    text, end = header({name: length for name, (length, _) in columns.items()}, about)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(text)
            for name in (name for name in COLUMNS if name in columns):
                for array in columns[name][1]:
                    assert array.dtype == np.dtype(COLUMNS[name]), f"{name} is {array.dtype}"
                    file.write(np.ascontiguousarray(array).data)
            assert file.tell() == len(text) + end, "the columns are not as long as was said"
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def header(lengths: dict[str, int], about: dict[str, Any]) -> tuple[bytes, int]:
    """The beginning of a file of columns of these lengths, and how many bytes follow it."""
    content: dict[str, Any] = {"__metadata__": {KEY: json.dumps({"format": FORMAT, **about})}}
    end = 0
    for name in (name for name in COLUMNS if name in lengths):
        start, end = end, end + lengths[name] * np.dtype(COLUMNS[name]).itemsize
        dtype = SAFETENSORS_TYPES[COLUMNS[name]]
        content[name] = {"dtype": dtype, "shape": [lengths[name]], "data_offsets": [start, end]}
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def write_part(path: Path, part: Part, about: dict[str, Any]) -> None:
    """Writes the index of one shard."""
    write(path, {name: (len(column), [column]) for name, column in part.columns().items()}, about)


def open_index(path: Path) -> Index:
    """Opens an index; its columns stay on disk.

    Raises:
      NoIndex: if it is none, is cut off, or of a newer format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # a page at a time: neighbours of an image that is wanted seldom are
                mapped.madvise(mmap.MADV_RANDOM)
        about = json.loads(header.pop("__metadata__")[KEY])
        if about["format"] > FORMAT:
            raise NoIndex(f"{path} has format {about['format']}, this version reads up to {FORMAT}; update mixonomy.")
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        if end != size:
            raise ValueError(f"it has {size:,} bytes and should have {end:,}")
        columns = {
            name: np.frombuffer(mapped, COLUMNS[name], entry["shape"][0], 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
    except NoIndex:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoIndex(f"{path} is no index of shards, or damaged ({error})") from None
    return Index(path, about, columns)


def merge(path: Path, parts: Sequence[Path], about: dict[str, Any], relabel: Sequence[NDArray[np.int32]] = ()) -> None:
    """Writes the index of many shards from those of each, in that order; one column after the other.

    Args:
      about: see `Index`; digest and layout are added. Labels become single ones unless `about["is_multilabel"]`.
      relabel: for each part its class numbers -> those of the whole, where they differ.
    """
    lengths, is_multilabel = _lengths(parts), about["is_multilabel"]
    if not is_multilabel:
        lengths.pop("label_ends", None)

    def arrays(name: str) -> Iterator[NDArray[Any]]:
        base = 0
        for number, part in enumerate(parts):
            columns = open_index(part).columns
            array = columns[name]
            if name in RUNNING:
                yield array + base
                base += len(columns[RUNNING[name]])
            elif name == "labels" and relabel:
                yield relabel[number][array]
            else:
                yield array

    layout = _layout([arrays(name) for name in LAYOUT if name in lengths], about)
    about = {**about, "digest": _digest(parts, arrays, about), "layout": layout}
    write(path, {name: (length, arrays(name)) for name, length in lengths.items()}, about)


def _lengths(parts: Sequence[Path]) -> dict[str, int]:
    """Column -> its length in all parts together, of the columns that all have."""
    lengths: dict[str, int] = dict.fromkeys(COLUMNS, 0)
    for part in parts:
        columns = open_index(part).columns
        lengths = {name: length + len(columns[name]) for name, length in lengths.items() if name in columns}
    return lengths


def _digest(parts: Sequence[Path], arrays: Any, about: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits of class names, splits, image names and labels; not of how they lie in shards."""
    found = hashlib.sha256("\n".join(about["class_names"]).encode(errors="surrogateescape"))
    counts = [len(open_index(part)) for part in parts]
    for split, (first, after) in sorted(about["splits"].items()):
        found.update(f"\n{split} {sum(counts[first:after])}\n".encode())
    columns = ("names", "name_ends", "labels", *(("label_ends",) if about["is_multilabel"] else ()))
    for name in columns:
        for array in arrays(name):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def _layout(columns: Sequence[Iterable[NDArray[Any]]], about: dict[str, Any]) -> str:
    """Fifteen hexadecimal digits of what the digest leaves out: how the images lie in shards, and their bytes."""
    found = hashlib.sha256(json.dumps([about[name] for name in ("name", "channels", "imagenet_indices")]).encode())
    for column in columns:
        for array in column:
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:15]
