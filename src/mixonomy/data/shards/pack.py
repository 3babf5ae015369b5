"""Packs a data set into shards: tar files that WebDataset and timm read, and the index that gives us random access.

What is finished lies in OUT.partial until all is there, and then gets its name; the same command goes on where an
earlier one stopped, to the same files byte by byte.
"""

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixonomy.data.bad_images import MAX_BAD_SHARE, BadImage, BadImages
from mixonomy.data.decode import decode, file_ending
from mixonomy.data.shards import index as files
from mixonomy.data.shards.index import BLOCK, INFO, NAME, Part
from mixonomy.data.shards.store import locked
from mixonomy.data.shuffle import Permutation
from mixonomy.data.sources.base import SPLITS, Encoded, Source, Split, read_ahead
from mixonomy.data.transforms import resized

FORMAT = 1
CHUNK = 64  # images that are prepared together
QUALITY = 95  # of the JPEGs that resized images become
SHUFFLE_KEY = 0x9AC4  # fixed: packing again gives the same shards
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RECORD = tarfile.RECORDSIZE  # to whose multiples `tarfile` fills a file up


@dataclass(frozen=True)
class Options:
    """What decides the bytes of the shards, beside the images.

    Args:
      short_side: images whose shorter side has more pixels are resized to it; none if None.
      shard_bytes: that a shard should not exceed, unless one image does.
      keep_order: whether training images stay in the order of the source, instead of being shuffled once.
    """

    short_side: int | None = None
    shard_bytes: int = 256 * 10**6
    keep_order: bool = False


@dataclass(frozen=True)
class Packed:
    """What was written.

    Args:
      splits: split -> (images, shards).
      num_bytes: of all shards.
      before: images that an earlier, interrupted start had packed.
      bad: name -> why it could not be read, of the images that were left out.
    """

    out: Path
    splits: dict[str, tuple[int, int]]
    num_bytes: int
    before: int
    bad: dict[str, str]

    def __len__(self) -> int:
        return sum(images for images, _ in self.splits.values())


