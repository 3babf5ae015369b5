"""One SOURCE string opens any data set."""

import difflib
import os
from pathlib import Path

from mixonomy.data.sources import csv_file, folder, hub, known, lists, parquet, shards
from mixonomy.data.sources.base import Source
from mixonomy.data.sources.files import is_hidden

HUB = "hf:"
DIGITS = Path(__file__).parents[1] / "digits"  # beside this package, shipped with it


def open_source(text: str, root: str | Path | None = None) -> Source:
    """Opens the data set that a SOURCE string names.

    Args:
      text: "digits"; a known name; a folder of class folders, or with VTAB's train800.txt, val200.txt and test.txt; a
        .csv or .tsv of paths and labels; a .parquet file, or the prefix of NAME_train.parquet and its siblings; or
        "hf:OWNER/NAME" of the Hugging Face hub; or "shards:WHERE" of tar files.
      root: folder of the known names; $MIXONOMY_DATA, else ~/.cache/mixonomy/data, if not given.
    Raises:
      ValueError: if nothing is found there, or a file is not what it should be; says what is allowed.
    """
    if text == "digits":
        return parquet.open_prefix(DIGITS, "digits")
    if text in known.KNOWN:
        return known.open_known(text, data_root(root))
    if text.startswith(HUB):
        return hub.open_hub(text)
    if text.startswith(shards.PREFIX):
        return shards.open_shards(text)
    if (root_folder := folder_of(text)) is not None:
        return lists.open_lists(root_folder) if lists.has_lists(root_folder) else folder.open_folder(root_folder)
    path = Path(os.path.expanduser(text))
    if path.suffix.lower() in csv_file.DELIMITERS:
        return csv_file.open_csv(path)
    if path.suffix.lower() == ".parquet":
        return parquet.open_file(path)
    if path.name and parquet.siblings(path):
        return parquet.open_prefix(path, path.name)
    raise ValueError(
        f"no data set {text!r}: {_what_is_there(path)}, and it is no known name (`mixonomy list data`); "
        f"{_nearest(text, path)}give a folder of class folders, a .csv, .tsv or .parquet file, the NAME of "
        f"NAME_train.parquet, hf:OWNER/NAME, shards:FOLDER or a known name."
    )


def folder_of(text: str) -> Path | None:
    """The folder of images that a SOURCE string names; None of any other, such as a known name."""
    if text in ("", "digits", *known.KNOWN) or text.startswith((HUB, shards.PREFIX)):
        return None
    path = Path(os.path.expanduser(text))
    return path if path.is_dir() else None


def _what_is_there(path: Path) -> str:
    if path.is_file():
        return "this file is none of .csv, .tsv and .parquet"
    parent = path.parent.resolve()
    if not parent.is_dir():
        return f"there is no folder {parent}"
    return f"{parent} has no folder, and no _train.parquet, of that name"


def _nearest(text: str, path: Path) -> str:
    """ "did you mean 'NAME'? ", of the known names and of what lies where the path leads; "" if nothing is like it."""
    names = ["digits", *known.KNOWN]
    if path.name and path.parent.is_dir() and os.access(path.parent, os.R_OK | os.X_OK):
        entries = (entry for entry in os.scandir(path.parent) if not is_hidden(entry.name))
        files = (*csv_file.DELIMITERS, ".parquet")
        given = text[: len(text.rstrip("/")) - len(path.name)]
        names += [given + entry.name for entry in entries if entry.name.lower().endswith(files) or entry.is_dir()]
    near = difflib.get_close_matches(text, names, n=1)
    return f"did you mean {near[0]!r}? Else " if near else ""


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the known names: as given, else $MIXONOMY_DATA, else ~/.cache/mixonomy/data."""
    return Path(os.path.expanduser(root or os.environ.get("MIXONOMY_DATA") or "~/.cache/mixonomy/data"))


def known_sources() -> list[tuple[str, str]]:
    """(name, where it comes from) of every name that `open_source` knows."""
    return [("digits", "embedded"), *((name, entry.origin) for name, entry in known.KNOWN.items())]
