"""Makes the index of tar files that have none: other people's shards, or ours without theirs.

A sample is what has one key, the path up to the first dot of the file name (WebDataset's rule): an image, and its label
in a member `cls` (a number, several, or a class name), in `json` under one of `LABEL_FIELDS`, or in `txt`.
"""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixonomy.data.shards import index as files
from mixonomy.data.shards.index import BLOCK, Part
from mixonomy.data.shards.store import SCAN_BLOCK, Stat, Store
from mixonomy.data.sources.files import IMAGE_ENDINGS
from mixonomy.progress import Console

LABEL_FIELDS = ("label", "labels", "cls", "class", "classes", "class_name", "category", "target")
"""Fields of a member `json` that may hold the label, the first one counts."""
SIDE_ENDINGS = ("cls", "json", "txt")
MAX_SIDE_BYTES = 2**20
SCANNERS = 8  # shards that are read at the same time

Value = int | str
"""A class, by its number or its name."""


@dataclass
class _Sample:
    """The members of a key."""

    key: str
    image: tuple[str, int, int] | None = None  # ending, place in the shard and bytes
    side: dict[str, bytes] = field(default_factory=dict)


def scan(
    store: Store,
    splits: dict[str, list[str]],
    stats: dict[str, Stat],
    path: Path,
    about: dict[str, Any],
    label_fields: dict[str, str],
) -> None:
    """Reads the headers and labels of all shards once and writes their index.

    What was read stays in PATH.partial until all is there; an interrupted scan goes on.

    Args:
      splits: split -> its shards, by their paths in the store.
      stats: shard -> bytes and version.
      path: of the index.
      about: see `Index`; its class_names may be empty, then they are found.
      label_fields: split -> field of `json` that holds the label, where it is known (timm's alt_label).
    Raises:
      ValueError: if a shard is no tar file or cut off, a key is there twice, or an image has no label.
      OSError: if a shard cannot be read, or the index not written.
    """
    shards = [(split, shard) for split, names in splits.items() for shard in names]
    folder = path.with_name(f"{path.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)

    def one(task: tuple[int, tuple[str, str]]) -> Path:
        number, (split, shard) = task
        part_path = folder / f"{number:06d}"
        if not _is_done(part_path, shard, stats[shard]):
            with store.open(shard, stats[shard]) as file:
                part, found = _scan_shard(file, shard, stats[shard], about["is_packed"], label_fields.get(split, ""))
            files.write_part(part_path, part, found)
        return part_path

    parts = []
    with Console().progress(len(shards), 0, "reading shard") as meter, ThreadPoolExecutor(SCANNERS) as pool:
        for part_path in _in_order(pool, one, list(enumerate(shards))):
            parts.append(part_path)
            meter.update(len(parts), shards[len(parts) - 1][1])
    found = [files.open_index(part).about for part in parts]
    class_names, relabel = _classes(found, tuple(about["class_names"]), store.root)
    bounds = np.cumsum([0, *(len(names) for names in splits.values())]).tolist()
    about = {
        **about,
        "class_names": class_names,
        "splits": {split: bounds[number : number + 2] for number, split in enumerate(splits)},
        "is_multilabel": any(each["is_multilabel"] for each in found),
        "unlabelled": sum(each["unlabelled"] for each in found),
    }
    files.merge(path, parts, about, relabel)
    shutil.rmtree(folder)


def _in_order(pool: ThreadPoolExecutor, one: Callable[[Any], Path], tasks: Sequence[Any]) -> Iterator[Path]:
    """Results in the order of the tasks, with a bounded number of them ahead; after an error nothing new is begun."""
    for first in range(0, len(tasks), 4 * SCANNERS):
        yield from pool.map(one, tasks[first : first + 4 * SCANNERS])


def _is_done(path: Path, shard: str, stat: Stat) -> bool:
    """Whether an earlier scan that was interrupted has read this shard."""
    if not path.is_file():
        return False
    try:
        index = files.open_index(path)
    except files.NoIndex:
        return False
    return "shard_versions" in index.columns and index.shard(0) == (shard, *stat)


def _scan_shard(
    file: BinaryIO, shard: str, stat: Stat, is_packed: bool, label_field: str
) -> tuple[Part, dict[str, Any]]:
    """The index of one shard, and what is to know of its labels: which classes they name, and how."""
    part = Part(shard, *stat)
    stem, unlabelled, is_multilabel, is_text = shard.removesuffix(".tar"), 0, False, False
    numbers: dict[Value, int] = {}
    for sample in _samples(file, shard):
        if sample.image is None:
            continue
        ending, start, length = sample.image
        fields = _fields(sample, shard)
        found = _values(sample, fields, shard, label_field)
        if found is None:
            unlabelled += 1
            continue
        values, is_list = found
        is_in_text = not (label_field or "cls" in sample.side or fields.keys() & set(LABEL_FIELDS))
        is_text |= is_in_text and any(isinstance(value, str) for value in values)
        is_multilabel |= is_list
        part.blocks.append(start // BLOCK)
        part.lengths.append(length)
        part.checksums.append(int(fields["crc32"], 16) if is_packed and "crc32" in fields else None)
        part.names.append(fields["name"] if is_packed and "name" in fields else f"{stem}/{sample.key}.{ending}")
        part.labels.append([numbers.setdefault(value, len(numbers)) for value in values])
    about = {"values": list(numbers), "images": len(part.names), "unlabelled": unlabelled}
    return part, {**about, "is_multilabel": is_multilabel, "is_text": is_text}


def _samples(file: BinaryIO, shard: str) -> Iterator[_Sample]:
    """The samples of a shard, one after the other."""
    seen: set[str] = set()
    sample: _Sample | None = None
    for member in _members(file, shard):
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem or stem.startswith("__") or not ending:
            continue
        key, ending = f"{folder}/{stem}" if folder else stem, ending.lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            if key in seen:
                raise ValueError(
                    f"shard {shard} has the key {key!r} twice, in different places; the members of a sample must "
                    f"follow each other and keys be there once."
                )
            seen.add(key)
            sample = _Sample(key)
        if ending in sample.side or (sample.image is not None and ending == sample.image[0]):
            raise ValueError(f"shard {shard} has the member {member.name!r} twice; keys must be there once.")
        if f".{ending}" in IMAGE_ENDINGS and sample.image is None:
            sample.image = (ending, member.offset_data, member.size)
        elif ending in SIDE_ENDINGS and member.size <= MAX_SIDE_BYTES:
            file.seek(member.offset_data)
            sample.side[ending] = file.read(member.size)
    if sample is not None:
        yield sample


def _members(file: BinaryIO, shard: str) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file.

    Raises:
      ValueError: if it is none, is compressed, or was cut off.
    """
    start = file.read(3)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7z", b"\x28\xb5\x2f")):
        raise ValueError(
            f"shard {shard} is compressed, so it cannot be read from the middle; unpack it to a plain .tar."
        )
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                yield member
                vars(tar)["members"].clear()  # which would keep every one
            file.seek(tar.offset)
            is_whole = file.read(BLOCK) == b"\0" * BLOCK  # `tarfile` stops at a damaged header, too, and says nothing
            while is_whole and (more := file.read(SCAN_BLOCK)):  # nearly always less than one
                if more.strip(b"\0"):
                    raise ValueError(
                        f"shard {shard} goes on behind its end mark, as tar files do that were joined by cat; join "
                        f"them by `tar --concatenate`, or leave them apart."
                    )
    except tarfile.TarError as error:
        raise ValueError(f"shard {shard} is no tar file, or was cut off ({error}); copy it again.") from None
    if not is_whole:
        raise ValueError(
            f"shard {shard} has no end mark where its files end, it was cut off or damaged; copy it again."
        )


def _fields(sample: _Sample, shard: str) -> dict[str, Any]:
    """The content of a member `json`; nothing if there is none."""
    if "json" not in sample.side:
        return {}
    try:
        found = json.loads(sample.side["json"])
    except ValueError as error:
        raise ValueError(f"{sample.key}.json in shard {shard} cannot be read ({error}).") from None
    return found if isinstance(found, dict) else {}


def _values(
    sample: _Sample, fields: dict[str, Any], shard: str, label_field: str
) -> tuple[Sequence[Value], bool] | None:
    """The classes of a sample, and whether there may be several; None where it is marked as having no label (-1)."""
    names = (label_field,) if label_field else LABEL_FIELDS
    in_fields = next((fields[name] for name in names if fields.get(name) is not None), None)
    found: Any
    if "cls" in sample.side and not label_field:
        text = sample.side["cls"].decode("utf-8", "replace").strip()
        parts = [part for part in re.split(r"[\s,;]+", text) if part]
        if not all(map(_is_number, parts)):  # a name may have several words and commas; as in a CSV, ; is between names
            parts = [part for part in map(str.strip, text.split(";")) if part]
        found = parts if len(parts) > 1 else "".join(parts)
    elif in_fields is not None:
        found = in_fields
    elif "txt" in sample.side:
        found = sample.side["txt"].decode("utf-8", "replace").strip()
    else:
        found = ""
    if found == "":
        raise ValueError(
            f"{sample.key} in shard {shard} has no label; a sample needs a member cls (a number), json with a field "
            f"{' or '.join(names[:2])}, or txt (a class name)."
        )
    values = [_value(value, sample, shard) for value in (found if isinstance(found, list) else [found])]
    return None if values == [-1] else (values, isinstance(found, list))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _value(value: Any, sample: _Sample, shard: str) -> Value:
    if isinstance(value, str) and _is_number(value):
        return int(value)
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise ValueError(f"{sample.key} in shard {shard} has the label {value!r}; a class is a whole number or a name.")


def _classes(
    found: Sequence[dict[str, Any]], class_names: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The class names of the whole, and for each shard its own numbers -> theirs.

    Args:
      found: of each shard, its values in the order of its numbers.
      class_names: where they are known already; empty if not.
    """
    values = {value for each in found for value in each["values"]}
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        examples = ", ".join(repr(next(value for value in values if type(value) is kind)) for kind in (int, str))
        raise ValueError(f"the labels of {where} are numbers and names ({examples}); all need to be of one kind.")
    num_images = sum(each["images"] for each in found)
    if not num_images:
        raise ValueError(f"the shards of {where} hold no images with labels; a sample is KEY.jpg and KEY.cls, say.")
    if kinds == {int}:
        largest = max(values)
        class_names = class_names or tuple(str(number) for number in range(int(largest) + 1))
        if min(values) < 0 or int(largest) >= len(class_names):
            raise ValueError(
                f"the labels of {where} go from {min(values)} to {largest}, and there are {len(class_names):,} class "
                f"names; labels count from 0."
            )
        return class_names, [np.array(each["values"], dtype=np.int32) for each in found]
    if not class_names:
        if any(each["is_text"] for each in found) and len(values) > max(num_images // 2, 2):
            raise ValueError(
                f"{where} has {len(values):,} different labels for {num_images:,} images, which look like captions; a "
                f"classifier needs classes: a member cls, or json with a field label."
            )
        class_names = tuple(sorted(values))
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := sorted(value for value in values if value not in numbers):
        raise ValueError(f"{where} has labels that are no class names, such as {unknown[0]!r}.")
    return class_names, [np.array([numbers[value] for value in each["values"]], dtype=np.int32) for each in found]