def pack(
    source: Source,
    out: Path,
    options: Options,
    *,
    bad: BadImages | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    workers: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Writes all splits of a data set as shards to the folder `out`.

    Training images are shuffled once, unless told otherwise: whoever reads shards one after the other expects that.

    Args:
      out: must not exist, or be empty.
      bad: takes note of images that cannot be read, which are left out; the first is an error if not given.
      max_bad_share: of all images, that may be left out.
      workers: threads that read and resize.
      report: told how many images are done.
    Raises:
      ValueError: if an image cannot be read, the disk is full, `out` is there already, or was begun in another way.
    """
    if out.name in ("", ".."):
        raise ValueError(f"packing makes a new folder, and {out} is one already; give its name as OUT, such as shards.")
    bad, partial = BadImages() if bad is None else bad, out.with_name(f"{out.name}.partial")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} is there already, and packing overwrites nothing; give another OUT or remove it.")
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial / ".lock", f"another process is packing into {out}; wait, or give another OUT."):
            return _pack(source, out, partial, options, bad, max_bad_share, workers, report)
    except OSError as error:
        if error.errno in FULL:
            raise ValueError(
                f"the disk of {out} is full; what is finished is kept in {partial}: make room, and the same command "
                f"goes on."
            ) from None
        raise ValueError(f"cannot write to {out} ({error.strerror or error}); give another OUT.") from None


def _pack(
    source: Source,
    out: Path,
    partial: Path,
    options: Options,
    bad: BadImages,
    max_bad_share: float,
    workers: int,
    report: Callable[[int], None],
) -> Packed:
    _begin(partial, source, options)
    splits, parts, before, done = {}, [], 0, 0
    for name in (name for name in SPLITS if name in source.splits):
        finished = _finished(partial, name)
        for part in finished:
            bad.errors |= files.open_index(part).about["bad"]
        position = files.open_index(finished[-1]).about["next"] if finished else 0
        before += sum(len(files.open_index(part)) for part in finished)
        packing = _Packing(source, name, partial, options, bad, workers, lambda place, done=done: report(done + place))
        for part in packing.shards(position, len(finished)):
            finished.append(part)
            bad.check(len(source), max_bad_share)
        done += len(source.splits[name])
        report(done)
        splits[name] = [len(parts), len(parts) + len(finished)]
        parts += finished
    bad.check(len(source), max_bad_share)
    return _end(source, out, partial, splits, parts, before, bad)


def _begin(partial: Path, source: Source, options: Options) -> None:
    """Notes what is packed and how, or compares it with what an earlier start noted.

    Raises:
      ValueError: if that was something else.
    """
    for left in partial.glob(".*.tmp"):  # of a process that was killed; the lock says that no other is here
        left.unlink()
    plan = {"format": FORMAT, "data": source.digest(), "source": source.name, **dataclasses.asdict(options)}
    path = partial / "plan.json"
    try:
        found = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:
        found = {}
    if found is None:
        if any(partial.glob("*.tar")):
            found = {}
        else:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(plan))
            os.replace(temporary, path)
            return
    if different := [key for key in plan if found.get(key) != plan[key]]:
        texts = [f"{key.replace('_', '-')} {found.get(key)} there, {plan[key]} now" for key in different]
        raise ValueError(
            f"{partial} holds an interrupted packing of something else ({'; '.join(texts)}); finish it with its own "
            f"options, or remove it."
        )


def _finished(partial: Path, split: str) -> list[Path]:
    """The indices of the shards of a split that an earlier start has finished, in order."""
    found = []
    while (part := partial / _part_name(split, len(found))).is_file():
        try:
            index = files.open_index(part)
            shard = partial / index.shard_names()[0]
            if shard.stat().st_size != index.columns["shard_bytes"][0]:
                break
        except (files.NoIndex, FileNotFoundError):
            break
        found.append(part)
    return found


def _end(
    source: Source,
    out: Path,
    partial: Path,
    splits: dict[str, list[int]],
    parts: list[Path],
    before: int,
    bad: BadImages,
) -> Packed:
    """Writes the index and the description, and gives the folder its name."""
    about = {
        "name": source.name,
        "class_names": source.class_names,
        "channels": source.channels,
        "imagenet_indices": source.imagenet_indices,
        "is_multilabel": source.is_multilabel,
        "is_packed": True,
        "splits": splits,
    }
    if not any(len(files.open_index(part)) for part in parts):
        raise ValueError(f"none of the {len(source):,} images can be read; `mixonomy data check` says why.")
    files.merge(partial / NAME, parts, about)
    index = files.open_index(partial / NAME)
    counts = np.diff(index.columns["shard_ends"], prepend=0).tolist()
    shards = list(index.shard_names())
    ours = {key: index.about[key] for key in ("name", "channels", "imagenet_indices", "digest", "layout")}
    described = {
        split: {
            "name": split,
            "filenames": shards[first:after],
            "shard_lengths": counts[first:after],
            "num_samples": sum(counts[first:after]),
        }
        for split, (first, after) in splits.items()
    }
    info = {"class_names": source.class_names, "splits": described, "mixonomy": ours}
    _write(partial / INFO, json.dumps(info, indent=1).encode())
    num_bytes = int(index.columns["shard_bytes"].sum())
    for left in (*parts, partial / "plan.json", partial / ".lock"):
        left.unlink()
    os.rename(partial, out)  # over an empty folder, too
    _sync_folder(out.parent)
    found = {split: (entry["num_samples"], len(entry["filenames"])) for split, entry in described.items()}
    return Packed(out, found, num_bytes, before, dict(bad.errors))


@dataclass(frozen=True)
class _Ready:
    """An image as it goes into a shard."""

    content: bytes
    ending: str


class _Packing:
    """One split on its way into shards."""

    def __init__(
        self,
        source: Source,
        name: str,
        folder: Path,
        options: Options,
        bad: BadImages,
        workers: int,
        report: Callable[[int], None],
    ):
        self.source, self.name, self.folder, self.options, self.bad = source, name, folder, options, bad
        self.split: Split = source.splits[name]
        self.workers, self.report = max(workers, 1), report
        is_shuffled = name == "train" and not options.keep_order
        self.order = Permutation(SHUFFLE_KEY, len(self.split)) if is_shuffled else lambda places: places

    def shards(self, position: int, number: int) -> Iterator[Path]:
        """Writes shards from a position of the split's order on; yields the index of each when it is finished."""
        ready, shard, bad = self._ready(position), None, dict[str, str]()
        try:
            for place, index, found in ready:
                if place % CHUNK == 0:
                    self.report(place)
                if isinstance(found, BadImage):
                    self.bad.add(found)
                    bad[found.name] = found.error
                    continue
                members = self._members(place, index, found)
                if shard is not None and shard.size_with(members) > self.options.shard_bytes:
                    yield shard.finish(place, bad)
                    number, shard, bad = number + 1, None, {}
                shard = shard or _Shard(self, number)
                shard.add(members, self.split.names[index], self._numbers(index))
            if shard is not None:
                yield shard.finish(len(self.split), bad)
        finally:
            ready.close()
            if shard is not None:
                shard.abandon()

    def _members(self, place: int, index: int, found: _Ready) -> list[tuple[str, bytes]]:
        """(name, content) of the members of a sample, the image first."""
        key, numbers = f"{place:09d}", self._numbers(index)
        class_names = [self.source.class_names[number] for number in numbers]
        is_single = not self.split.is_multilabel
        fields = {
            "name": self.split.names[index],
            "label": numbers[0] if is_single else numbers,
            "class": class_names[0] if is_single else class_names,
            "crc32": f"{zlib.crc32(found.content):08x}",
        }
        members = [(f"{key}.{found.ending}", found.content), (f"{key}.json", json.dumps(fields).encode())]
        return [*members, (f"{key}.cls", str(numbers[0]).encode())] if is_single else members

    def _numbers(self, index: int) -> list[int]:
        label = self.split.labels[index]
        return np.flatnonzero(label).tolist() if self.split.is_multilabel else [int(label)]

    def _ready(self, position: int) -> Generator[tuple[int, int, _Ready | BadImage], None, None]:
        """(place in the order, index, image) from a position on; the next ones are prepared meanwhile."""
        pending: list[tuple[range, NDArray[np.int64], Future[list[_Ready | BadImage]]]] = []
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for first in range(position, len(self.split), CHUNK):
                    places = range(first, min(first + CHUNK, len(self.split)))
                    indices = self.order(np.array(places, dtype=np.int64))
                    pending.append((places, indices, pool.submit(self._prepare, indices)))
                    if len(pending) > self.workers + 1:
                        yield from self._taken(*pending.pop(0))
                while pending:
                    yield from self._taken(*pending.pop(0))
            finally:
                for *_, future in pending:
                    future.cancel()

    @staticmethod
    def _taken(
        places: range, indices: NDArray[np.int64], future: Future[list[_Ready | BadImage]]
    ) -> Iterator[tuple[int, int, _Ready | BadImage]]:
        yield from zip(places, indices.tolist(), future.result(), strict=True)

    def _prepare(self, indices: NDArray[np.int64]) -> list[_Ready | BadImage]:
        read_ahead(self.split.images, indices)
        return [self._one(index) for index in indices.tolist()]

    def _one(self, index: int) -> _Ready | BadImage:
        try:
            return _prepared(self.split.images[index], self.options.short_side, self.source.channels)
        except OSError as error:
            return BadImage(self.split.names[index], f"its file cannot be read ({error.strerror or error})")
        except ValueError as error:
            return BadImage(self.split.names[index], str(error))


class _Shard:
    """A tar file that grows under a temporary name."""

    def __init__(self, packing: _Packing, number: int):
        self.packing = packing
        self.part = Part(f"{packing.name}-{number:06d}.tar")
        self.index = packing.folder / _part_name(packing.name, number)
        self.temporary = packing.folder / f".{self.part.shard}.tmp"
        self.file: BinaryIO | None = open(self.temporary, "wb")
        self.tar = tarfile.open(fileobj=self.file, mode="w", format=tarfile.USTAR_FORMAT)

    def size_with(self, members: list[tuple[str, bytes]]) -> int:
        """Bytes of the shard if it ended after these."""
        blocks = sum(1 + math.ceil(len(content) / BLOCK) for _, content in members) + 2
        return math.ceil((self.tar.offset + blocks * BLOCK) / RECORD) * RECORD

    def add(self, members: list[tuple[str, bytes]], name: str, numbers: list[int]) -> None:
        """Writes the members of a sample, of which the first is the image."""
        content = members[0][1]
        self.part.blocks.append(self.tar.offset // BLOCK + 1)
        self.part.lengths.append(len(content))
        self.part.checksums.append(zlib.crc32(content))
        self.part.labels.append(numbers)
        self.part.names.append(name)
        for file_name, data in members:
            member = tarfile.TarInfo(file_name)  # without time, owner or machine: the same bytes each time
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))

    def finish(self, position: int, bad: dict[str, str]) -> Path:
        """Gives the shard its name, then its index; returns the index.

        Args:
          position: where the next shard goes on in the order of the split.
          bad: images that were left out before.
        """
        assert self.file is not None
        self.tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.part.num_bytes = self.file.tell()
        self.file.close()
        self.file = None
        os.replace(self.temporary, self.packing.folder / self.part.shard)
        files.write_part(self.index, self.part, {"next": position, "bad": bad})
        return self.index

    def abandon(self) -> None:
        """Removes what is not finished, if it is not."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # it tries to write the rest once more, to a disk that is full
                self.file.close()
            self.temporary.unlink(missing_ok=True)


def _part_name(split: str, number: int) -> str:
    return f".{split}-{number:06d}.index"


def _prepared(image: Encoded, short_side: int | None, channels: int) -> _Ready:
    """The file of an image: as it is, or resized, or a PNG of pixels that have none.

    Raises:
      ValueError: if it is no image, or, where it would be resized, cannot be decoded.
    """
    ending = "png" if isinstance(image, np.ndarray) else file_ending(image)
    pixels = decode(image, channels) if short_side is not None or isinstance(image, np.ndarray) else None
    if pixels is not None and short_side is not None and (shorter := min(pixels.shape[1:])) > short_side:
        size = [round(side * short_side / shorter) for side in pixels.shape[1:]]
        return _Ready(_encoded(resized(pixels, size).numpy(), "JPEG", quality=QUALITY), "jpg")
    if isinstance(image, np.ndarray):
        assert pixels is not None
        return _Ready(_encoded(pixels.numpy(), "PNG"), ending)
    return _Ready(image, ending)


def _encoded(pixels: NDArray[np.uint8], form: str, **options: Any) -> bytes:
    """uint8 [c, H, W] as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, form, **options)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
