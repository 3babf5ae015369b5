"""Tar files of images: packed by `mixonomy data pack`, or other people's in WebDataset's layout.

Axes: N images, K classes.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from mixonomy.data.shards import store as stores
from mixonomy.data.shards.images import ShardImages
from mixonomy.data.shards.index import INFO, NAME, Index, NoIndex, open_index
from mixonomy.data.shards.remote import RemoteStore
from mixonomy.data.shards.scan import scan
from mixonomy.data.shards.store import LocalStore, Stat
from mixonomy.data.sources.base import SPLITS, Labels, Source, Split
from mixonomy.data.sources.folder import SPLIT_FOLDERS
from mixonomy.data.sources.lazy import LARGE, LazyLabels, Stretch

PREFIX = "shards:"
INFOS = (INFO, "info.json")  # names that timm reads
DENSE_BYTES = 2**28  # labels of images with several classes are bool [N, K] in memory up to here


def open_shards(text: str) -> Source:
    """Opens "shards:WHERE": a folder or URL of tar files, one of them, a pattern with *, or with {000..099} or {a,b}.

    An index that is missing is made once, which reads the headers of all tar files, and kept beside them, or in
    ~/.cache/mixonomy/shards where only some of a folder are named or it cannot be written to.

    Raises:
      ValueError: if there are no shards, one of them is gone, cut off or not what it should be; says which.
    """
    where = text.removeprefix(PREFIX)
    root, patterns = _parts(where)
    store = RemoteStore(root) if stores.is_url(root) else LocalStore(root)
    try:
        index = None if patterns else _packed(store)
        index = _scanned(store, patterns) if index is None else index
    except OSError as error:
        raise ValueError(f"{text} cannot be read ({error.strerror or error}).") from None
    return _source(index, store)


def _parts(where: str) -> tuple[str, tuple[str, ...]]:
    """The folder or URL that all shards are below, and patterns from there; none for all of them."""
    where = os.path.expanduser(where.removeprefix("file://"))
    paths = _expanded(where)
    if not where:
        raise ValueError("shards: names no shards; give shards:FOLDER, shards:URL or shards:FOLDER/{000..099}.tar.")
    if len(paths) == 1 and not stores.has_magic(where) and not where.endswith(".tar"):
        if not stores.is_url(where) and not os.path.isdir(where):
            raise ValueError(
                f"there is no folder {where}; give a folder of .tar files, one of them, or a pattern such as "
                f"{where}/*.tar."
            )
        return where.rstrip("/") or "/", ()
    folders = [path.split("/")[:-1] for path in paths]
    common = 0
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1 or stores.has_magic(names[0]):
            break
        common += 1
    root = "/".join(folders[0][:common])
    if stores.is_url(where) and common < 3:
        raise ValueError(f"{where} names shards in different places; give those of one place.")
    is_absolute = where.startswith("/")
    start = len(root) + 1 if common else 0
    return root or ("/" if is_absolute else "."), tuple(path[start:] for path in paths)


def _expanded(pattern: str) -> list[str]:
    """Every path that {000..099} and {a,b} in a pattern stand for."""
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices = [_choices(part[1:-1], part) if part.startswith("{") else [part] for part in parts]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inner: str, whole: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = int(bounds[1]), int(bounds[2])
        if last < first:
            raise ValueError(f"{whole} counts down; write {{{bounds[2]}..{bounds[1]}}}.")
        return [f"{number:0{len(bounds[1])}d}" for number in range(first, last + 1)]
    return inner.split(",") if "," in inner else [whole]


def _packed(store: LocalStore | RemoteStore) -> Index | None:
    """The index of shards that `mixonomy data pack` wrote; None if these are others, or have lost it.

    Raises:
      ValueError: if a shard is gone or was cut off.
    """
    if isinstance(store, RemoteStore):
        about = (_info(store) or {}).get("mixonomy")
        if not isinstance(about, dict) or "digest" not in about:
            return None
        index = _fetched(store, about)
        if not store.is_cached:  # a copy may outlive its shard
            found = store.sizes(list(index.shard_names()))
            if found:
                _compare(index, store.root, lambda name: found.get(name, -1))
        return index
    path = Path(store.root, NAME)
    if not path.is_file():
        return None
    try:
        index = open_index(path)
    except NoIndex as error:
        raise ValueError(f"{error}; remove it, and it is made again from the shards.") from None
    if not index.about["is_packed"]:
        return None
    _compare(index, store.root, lambda name: _size(os.path.join(store.root, name)))
    return index


def _fetched(store: RemoteStore, about: dict[str, Any]) -> Index:
    """The index of packed shards elsewhere, fetched once for each content.

    Args:
      about: what `_info.json` says of it.
    Raises:
      ValueError: if it is damaged, or of other shards than `_info.json`.
    """
    layout = about.get("layout", "")
    path = _cached(store.root, about["digest"], layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    with stores.locked(path.with_name(f".{path.name}.lock")):
        for is_last in (False, True):  # what was kept may be damaged, then it is fetched once more
            if not path.is_file():
                store.fetch(NAME, path)
            try:
                index = open_index(path)
                if index.about.get("layout", "") != layout:
                    raise NoIndex(f"{store.root}/{NAME} is not of the shards that {INFO} there describes")
                return index
            except NoIndex as error:
                path.unlink()
                if is_last:
                    raise ValueError(f"{error}; copy {NAME} and {INFO} to {store.root} again.") from None
    raise AssertionError("unreachable")


def _size(path: str) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _compare(index: Index, root: str, size_of: Callable[[str], int | None]) -> None:
    """Compares packed shards with their index.

    Args:
      size_of: bytes of a shard by its name; -1 if it is not there, None if they are not known.
    Raises:
      ValueError: if a shard is gone or was cut off.
    """
    for name, expected in zip(index.shard_names(), index.columns["shard_bytes"].tolist(), strict=True):
        shard, size = os.path.join(root, name), size_of(name)
        if size == -1:
            raise ValueError(
                f"shard {shard} is missing, and its index says that it belongs there; copy it there or pack again."
            )
        if size is not None and size != expected:
            what = "was cut off" if size < expected else "is another file"
            raise ValueError(
                f"shard {shard} {what}: it has {size:,} bytes and its index says {expected:,}; copy it again or pack "
                f"again."
            )


def _scanned(store: LocalStore | RemoteStore, patterns: tuple[str, ...]) -> Index:
    """The index of other shards, made now or before."""
    stats = store.find(patterns)
    if not stats:
        what = f"{store.root} has no .tar files" if not patterns else f"nothing in {store.root} fits {patterns[0]}"
        raise ValueError(f"{what}; give a folder of shards, a shard, or a pattern such as {store.root}/*.tar.")
    info = _info(store) or {}
    splits, label_fields = _splits(info, list(stats), is_part=bool(patterns))
    if missing := [shard for shards in splits.values() for shard in shards if shard not in stats]:
        raise ValueError(
            f"shard {missing[0]} of {store.root} is missing, and {INFO} there says that it belongs there"
            f"{f' ({len(missing):,} are missing)' if len(missing) > 1 else ''}; copy it there."
        )
    is_writable = isinstance(store, LocalStore) and not patterns and os.access(store.root, os.W_OK)
    path = Path(store.root, NAME) if is_writable else _cached(store.root, *sorted(stats))
    index = _current(path, store, splits, stats)
    if index is not None:
        return index
    ours = info.get("mixonomy")
    about = {
        "name": Path(store.root).name,
        "class_names": info.get("class_names", ()),
        "channels": 3,
        "imagenet_indices": (),
        **(ours if isinstance(ours, dict) else {}),
        "is_packed": isinstance(ours, dict),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with stores.locked(path.with_name(f".{path.name}.lock")):  # of several processes one reads, the others wait
        index = _current(path, store, splits, stats)
        if index is None:
            scan(store, splits, stats, path, about, label_fields)
            index = open_index(path)
    return index


def _current(
    path: Path, store: LocalStore | RemoteStore, splits: dict[str, list[str]], stats: dict[str, Stat]
) -> Index | None:
    """The index that an earlier scan made, if the shards are those that it saw.

    Raises:
      ValueError: if one of them is gone: less data must not go unnoticed.
    """
    try:
        index = open_index(path)
    except NoIndex:
        return None
    names = list(index.shard_names())
    if gone := [name for name in names if name not in stats]:
        raise ValueError(
            f"shard {gone[0]} of {store.root} is missing, and {path} says that it belongs there; copy it there, or "
            f"remove that index to do without."
        )
    bounds = np.cumsum([0, *map(len, splits.values())]).tolist()
    as_now = {split: bounds[number : number + 2] for number, split in enumerate(splits)}
    wanted = [shard for shards in splits.values() for shard in shards]
    is_same = names == wanted and index.about["splits"] == as_now
    is_same = is_same and "shard_versions" in index.columns
    is_same = is_same and all(index.shard(number) == (name, *stats[name]) for number, name in enumerate(names))
    return index if is_same else None


def _info(store: LocalStore | RemoteStore) -> dict[str, Any] | None:
    """What describes a set of shards, in timm's layout; None if there is nothing."""
    for name in INFOS:
        content = store.content(name)
        if content is None:
            continue
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{store.root}/{name} cannot be read ({error}); mend it or remove it.") from None
        if isinstance(found, dict):
            return found
    return None


