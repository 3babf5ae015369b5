"""Image files on disk, found and read without one Python object for each: memory stays flat over many files."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

IMAGE_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .heic .heif .avif .jp2 .ppm .pgm .pbm".split()
)
"""Endings of files that are taken for images, whatever their case."""

IGNORED_FOLDERS = frozenset(("__macosx", "@eadir", "thumbs.db"))
"""Left behind by macOS's archives and by network drives; hidden names (a dot first) are ignored too."""


class PackedStrings(Sequence[str]):
    """Strings in two arrays. A list of 100,000 would be copied page by page into every worker process."""

    def __init__(self, texts: Iterable[str]):
        encoded = [os.fsencode(text) for text in texts]  # names on disk need not be valid UTF-8
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._start = 0

    @classmethod
    def stored(cls, content: NDArray[np.uint8], ends: NDArray[np.int64], start: int) -> "PackedStrings":
        """Strings that lie one after the other in arrays, such as parts of a file.

        Args:
          content: the bytes of these strings and others.
          ends: where each string ends in `content`.
          start: where the first begins.
        """
        made = cls(())
        made._bytes, made._ends, made._start = content, ends, start
        return made

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else self._start
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())


@dataclass(frozen=True)
class Files:
    """Image files that are read when asked for.

    Args:
      root: folder that relative paths start from.
      paths: of the files.
    """

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> bytes:
        return (self.root / self.paths[index]).read_bytes()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be seen."""
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


def has_image_ending(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def first_image(folder: Path) -> str | None:
    """The name of an image in a folder or in one of its folders, relative to it; None if there is none."""
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if has_image_ending(path.name) and path.is_file():
                return str(path.relative_to(folder))
    return None


def image_paths(folder: Path, on_error: Callable[[str, OSError], None] | None = None) -> Iterator[str]:
    """Paths of all image files below a folder, relative to it with "/", in an order that names alone decide.

    Follows symbolic links, each folder once, but none that leads to a folder above this one, whose other images are not
    meant; leaves out hidden files and folders.

    Args:
      on_error: is told of a folder below that cannot be searched (its path relative to `folder`) instead of an
        exception; what lies in it is left out.
    """
    pending, seen = [(folder, "")], set()
    start = os.path.realpath(folder)
    while pending:
        current, prefix = pending.pop()
        real = os.path.realpath(current)
        is_above = real != start and start.startswith(os.path.join(real, ""))
        if real in seen or is_above:  # a link back, or a second link to one folder
            continue
        seen.add(real)
        try:
            with os.scandir(current) as entries:
                shown = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            if on_error is None or not prefix:
                raise
            on_error(prefix, error)
            continue
        # Of two links to one folder the first by name counts, whatever the file system's order.
        folders = []
        for entry in sorted(shown, key=lambda entry: composed(entry.name)):
            if _is_folder(entry):
                folders.append((Path(entry.path), f"{prefix}{entry.name}/"))
            elif has_image_ending(entry.name):
                yield f"{prefix}{entry.name}"
        pending += reversed(folders)


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): the same on every machine, whatever its file system made of it."""
    return unicodedata.normalize("NFC", name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say; reading it as a file will tell
        return False
