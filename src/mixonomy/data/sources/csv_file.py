"""A CSV of paths and labels, several labels of an image separated by semicolons.

Axes: N images, K classes.
"""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from mixonomy.data.sources.base import SPLITS, Labels, Source, Split, joined, multi_hot
from mixonomy.data.sources.files import Files, PackedStrings, composed
from mixonomy.data.sources.folder import SPLIT_FOLDERS

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Ending of the file -> what stands between its columns."""
LABEL_SEPARATOR = ";"


def open_csv(path: Path) -> Source:
    """Opens a CSV with the columns path and label, and split (train, val or test) if there is one.

    Paths are relative to the CSV's folder. If any label has a semicolon, images may have several classes, or none.

    Raises:
      ValueError: if a column or a file is missing, or a row is not what it should be; names the row.
    """
    rows = _read_rows(path)
    by_split: dict[str, list[tuple[int, str, str]]] = {}
    for number, file, label, split in rows:
        by_split.setdefault(split, []).append((number, file, label))
    for (first, file, *_), (second, again, *_) in pairwise(rows):  # which are in the order of the files
        if file == again:
            raise ValueError(
                f"rows {first} and {second} of {path} both name {file}; give each image one row, with several labels "
                f"separated by {LABEL_SEPARATOR!r}."
            )
    is_multilabel = any(LABEL_SEPARATOR in label for *_, label, _ in rows)
    root = path.parent
    missing = [(number, file) for number, file, *_ in rows if not (root / file).is_file()]
    if missing:
        number, file = min(missing)  # the first in the CSV, of which a person looks for the row
        more = f" ({len(missing):,} files are missing in all)" if len(missing) > 1 else ""
        raise ValueError(
            f"row {number} of {path} names {file}, and there is no such file in {root.resolve()}{more}; "
            f"paths are relative to the folder of the CSV."
        )
    parts = {}
    for split in (s for s in SPLITS if s in by_split):
        files = [file for _, file, _ in by_split[split]]
        labels, class_names = _labels(path, [(number, label) for number, _, label in by_split[split]], is_multilabel)
        names = PackedStrings(composed(file) for file in files)
        parts[split] = (Split(Files(root, PackedStrings(files)), labels, names), class_names)
    splits, class_names = joined(str(path), parts)
    if len(class_names) < 2:
        raise ValueError(f"{path} has one label only, {', '.join(class_names)!r}; a classifier needs two or more.")
    return Source(path.stem, class_names, splits)


def _read_rows(path: Path) -> list[tuple[int, str, str, str]]:
    """(row number as a spreadsheet counts, file, label, split) of every row, ordered by file."""
    if not path.is_file():
        raise ValueError(f"no file {path}; give a CSV with the columns path and label.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            table = csv.DictReader(file, delimiter=DELIMITERS[path.suffix.lower()], restval="")
            columns = [(name or "").strip().lower() for name in table.fieldnames or ()]
            if len(columns) == 1 and LABEL_SEPARATOR in columns[0]:
                raise ValueError(
                    f"{path} separates its columns by {LABEL_SEPARATOR!r}, which stands between labels here; save it "
                    f"with commas, or as .tsv with tabs."
                )
            for column in ("path", "label", "split"):
                if column != "split" and column not in columns:
                    has = f"only {', '.join(columns)}" if columns else "it is empty"
                    raise ValueError(f"{path} has no column {column!r}, {has}; path and label are needed.")
                if columns.count(column) > 1:
                    raise ValueError(f"{path} has the column {column!r} twice; rename one.")
            table.fieldnames = columns
            rows = [_row(path, number, row) for number, row in enumerate(table, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}); save it as UTF-8.") from None
    if not rows:
        raise ValueError(f"{path} has no rows; a data set needs images.")
    return sorted(rows, key=lambda row: row[1])


def _row(path: Path, number: int, row: dict[str, str]) -> tuple[int, str, str, str]:
    file, label = row["path"].strip().replace("\\", "/"), row["label"].strip()
    if not file:
        raise ValueError(f"row {number} of {path} has no path; every row needs one.")
    given = row.get("split", "train").strip()
    split = SPLIT_FOLDERS.get(given.lower())
    if split is None:
        raise ValueError(f"row {number} of {path} has the split {given!r}; use train, val or test.")
    return number, file, composed(label), split


def _labels(path: Path, texts: Sequence[tuple[int, str]], is_multilabel: bool) -> tuple[Labels, tuple[str, ...]]:
    """Labels from (row number, text): int64 [N], or bool [N, K] where images may have several."""
    if not is_multilabel:
        for number, text in texts:
            if not text:
                raise ValueError(f"row {number} of {path} has no label; every image needs one.")
        class_names = tuple(sorted({text for _, text in texts}))
        numbers = {name: i for i, name in enumerate(class_names)}
        return np.array([numbers[text] for _, text in texts], dtype=np.int64), class_names
    sets = [{part.strip() for part in text.split(LABEL_SEPARATOR)} - {""} for _, text in texts]
    return multi_hot(sets)
