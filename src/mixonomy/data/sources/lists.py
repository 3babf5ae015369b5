"""A folder of images with list files, one "PATH LABEL" a line: the layout in which VTAB-1k circulates."""

from pathlib import Path

import numpy as np

from mixonomy.data.sources.base import Source, Split
from mixonomy.data.sources.files import Files, PackedStrings

LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}


def has_lists(folder: Path) -> bool:
    """Whether a folder is of this layout."""
    return (folder / LISTS["train"]).is_file()


def open_lists(folder: Path) -> Source:
    """Opens train800.txt, val200.txt and test.txt; paths are relative to the folder, labels whole numbers from 0.

    Classes are named by their number, since the lists do not name them.

    Raises:
      ValueError: if a list is missing or has no lines, or a line has another form or names no file.
    """
    read = {name: _read(folder, file) for name, file in LISTS.items()}
    num_classes = 1 + max(int(labels.max()) for _, labels in read.values())
    splits = {name: Split(Files(folder, paths), labels, paths) for name, (paths, labels) in read.items()}
    return Source(folder.name, tuple(str(k) for k in range(num_classes)), splits)


def _read(folder: Path, file: str) -> tuple[PackedStrings, np.ndarray]:
    if not (folder / file).is_file():
        raise ValueError(f"{folder} has {LISTS['train']} and no {file}; VTAB's lists are {', '.join(LISTS.values())}.")
    rows = []
    lines = (folder / file).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdecimal():
            raise ValueError(f"line {number} of {folder / file} is {line!r}; it must be PATH LABEL, such as 'a.jpg 3'.")
        if not (folder / path).is_file():
            raise ValueError(f"line {number} of {folder / file} names {path}, and there is no such file in {folder}.")
        rows.append((path, int(label)))
    if not rows:
        raise ValueError(f"{folder / file} has no lines; a data set needs images.")
    return PackedStrings(path for path, _ in rows), np.array([label for _, label in rows], dtype=np.int64)
