"""Where shards lie, as ranges of bytes of them: what a store is, and a folder, read by `pread`."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MAX_OPEN = 128  # files that a process keeps open; a window of the order reads from 64 places
ADVISED = 2**17  # bytes that Linux reads at least when it is told that they are needed; of more it takes the beginning
MAX_PREFETCHED = 1 / 4  # of the memory; what is read ahead should still be there when it is wanted
CACHE = Path.home() / ".cache/mixonomy/shards"
SCAN_BLOCK = 2**20  # bytes of one request while the headers of a remote shard are read


class Range(NamedTuple):
    """Bytes of a shard, which has so many itself and is of a version."""

    shard: str
    start: int
    length: int
    shard_bytes: int
    version: int = 0


class Stat(NamedTuple):
    """What a store says of a shard without reading it.

    Args:
      version: another one if the content is another: nanoseconds of its modification, or a hash of its ETag or the
        like; 0 where the store tells nothing.
    """

    num_bytes: int
    version: int


class Store(Protocol):
    """A folder of shards, wherever it is."""

    root: str

    def read(self, wanted: Range, /) -> bytes:
        """Bytes of a shard; fewer if it ends before.

        Raises:
          OSError: if they cannot be read, naming the shard.
        """
        ...

    def read_ahead(self, wanted: Sequence[Range], /) -> None:
        """Tells that these will be read soon; returns at once."""
        ...

    def prefetch(self, wanted: Sequence[Range], num_bytes: int, /) -> None:
        """Tells that most of these long ranges will be read later; returns at once.

        Args:
          num_bytes: that are wanted at about the same time, by this call and others.
        """
        ...

    def find(self, patterns: Sequence[str], /) -> dict[str, Stat]:
        """Path from the root -> bytes and version, of all tar files below it, or of those that patterns name; in order.

        Raises:
          ValueError: if a pattern without wildcards names no file.
        """
        ...

    def open(self, shard: str, stat: Stat, /) -> BinaryIO:
        """A shard from its beginning, for reading its headers."""
        ...

    def content(self, name: str, /) -> bytes | None:
        """A small file; None if there is none."""
        ...


class LocalStore:
    """A folder."""

    def __init__(self, root: str):
        self.root = root
        self._open: dict[str, _Descriptor] = {}

    def __reduce__(self):
        return LocalStore, (self.root,)

    def read(self, wanted: Range) -> bytes:
        """See `Store`."""
        descriptor = self._descriptor(wanted.shard)
        with _named(wanted.shard):
            return os.pread(descriptor.number, wanted.length, wanted.start)

    def read_ahead(self, wanted: Sequence[Range]) -> None:
        """See `Store`: asks the system to read all of them at once, instead of one after the other."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        for one in sorted(wanted):
            with contextlib.suppress(OSError):  # who reads it will be told
                descriptor = self._descriptor(one.shard)
                for start in range(one.start, one.start + one.length, ADVISED):
                    length = min(ADVISED, one.start + one.length - start)
                    os.posix_fadvise(descriptor.number, start, length, os.POSIX_FADV_WILLNEED)

    def prefetch(self, wanted: Sequence[Range], num_bytes: int) -> None:
        """See `Store`: lets the system read them in sequence, before others read them in small parts out of order."""
        if num_bytes <= memory_bytes() * MAX_PREFETCHED:
            _in_background(lambda: self.read_ahead(wanted))

    def find(self, patterns: Sequence[str]) -> dict[str, Stat]:
        """See `Store`."""
        root = Path(self.root)
        names = [pattern for pattern in patterns if not has_magic(pattern)]
        for name in names:
            if not (root / name).is_file():
                raise ValueError(f"there is no shard {root / name}; copy it there, or leave it out of the pattern.")
        globs = [pattern for pattern in patterns if has_magic(pattern)] or ([] if names else ["**/*.tar"])
        found = {*names, *(path.relative_to(root).as_posix() for glob in globs for path in root.glob(glob))}
        shown = (name for name in found if not any(part.startswith(".") for part in name.split("/")))
        stats = {name: (root / name).stat() for name in sorted(shown)}
        return {name: Stat(stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}

    def open(self, shard: str, stat: Stat) -> BinaryIO:
        """See `Store`."""
        return open(Path(self.root, shard), "rb")

    def content(self, name: str) -> bytes | None:
        """See `Store`."""
        path = Path(self.root, name)
        return path.read_bytes() if path.is_file() else None

    def _descriptor(self, shard: str) -> "_Descriptor":
        # Threads may be here at the same time; each step is one operation on the dictionary, so that no lock is needed,
        # which a process that is forked meanwhile would never see released.
        found = self._open.pop(shard, None)
        if found is None:
            with _named(shard):
                found = _Descriptor(os.open(os.path.join(self.root, shard), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
        self._open[shard] = found  # the last used are last
        for old in list(self._open)[:-MAX_OPEN]:
            self._open.pop(old, None)
        return found


class _Descriptor:
    """An open file, closed when nobody holds it any more: another thread may be reading from it."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self):
        os.close(self.number)


def is_url(text: str) -> bool:
    """Whether fsspec has to open it."""
    return "://" in text


def memory_bytes() -> int:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _in_background(do: Callable[[], object]) -> None:
    """Does something in a thread of its own, which ends with it."""
    pool = ThreadPoolExecutor(1)
    pool.submit(do)
    pool.shutdown(wait=False)


@contextlib.contextmanager
def locked(path: Path, otherwise: str | None = None) -> Iterator[None]:
    """Lets one process at a time go on; the lock ends with the process, however it ends.

    Args:
      otherwise: said in place of waiting.
    Raises:
      ValueError: if another process has the lock and something is to be said.
    """
    with open(path, "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if otherwise else 0))
            except BlockingIOError:
                raise ValueError(otherwise) from None
        yield


@contextlib.contextmanager
def _named(shard: str) -> Iterator[None]:
    """Puts the shard into the words of an OSError."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        raise type(error)(number, f"shard {shard}: {error.strerror or error}") from None


def has_magic(pattern: str) -> bool:
    """Whether it stands for several paths; "?" does not, which URLs have."""
    return "*" in pattern or "[" in pattern