def _splits(
    info: dict[str, Any], shards: Sequence[str], *, is_part: bool
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Split -> its shards, and split -> the field of json that holds labels; by timm's description, else by name."""
    splits: dict[str, list[str]] = {}
    label_fields: dict[str, str] = {}
    described = info.get("splits")
    if isinstance(described, dict) and not is_part:
        for name, about in described.items():
            split = SPLIT_FOLDERS.get(str(name).lower())
            if split is not None and isinstance(about, dict):
                splits[split] = [str(shard) for shard in about.get("filenames", ())]
                label_fields[split] = str(about.get("alt_label") or "")
    if not splits:
        for shard in shards:
            splits.setdefault(_split_of(shard), []).append(shard)
    return {split: splits[split] for split in SPLITS if split in splits}, label_fields


def _split_of(shard: str) -> str:
    """The split that the name of a shard says, or of a folder above it; train if none does."""
    for part in reversed(shard.removesuffix(".tar").lower().split("/")):
        found = [SPLIT_FOLDERS[word] for word in re.split(r"[^a-z]+", part) if word in SPLIT_FOLDERS]
        if found:
            return found[-1]
    return "train"


def _source(index: Index, store: LocalStore | RemoteStore) -> Source:
    about = index.about
    splits = {}
    for name in (split for split in SPLITS if split in about["splits"]):
        images = index.images(name)
        if images:
            splits[name] = Split(ShardImages(index, store, images), _labels(index, images), index.names(images))
    class_names = tuple(about["class_names"])
    if len(class_names) < 2:
        raise ValueError(f"{store.root} has images of one class only, {', '.join(class_names)!r}; give two or more.")
    skipped = about.get("unlabelled", 0)
    notes = (f"{about['name']} has {skipped:,} images marked as having no label, left out.",) if skipped else ()
    return Source(
        about["name"],
        class_names,
        splits,
        about["channels"],
        notes,
        tuple(about["imagenet_indices"]),
        about["digest"],
    )


def _labels(index: Index, images: range) -> Labels:
    """In memory, unless they are too many."""
    columns, num_classes = index.columns, len(index.about["class_names"])
    ends = columns["label_ends"] if index.about["is_multilabel"] else None
    lazy = LazyLabels(columns["labels"], ends, num_classes, Stretch(images.start, len(images)))
    bytes_in_memory = len(images) * num_classes if ends is not None else 0
    is_small = len(images) <= LARGE and bytes_in_memory <= DENSE_BYTES
    return lazy[:] if is_small else cast(Labels, lazy)


def _cached(*what: str) -> Path:
    """The file in the cache folder for an index that cannot lie beside its shards."""
    return stores.CACHE / "indices" / f"{hashlib.sha256(chr(0).join(what).encode()).hexdigest()[:32]}.safetensors"
