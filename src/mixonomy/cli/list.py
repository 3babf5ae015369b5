"""`mixonomy list`."""

import json
import sys
from dataclasses import dataclass
from typing import Literal

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse


@dataclass(frozen=True)
class List:
    """Lists what can be named: models, data sets or recipes."""

    what: Positional[Literal["models", "data", "recipes"]]
    """Which list."""
    json: FlagCreatePairsOff[bool] = False
    """Print the names as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(List, argv, name="list")
    rows = {"models": _models, "data": _data, "recipes": _recipes}[options.what]()
    people = sys.stderr if options.json else sys.stdout
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:<{width}}{text}", file=people)
    if options.json:
        print(json.dumps({options.what: [name for name, _ in rows]}))
    return 0


def _models() -> list[tuple[str, str]]:
    from mixonomy.models import SPECS

    rows = [("mixer", "a Mixer of any shape; needs all five sizes")]
    for name, size in SPECS.items():
        rows.append((name, ", ".join(f"{key} {value}" for key, value in vars(size).items())))
    return rows


def _data() -> list[tuple[str, str]]:
    from mixonomy.data import known_sources

    return [
        *known_sources(),
        ("FOLDER", "of class folders, or of train/ val/ test/ with class folders in each"),
        ("FILE.csv", "columns path, label (several separated by ;), optionally split; also .tsv"),
        ("FILE.parquet", "columns image, label"),
        ("PREFIX", "of PREFIX_train.parquet ..."),
        ("hf:OWNER/NAME", "a data set of the Hugging Face hub"),
    ]


def _recipes() -> list[tuple[str, str]]:
    from mixonomy.recipes import describe_recipes

    return describe_recipes()
