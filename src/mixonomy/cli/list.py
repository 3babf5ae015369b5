"""`mixonomy list`."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse


@dataclass(frozen=True)
class List:
    """Lists what can be named: models, data sets, recipes or published weights."""

    what: Positional[Literal["models", "data", "recipes", "weights"]]
    """Which list."""
    json: FlagCreatePairsOff[bool] = False
    """Print the names, of weights all facts, as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(List, argv, name="list")
    people = sys.stderr if options.json else sys.stdout
    if options.what == "weights":
        lines, facts = _weights()
        print("\n".join(lines), file=people)
        if options.json:
            print(json.dumps({"weights": facts}))
        return 0
    rows = {"models": _models, "data": _data, "recipes": _recipes}[options.what]()
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:<{width}}{text}", file=people)
    if options.json:
        print(json.dumps({options.what: [name for name, _ in rows]}))
    return 0


def _models() -> list[tuple[str, str]]:
    from mixonomy.models import CURATED, FAMILIES

    rows = []
    for name, family in FAMILIES.items():
        rows.append((name, f"of any shape; give {', '.join(family.size.__dataclass_fields__)}"))
        for spec, size in family.specs.items():
            rows.append((spec, ", ".join(f"{key} {value}" for key, value in vars(size).items())))
    return [*rows, *CURATED.items(), ("timm:NAME", "any other model of timm")]


def _data() -> list[tuple[str, str]]:
    from mixonomy.data import known_sources

    return [
        *known_sources(),
        ("FOLDER", "of class folders, or of train/ val/ test/ with class folders in each"),
        ("FILE.csv", "columns path, label (several separated by ;), optionally split; also .tsv"),
        ("FILE.parquet", "columns image, label"),
        ("PREFIX", "of PREFIX_train.parquet ..."),
        ("hf:OWNER/NAME", "a data set of the Hugging Face hub"),
        ("shards:WHERE", "tar files with images, a folder, a pattern as {000..099}.tar, or a URL"),
    ]


def _recipes() -> list[tuple[str, str]]:
    from mixonomy.recipes import describe_recipes

    return describe_recipes()


def _weights() -> tuple[list[str], list[dict[str, Any]]]:
    """Lines for people, with each note once and numbered; and all facts."""
    from mixonomy.models.published import PUBLISHED

    lines, notes = [], list[str]()
    for each in PUBLISHED:
        size = "" if each.params is None else f", {each.params / 1e6:.1f} M parameters"
        size += "" if each.file_mib is None else f", {each.file_mib:g} MiB"
        marks = []
        for note in filter(None, each.note.split("; ")):
            notes += [] if note in notes else [note]
            marks.append(f"[{notes.index(note) + 1}]")
        lines.append(f"{each.name} {''.join(marks)}".rstrip())
        lines.append(f"    {each.model}, {each.trained_on}; {each.num_classes:,} classes{size}; {each.licence}")
        gelu = "" if each.gelu == "-" else f", GELU {each.gelu}"
        lines.append(f"    {each.image_size} x {each.image_size} pixels, {each.pixels}, crop {each.crop:g}{gelu}")
        for found in each.reported:
            note = f", {found.note}" if found.note else ""
            lines.append(f"    {found.top1:g} % on {found.data}{note} ({found.source})")
    lines += ["", *(f"[{number}] {note}." for number, note in enumerate(notes, start=1))]
    lines += [
        "",
        "timm: names load by themselves; an address is a file to download, whose path loads. See docs/weights.md.",
    ]
    return lines, [asdict(each) for each in PUBLISHED]
