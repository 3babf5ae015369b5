"""Shards elsewhere than in a folder: whatever fsspec reaches, asked for ranges of bytes."""

import contextlib
import errno
import hashlib
import http
import importlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mixonomy.data.shards import store as stores
from mixonomy.data.shards.store import SCAN_BLOCK, LocalStore, Range, Stat, has_magic, locked

T = TypeVar("T")
PASSING = (408, 425, 429)  # HTTP statuses below 500 with which a server asks for patience
GAP, MAX_MERGED = 2**16, 2**24  # bytes between ranges that are fetched as one, and bytes of one request
AHEAD = 16  # batches that may be fetched and not yet asked for, over all threads
TRIES, WAIT_S = 3, 1.0  # of a request; twice as long before the third
SILENT_S = 15.0  # after which a web server that sends nothing has failed; aiohttp itself waits for five minutes
NUM_LOCKS = 64
SIMPLECACHE = "simplecache::"
UNSAFE_CACHES = ("filecache::", "blockcache::")
ASKERS = 32  # questions about files that a store is asked at the same time
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "mtime", "LastModified", "Last-Modified", "created")
"""Fields of fsspec's `info` that change with the content of a file; each file system has some."""
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class RemoteStore:
    """A URL that fsspec opens: s3://, gs://, https:// and others, with or without `simplecache::` before it.

    Ranges are fetched many at a time, those of the next batch while one is decoded. With `simplecache::` whole shards
    are copied to a folder on disk when they are first read: $FSSPEC_SIMPLECACHE_CACHE_STORAGE, else
    ~/.cache/mixonomy/shards/copies; a copy's name is a hash of the shard's address and version. Credentials and options
    are fsspec's: its environment variables and configuration files.
    """

    def __init__(self, url: str):
        if bad := next((cache for cache in UNSAFE_CACHES if cache in url), None):
            raise ValueError(
                f"{url} uses {bad}, which several processes must not share (fsspec's own words); "
                f"use {SIMPLECACHE} in its place."
            )
        self.root = url.rstrip("/")
        self._process = -1  # whose `_fs`, `_pool` and `_ahead` are: fsspec's own threads do not survive a fork
        self._cached = LocalStore("/")
        self._copies: dict[str, str] = {}

    def __reduce__(self):
        return RemoteStore, (self.root,)

    def read(self, wanted: Range) -> bytes:
        """See `Store`."""
        self._connect()
        if self.is_cached:
            return self._cached.read(wanted._replace(shard=self._copy(wanted)))
        fetching = self._ahead.pop(wanted, None)
        found = self._fetch([wanted])[0] if fetching is None else fetching[0].result()[fetching[1]]
        if isinstance(found, OSError):
            raise found
        return found

    def read_ahead(self, wanted: Sequence[Range]) -> None:
        """See `Store`."""
        self._connect()
        if self.is_cached:
            return
        wanted = [one for one in dict.fromkeys(wanted) if one not in self._ahead]
        if not wanted:
            return
        future = self._pool.submit(self._fetch, wanted)
        self._ahead |= {one: (future, place) for place, one in enumerate(wanted)}
        self._batches.append(wanted)
        while len(self._batches) > AHEAD:
            for one in self._batches.popleft():
                self._ahead.pop(one, None)

    def prefetch(self, wanted: Sequence[Range], num_bytes: int) -> None:
        """See `Store`: copies whole shards ahead where they are copied at all."""
        self._connect()
        if not self.is_cached:
            return
        new = [one for one in {one.shard: one for one in wanted}.values() if one.shard not in self._copies]

        def copy() -> None:
            for one in new:
                with contextlib.suppress(OSError):  # who reads it will be told
                    self._copy(one)

        if new:
            self._pool.submit(copy)

    def find(self, patterns: Sequence[str]) -> dict[str, Stat]:
        """See `Store`."""
        self._connect()
        self._remote.invalidate_cache()  # of what folders held before
        named = [pattern for pattern in patterns if not has_magic(pattern)]
        globs = [pattern for pattern in patterns if has_magic(pattern)]
        listed = [self._try(lambda glob=glob: self._remote.glob(self._path(glob), detail=True)) for glob in globs]
        if not patterns:
            listed = [self._try(lambda: self._remote.find(self._folder, detail=True))]
        entries: dict[str, Any] = {}
        for path, entry in (item for found in listed for item in found.items()):
            name = self._name(path)
            if name.endswith(".tar") or globs:
                entries[name] = entry
        unknown = [
            *named,
            *(name for name, entry in entries.items() if entry.get("size") is None),
        ]  # a web page's links
        with ThreadPoolExecutor(ASKERS) as pool:
            entries |= zip(unknown, pool.map(self._entry, unknown), strict=True)
        return {name: _stat(entries[name]) for name in sorted(entries)}

    def sizes(self, expected: Sequence[str]) -> dict[str, int | None]:
        """Files of the folder -> bytes, None where the store does not tell; nothing if it cannot be listed.

        Args:
          expected: files of which the first that is not listed is asked for, since web pages may list some only.
        """
        self._connect()
        self._remote.invalidate_cache()
        try:
            listed = self._try(lambda: self._remote.ls(self._folder, detail=True))
        except OSError:  # many web servers list nothing
            return {}
        found: dict[str, int | None] = {self._name(entry["name"]): entry.get("size") for entry in listed}
        missing = next((name for name in expected if name not in found), None)
        if missing is not None:
            with contextlib.suppress(FileNotFoundError):
                self._try(lambda: self._remote.info(self._path(missing)))
                return {}
        return found

    def _entry(self, name: str) -> dict[str, Any]:
        """What fsspec says of a file that is asked for by name."""
        try:
            return self._try(lambda: self._remote.info(self._path(name)))
        except FileNotFoundError:
            raise ValueError(
                f"there is no shard {self.root}/{name}; put it there, or leave it out of the pattern."
            ) from None

    def open(self, shard: str, stat: Stat) -> BinaryIO:
        """See `Store`."""
        self._connect()
        if self.is_cached:
            return open(self._copy(Range(shard, 0, 0, *stat)), "rb")
        return self._try(lambda: self._fs.open(self._path(shard), "rb", block_size=SCAN_BLOCK, cache_type="readahead"))

    def content(self, name: str) -> bytes | None:
        """See `Store`."""
        self._connect()
        try:
            return self._try(lambda: self._remote.cat_file(self._path(name)))
        except (
            FileNotFoundError,
            PermissionError,
        ):  # buckets that must not be listed say "forbidden" of what is not there
            return None

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file to a local one, which is there whole or not at all; the caller has a lock on it."""
        self._connect()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            self._try(lambda: self._remote.get_file(self._path(name), str(temporary)))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _name(self, path: Any) -> str:
        return str(path).removeprefix(self._folder).lstrip("/")

    def _connect(self) -> None:
        if self._process == os.getpid():
            return
        import fsspec
        from fsspec.config import conf

        options: dict[str, Any] = {}
        if self.is_cached and "cache_storage" not in conf.get("simplecache", {}):
            options["simplecache"] = {"cache_storage": str(stores.CACHE / "copies")}
        protocol = self.root.rpartition("::")[2].partition("://")[0]
        if protocol in ("http", "https") and "client_kwargs" not in conf.get(protocol, {}):
            with contextlib.suppress(ImportError):  # what is missing is said below
                from aiohttp import ClientTimeout

                timeout = ClientTimeout(sock_connect=SILENT_S, sock_read=SILENT_S)
                options[protocol] = {"client_kwargs": {"timeout": timeout}}
        try:
            self._fs, folder = fsspec.url_to_fs(self.root, **options)
        except (ImportError, ValueError) as error:
            if isinstance(error, ImportError) or protocol in PACKAGES:
                package = PACKAGES.get(protocol, "a package for it")
                raise ValueError(
                    f"reading {protocol}:// needs {package}, which is not installed; pip install 'mixonomy[remote]'."
                ) from None
            raise ValueError(f"{self.root} cannot be opened ({error}); give s3://, gs:// or https://.") from None
        self._folder = str(folder).rstrip("/")
        self._pool = ThreadPoolExecutor(2)
        self._ahead: dict[Range, tuple[Future[list[bytes | OSError]], int]] = {}
        self._batches: deque[Sequence[Range]] = deque()
        self._process = os.getpid()

    @property
    def is_cached(self) -> bool:
        """Whether whole shards are copied."""
        return self.root.startswith(SIMPLECACHE)

    @property
    def _remote(self) -> Any:
        """The file system itself; a copy would hide that a file is another now."""
        return self._fs.fs if self.is_cached else self._fs

    def _fetch(self, wanted: Sequence[Range]) -> list[bytes | OSError]:
        """Ranges of bytes, or why there are none; what failed in passing is asked for again."""
        found: dict[Range, bytes | OSError] = {}
        left: list[Range] = list(dict.fromkeys(wanted))
        for number in range(TRIES):
            if number:
                time.sleep(WAIT_S * 2 ** (number - 1))
            groups = list(_merged(left))
            paths = [self._path(group[0].shard) for group in groups]
            bounds = [(group[0].start, max(one.start + one.length for one in group)) for group in groups]
            answers = self._fs.cat_ranges(paths, [b[0] for b in bounds], [b[1] for b in bounds], on_error="return")
            for group, (start, end), answer in zip(groups, bounds, answers, strict=True):
                for one in group:
                    found[one] = self._part(one, answer, start, end)
            left = [one for one in left if isinstance(answer := found[one], OSError) and answer.errno == errno.EIO]
            if not left:
                break
        return [found[one] for one in wanted]

    @staticmethod
    def _part(one: Range, answer: Any, start: int, end: int) -> bytes | OSError:
        if isinstance(answer, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, f"there is no shard {one.shard} any more")
        if isinstance(answer, BaseException):
            said = str(answer) or type(answer).__name__
            return OSError(errno.EIO, f"shard {one.shard} could not be read: {said}")
        if len(answer) > end - start:
            return OSError(errno.ENOTSUP, f"the server of {one.shard} does not give parts of files")
        return bytes(answer[one.start - start : one.start - start + one.length])

    def _copy(self, wanted: Range) -> str:
        """Path of the copy of a shard; one process makes it while the others wait."""
        if wanted.shard not in self._copies:
            storage, address = Path(self._fs.storage[-1]), f"{self._path(wanted.shard)} {wanted.version}"
            storage.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(address.encode()).hexdigest()
            with locked(storage / f".lock-{int(name[:8], 16) % NUM_LOCKS}"):
                self._make_copy(storage / name, wanted)
            self._copies[wanted.shard] = str(storage / name)
        return self._copies[wanted.shard]

    def _make_copy(self, path: Path, wanted: Range) -> None:
        """Copies a shard, unless it is there."""
        if path.is_file() and path.stat().st_size == wanted.shard_bytes:
            return
        try:
            self.fetch(wanted.shard, path)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"there is no shard {wanted.shard} any more") from None
        except OSError as error:
            raise OSError(error.errno or errno.EIO, f"shard {wanted.shard}: {error.strerror or error}") from None
        if (size := path.stat().st_size) != wanted.shard_bytes:
            path.unlink()
            said = f"shard {wanted.shard} has {size:,} bytes, not {wanted.shard_bytes:,}"
            raise OSError(errno.EIO, f"{said}: it was cut off or is another one now")

    def _try(self, do: Callable[[], T]) -> T:
        """Does something over the network, again if it fails in passing.

        Raises:
          FileNotFoundError: if there is no such file.
          PermissionError: if it must not be read.
          OSError: if it fails every time.
        """
        for number in range(TRIES):
            try:
                return do()
            except _network_errors() as error:
                cause = _cause(error)
                if isinstance(cause, FileNotFoundError | PermissionError):
                    raise
                if getattr(cause, "status", 0) == http.HTTPStatus.FORBIDDEN:
                    raise PermissionError(errno.EACCES, f"{self.root} may not be read: {cause}") from None
                if number == TRIES - 1:
                    said = str(cause) or type(cause).__name__
                    raise OSError(errno.EIO, f"{self.root} could not be reached: {said}") from None
            time.sleep(WAIT_S * 2**number)
        raise AssertionError("unreachable")


def _stat(entry: dict[str, Any]) -> Stat:
    """Of a file, by what fsspec says of it."""
    version = "\n".join(f"{name} {entry[name]}" for name in VERSIONS if entry.get(name))
    number = int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "little") if version else 0
    return Stat(int(entry.get("size") or 0), number)


def _merged(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    """Groups of ranges that lie close to each other in one shard, to be fetched as one."""
    group: list[Range] = []
    for one in sorted(ranges):
        if group:
            last = group[-1]
            is_close = one.shard == last.shard and one.start - (last.start + last.length) <= GAP
            if not is_close or one.start + one.length - group[0].start > MAX_MERGED:
                yield group
                group = []
        group.append(one)
    if group:
        yield group


def _cause(error: BaseException) -> BaseException:
    """Why a file could not be asked for; fsspec calls every page "not found" whose server failed or fell silent."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    is_refused = 400 <= getattr(cause, "status", 0) < 500 and getattr(cause, "status", 0) not in PASSING
    return cause if isinstance(cause, _network_errors()) and not is_refused else error


def _network_errors() -> tuple[type[Exception], ...]:
    """What fsspec's file systems raise beside OSError, as far as their packages are loaded."""
    kinds = [
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    ]
    loaded = (getattr(importlib.import_module(module), name) for module, name in kinds if module in sys.modules)
    return OSError, *loaded
