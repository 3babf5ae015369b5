"""Parquet files: one, or NAME_train.parquet with its siblings. Read whole, as compressed image files.

Axes: N images, K classes.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixonomy.data.sources.base import SPLITS, Labels, Source, Split, joined, multi_hot
from mixonomy.data.sources.files import PackedStrings


@dataclass(frozen=True)
class _Column:
    """The binary column of a parquet table, whole in memory as compressed image files."""

    column: Any  # pyarrow.ChunkedArray

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int, /) -> bytes:
        return self.column[index].as_py()


def open_file(path: Path) -> Source:
    """Opens one file as a data set with a train split only."""
    split, class_names, channels = read(path)
    indices = _imagenet_indices(path, len(class_names))
    return Source(path.stem, class_names, {"train": split}, channels, imagenet_indices=indices)


def siblings(prefix: Path) -> dict[str, Path]:
    """The files PREFIX_train.parquet, PREFIX_val.parquet and PREFIX_test.parquet that exist."""
    paths = {split: prefix.with_name(f"{prefix.name}_{split}.parquet") for split in SPLITS}
    return {split: path for split, path in paths.items() if path.exists()}


def open_prefix(prefix: Path, name: str) -> Source:
    """Joins PREFIX_train.parquet, PREFIX_val.parquet and PREFIX_test.parquet, as far as they exist."""
    paths = siblings(prefix)
    source = join_files(name, {split: read(path) for split, path in paths.items()})
    first = next(iter(paths.values()))  # whose class names are those of the source, see `joined`
    return replace(source, imagenet_indices=_imagenet_indices(first, len(source.class_names)))


def join_files(name: str, parts: dict[str, tuple[Split, tuple[str, ...], int]]) -> Source:
    """Joins what was read for each split.

    Raises:
      ValueError: if they differ in channels, in kind of label, or one has classes that train lacks.
    """
    channels = {channels for *_, channels in parts.values()}
    if len(channels) > 1 or len({split.is_multilabel for split, *_ in parts.values()}) > 1:
        what = "channels (grey and RGB)" if len(channels) > 1 else "kinds of labels (one and several for an image)"
        raise ValueError(f"the parts of {name} have different {what}; all need the same.")
    splits, class_names = joined(name, {key: (split, names) for key, (split, names, _) in parts.items()})
    return Source(name, class_names, splits, channels.pop())


def read(path: Path, *shards: Path) -> tuple[Split, tuple[str, ...], int]:
    """Reads columns image (bytes, or a struct with bytes), label, and filename if there is one.

    Args:
      path: the file, named in messages.
      shards: files that go on where it ends.
    Returns:
      The samples, the class names and the number of channels.
    Raises:
      ValueError: if a file cannot be read, or a column is missing or holds something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for file in (path, *shards):
        if not file.is_file():
            raise ValueError(f"no file {file}; give a .parquet file with the columns image and label.")
    try:
        table = pa.concat_tables([pq.read_table(file) for file in (path, *shards)])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet ({reason}); write it again or give another.") from None
    features = _hub_features(table, path)
    images = table[_column(table, path, "image", [n for n, f in features.items() if f.get("_type") == "Image"])]
    label = _column(table, path, "label", [n for n, f in features.items() if f.get("_type") == "ClassLabel"])
    if not table.num_rows:
        raise ValueError(f"{path} has no rows; a data set needs images.")
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:  # Hugging Face's image feature
        images = pc.call_function("struct_field", [images], pc.StructFieldOptions(indices=["bytes"]))
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise ValueError(f"column image of {path} holds {images.type}; it must hold the bytes of image files.")
    if images.null_count:
        raise ValueError(f"column image of {path} has {images.null_count} empty entries; remove those rows.")
    labels, class_names = _labels(table[label], _class_names(table, features.get(label, {}), path), path)
    has_names = "filename" in table.column_names
    given = table["filename"].to_pylist() if has_names else [None] * len(labels)
    names = PackedStrings(f"{path.name}[{i}]" if name is None else str(name) for i, name in enumerate(given))
    channels = (table.schema.metadata or {}).get(b"channels", b"3")
    if channels not in (b"1", b"3"):
        raise ValueError(f"{path} says it has {channels.decode()!r} channels; 1 (grey) and 3 (RGB) are read.")
    return Split(_Column(images), labels, names), class_names, int(channels)


def _imagenet_indices(path: Path, num_classes: int) -> tuple[int, ...]:
    """For each class its number among ImageNet's 1,000, by the file's metadata; empty where it has none."""
    import pyarrow.parquet as pq

    content = (pq.read_schema(path).metadata or {}).get(b"imagenet_indices", b"[]")
    try:
        indices = tuple(int(index) for index in json.loads(content))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has imagenet_indices in its metadata that cannot be read ({error!r}).") from None
    if indices and (len(indices) != num_classes or not set(indices) <= set(range(1000))):
        raise ValueError(
            f"{path} has {len(indices)} imagenet_indices for {num_classes} classes; give one from 0 to 999 each."
        )
    return indices


def _column(table: Any, path: Path, wanted: str, candidates: list[str]) -> str:
    """The column of that name, else the only one of that kind by Hugging Face's metadata."""
    if wanted in table.column_names:
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    has = ", ".join(table.column_names)
    raise ValueError(f"{path} has no column {wanted!r}, only {has}; image (bytes) and label are needed.")


def _hub_features(table: Any, path: Path) -> dict[str, dict[str, Any]]:
    """What the Hugging Face hub says of the columns; nothing in files from elsewhere."""
    metadata = table.schema.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: feature if isinstance(feature, dict) else {} for name, feature in features.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} has class names in its metadata that cannot be read ({error!r}).") from None


def _class_names(table: Any, feature: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The class names that the file's metadata gives; none if it gives none."""
    metadata = table.schema.metadata or {}
    inner = feature.get("feature")
    try:
        if b"class_names" in metadata:
            return tuple(map(str, json.loads(metadata[b"class_names"])))
        return tuple(map(str, feature.get("names") or (inner.get("names") if isinstance(inner, dict) else None) or ()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has class names in its metadata that cannot be read ({error!r}).") from None


def _labels(column: Any, class_names: tuple[str, ...], path: Path) -> tuple[Labels, tuple[str, ...]]:
    """Labels of a column of integers or class names, or of lists of them: int64 [N], or bool [N, K]."""
    import pyarrow as pa

    if column.null_count:
        raise ValueError(f"column label of {path} has {column.null_count} empty entries; every image needs a label.")
    if pa.types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_list := pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_integer(kind)):
        raise ValueError(
            f"column label of {path} holds {column.type}; it must hold integers or class names, or lists of them."
        )
    if is_text:
        values = column.to_pylist()
        if is_list:
            return multi_hot([set(names) for names in values])
        class_names = tuple(sorted(set(values)))
        numbers = {name: i for i, name in enumerate(class_names)}
        return np.array([numbers[text] for text in values], dtype=np.int64), class_names
    flat = column.combine_chunks().flatten() if is_list else column
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.int64) if is_list else column.to_numpy().astype(np.int64)
    class_names = class_names or tuple(str(i) for i in range(int(numbers.max(initial=0)) + 1))
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(class_names)):
        raise ValueError(
            f"{path} has labels from {numbers.min()} to {numbers.max()}, but {len(class_names)} class names; "
            f"labels count from 0."
        )
    if not is_list:
        return numbers, class_names
    labels = np.zeros((len(column), len(class_names)), dtype=np.bool_)
    for row, members in zip(labels, column.to_pylist(), strict=True):
        row[members] = True
    return labels, class_names
