"""A folder of class folders, with or without train/, val/ and test/."""

from pathlib import Path

import numpy as np

from mixonomy.data.sources.base import Source, Split, joined
from mixonomy.data.sources.files import Files, PackedStrings, composed, has_image_ending, image_paths, is_hidden

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders, in lower case -> split."""


def open_folder(root: Path) -> Source:
    """Opens root/CLASS/... or root/{train,val,test}/CLASS/...; the class is the folder below the split.

    Names of classes are in Unicode's composed form (NFC), whatever the file system made of them. Images are ordered by
    path, compared code point by code point, so that every machine has the same order.

    Raises:
      ValueError: if there are no images, no class folders or just one, or the class folders are further down.
    """
    folders = _folders(root)
    as_splits = {folder: SPLIT_FOLDERS[folder.lower()] for folder in folders if folder.lower() in SPLIT_FOLDERS}
    has_others = len(as_splits) < len(folders)
    if has_others and not any(_folders(root / folder) for folder in as_splits):
        as_splits = {}  # classes that happen to be called "test" or, in CIFAR-100, "train"
    if not as_splits:
        parts = {"train": _read_classes(root, "")}
        notes = _notes(root.name, root, *parts["train"])
    else:
        if others := [folder for folder in folders if folder not in as_splits]:
            raise ValueError(
                f"{root} has {_some(sorted(as_splits))} and beside them {_some(others)}; "
                f"give a folder with splits (train, val, test) only, or with classes only."
            )
        if len(set(as_splits.values())) < len(as_splits):
            raise ValueError(f"{root} has {_some(sorted(as_splits))}, two of which are the same split; rename one.")
        in_order = sorted(as_splits, key=lambda folder: tuple(SPLIT_FOLDERS.values()).index(as_splits[folder]))
        parts = {as_splits[folder]: _read_classes(root, f"{folder}/") for folder in in_order}
        notes = [
            note
            for folder, name in as_splits.items()
            for note in _notes(f"{name} of {root.name}", root / folder, *parts[name])
        ]
    kept = {name: (split, tuple(names)) for name, (split, names) in parts.items()}
    splits, class_names = joined(str(root), {name: _without_empty(*part) for name, part in kept.items()})
    if len(class_names) < 2:
        raise ValueError(
            f"{root} has images of one class only, {', '.join(class_names)!r}; a classifier needs two or more."
        )
    return Source(root.resolve().name, class_names, splits, notes=tuple(notes))


def _folders(root: Path) -> list[str]:
    """The folders that are not hidden."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _read_classes(root: Path, prefix: str) -> tuple[Split, tuple[str, ...]]:
    """The images of root/PREFIX/CLASS/..., with every class folder, also those without images."""
    base = root / prefix
    folders = _folders(base)
    if not folders:
        loose = _num_loose(base)
        has = f"{loose:,} images but no class folders" if loose else "no class folders"
        raise ValueError(
            f"{base} has {has}; put the images of each class in a folder named like the class, or give a CSV of paths "
            f"and labels."
        )
    by_class: dict[str, list[str]] = {}
    for folder in folders:
        class_name = composed(folder)
        by_class.setdefault(class_name, []).extend(f"{folder}/{path}" for path in image_paths(base / folder))
    if not any(by_class.values()):
        raise ValueError(
            f"no image in the folders of {base} ({_some(folders)}); files of other kinds and hidden ones are left out."
        )
    if all(path.count("/") > 1 for paths in by_class.values() for path in paths):
        first = next(path for paths in by_class.values() for path in paths)
        where = base / first.split("/")[0] if len(folders) == 1 else base
        advice = f"give {where}" if len(folders) == 1 else "put the images directly into the class folders"
        raise ValueError(
            f"the images of {base} lie too deep, such as {first}: it should hold class folders with images; {advice}."
        )
    class_names = tuple(sorted(by_class))
    paths, labels = [], []
    for number, class_name in enumerate(class_names):
        found = sorted(by_class[class_name], key=lambda path: (composed(path), path))
        paths += found
        labels += [number] * len(found)
    names = PackedStrings(prefix + composed(path) for path in paths)
    return Split(Files(base, PackedStrings(paths)), np.array(labels, dtype=np.int64), names), class_names


def _without_empty(split: Split, class_names: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
    """Leaves out classes without images."""
    present = np.unique(split.labels)
    labels = np.searchsorted(present, split.labels)
    return Split(split.images, labels, split.names), tuple(class_names[i] for i in present)


def _notes(where: str, base: Path, split: Split, class_names: tuple[str, ...]) -> list[str]:
    """Says which class folders have no images, and how many images are in none."""
    empty = [name for name, count in zip(class_names, split.counts(len(class_names)), strict=True) if not count]
    notes = [f"{where} has no images of {_some(empty)}, left out."] if empty else []
    if loose := _num_loose(base):
        notes.append(f"{where} has {loose:,} image{'s' * (loose > 1)} outside of its class folders, left out.")
    return notes


def _num_loose(base: Path) -> int:
    """Images beside the class folders."""
    return sum(
        has_image_ending(entry.name) and not is_hidden(entry.name) and entry.is_file() for entry in base.iterdir()
    )


def _some(names: list[str]) -> str:
    """The first few names, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
