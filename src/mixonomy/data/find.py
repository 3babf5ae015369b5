"""From what a person names to image files: files, folders, globs, and a list on standard input."""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixonomy.data.sources.files import PackedStrings, has_image_ending, image_paths, is_hidden

STANDARD_INPUT = "-"
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n")  # of JPEG and PNG files; no path begins like them


@dataclass(frozen=True)
class FoundImages:
    """Paths in the order in which they were named, those of one folder or glob sorted.

    Args:
      paths: of files; where nothing was found or a folder cannot be searched, the folder or glob itself.
      problems: index into `paths` -> why nothing was found there.
    """

    paths: Sequence[str]
    problems: dict[int, str]

    def __len__(self) -> int:
        return len(self.paths)


def find_images(names: Iterable[str], standard_input: BinaryIO | None = None) -> FoundImages:
    """Finds what is to be classified; does not open the files, nor check those that are named one by one.

    A folder stands for all images below it, a glob (*, ?, [a-z], ** for folders at any depth) for those that match it;
    both leave out hidden files and files that do not end like images. A name that exists is never taken for a glob.

    Args:
      names: of files and folders, globs, or "-" for paths on standard input: one per line, or each ended by NUL.
      standard_input: read to its end where a name is "-".
    Raises:
      ValueError: if nothing but empty folders, globs without match and empty lists were named.
    """
    problems: dict[int, str] = {}
    paths = PackedStrings(_all_paths(names, standard_input, problems))
    if len(paths) == len(problems):
        what = [path if path == STANDARD_INPUT else f"{path!r}" for path in paths[:3]]
        reasons = [f"{name}: {problem}" for name, problem in zip(what, problems.values(), strict=False)]
        more = f"; and {len(paths) - 3} more" if len(paths) > 3 else ""
        raise ValueError(f"no images to classify ({'; '.join(reasons)}{more}); name image files, folders or globs.")
    return FoundImages(paths, problems)


def _all_paths(names: Iterable[str], standard_input: BinaryIO | None, problems: dict[int, str]) -> Iterator[str]:
    """Yields paths; fills `problems` on the way."""
    count = 0
    for name in names:
        if name == STANDARD_INPUT and standard_input is not None:
            rows = [row for path in _listed(standard_input.read()) for row in _expanded(path, globs=False)]
            rows = rows or [(name, "no paths on standard input")]
        else:
            rows = _expanded(name, globs=True)
        for path, problem in rows:
            if problem:
                problems[count] = problem
            yield path
            count += 1


def _listed(content: bytes) -> Iterator[str]:
    """Paths from a list: one per line, or between NULs where there are any (`find -print0`).

    Raises:
      ValueError: if it begins like an image file.
    """
    if content.startswith(IMAGE_STARTS):
        raise ValueError("standard input is an image, not a list of paths; give the path of its file.")
    lines = content.split(b"\0") if b"\0" in content else (line.rstrip(b"\r") for line in content.split(b"\n"))
    return (os.fsdecode(line) for line in lines if line)


def _expanded(name: str, *, globs: bool) -> list[tuple[str, str]]:
    """(path, "") of every file that a name stands for; (folder or pattern, problem) where there are none."""
    if not os.path.lexists(name) and name.startswith("~"):  # a shell leaves it alone inside quotes
        name = os.path.expanduser(name)
    if os.path.isdir(name):
        unsearched: list[tuple[str, str]] = []

        def note(below: str, error: OSError) -> None:
            path = os.path.join(name, below) if below else name
            unsearched.append((path, f"a folder that cannot be searched ({error.strerror})"))

        try:
            found = [(os.path.join(name, path), "") for path in image_paths(Path(name), on_error=note)]
        except OSError as error:
            found = []
            note("", error)
        return sorted(found + unsearched) or [(name, "a folder without images")]
    if globs and glob.has_magic(name) and not os.path.lexists(name):
        return [(path, "") for path in sorted(_matches(name))] or [(name, "no image matches this pattern")]
    return [(name, "")]


def _matches(pattern: str) -> Iterator[str]:
    """Image files that match a glob."""
    parts = pattern.split("/")
    if "**" not in parts:
        candidates = glob.iglob(pattern)
    else:  # not by `glob`, which follows links in circles
        first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base, rest = "/".join(parts[:first]), parts[first:]
        root = base + "/" if first else ""
        below = image_paths(Path(root or ".")) if os.path.isdir(root or ".") else ()
        candidates = (f"{root}{path}" for path in below if _fits(path.split("/"), rest))
    named = set(parts)
    for path in candidates:
        is_shown = not any(is_hidden(part) for part in path.split("/") if part not in named)
        if is_shown and has_image_ending(path) and not os.path.isdir(path):
            yield path


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether folder and file names fit a glob, part by part; ** stands for any number of folders."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        rest = pattern[1:] or ["*"]
        return any(_fits(names[i:], rest) for i in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])
