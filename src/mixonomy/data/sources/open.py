"""One SOURCE string opens any data set."""

import difflib
import os
from pathlib import Path

from mixonomy.data.sources import csv_file, folder, hub, known, lists, parquet
from mixonomy.data.sources.base import Source

DIGITS = Path(__file__).parents[1] / "digits"  # beside this package, shipped with it


def open_source(text: str, root: str | Path | None = None) -> Source:
    """Opens the data set that a SOURCE string names.

    Args:
      text: "digits"; a known name; a folder of class folders, or with VTAB's train800.txt, val200.txt and test.txt; a
        .csv or .tsv of paths and labels; a .parquet file, or the prefix of NAME_train.parquet and its siblings; or
        "hf:OWNER/NAME" of the Hugging Face hub.
      root: folder of the known names; $MIXONOMY_DATA, else ~/.cache/mixonomy/data, if not given.
    Raises:
      ValueError: if nothing is found there, or a file is not what it should be; says what is allowed.
    """
    if text == "digits":
        return parquet.open_prefix(DIGITS, "digits")
    if text in known.KNOWN:
        return known.open_known(text, data_root(root))
    if text.startswith("hf:"):
        return hub.open_hub(text)
    path = Path(text).expanduser()
    if text and lists.has_lists(path):
        return lists.open_lists(path)
    if text and path.is_dir():
        return folder.open_folder(path)
    if path.suffix.lower() in csv_file.DELIMITERS:
        return csv_file.open_csv(path)
    if path.suffix.lower() == ".parquet":
        return parquet.open_file(path)
    if path.name and parquet.siblings(path):
        return parquet.open_prefix(path, path.name)
    near = difflib.get_close_matches(text, ["digits", *known.KNOWN], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"no data set {text!r}: it is no known name (`mixonomy list data`), no folder, .csv or .parquet file, "
        f"and there is no {path.name}_train.parquet in {path.parent}{hint}"
    )


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the known names: as given, else $MIXONOMY_DATA, else ~/.cache/mixonomy/data."""
    return Path(root or os.environ.get("MIXONOMY_DATA") or Path.home() / ".cache/mixonomy/data").expanduser()


def known_sources() -> list[tuple[str, str]]:
    """(name, where it comes from) of every name that `open_source` knows."""
    return [("digits", "embedded"), *((name, entry.origin) for name, entry in known.KNOWN.items())]
