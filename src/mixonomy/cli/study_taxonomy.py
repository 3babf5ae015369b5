"""`mixonomy study taxonomy`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse

if TYPE_CHECKING:
    from mixonomy.studies import Cost, Taxonomy

MEANING = {
    "channels": "mixes channels at a location",
    "locations": "mixes locations",
    "both": "mixes both at once",
    "neither": "mixes neither",
}


@dataclass(frozen=True)
class StudyTaxonomy:
    """Says for each layer of a model what it mixes, and splits parameters, MACs and memory by it."""

    models: Positional[list[str]] = field(default_factory=lambda: ["mixer-b/16"])
    """Names, as `mixonomy list models` shows them; all are built afresh, no weights are read."""
    image_size: int = 224
    """Pixels a side."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyTaxonomy, argv, name="study taxonomy")

    from mixonomy.models import create
    from mixonomy.studies import taxonomy

    people = sys.stderr if options.json else sys.stdout
    found = []
    for name in options.models:
        model = create(name, image_size=options.image_size)
        found.append(taxonomy(model, name, image_size=(options.image_size, options.image_size)))
        print("\n".join(_lines(found[-1])), file=people)
    if options.json:
        print(json.dumps({"taxonomy": [each.to_dict() for each in found]}))
    return 0


def _lines(found: "Taxonomy") -> Iterator[str]:
    groups = found.groups()
    names = [f"{group.name} x {group.num_layers}" if group.num_layers > 1 else group.name for group in groups]
    width = max(map(len, [*names, *MEANING.values()])) + 2
    kinds = max(len(group.kind) for group in groups) + 2
    height, wide = found.image_size
    yield f"{found.model}, {height} x {wide} pixels, one image"
    yield ""
    yield f"{'layer':<{width}}{'kind':<{kinds}}{'mixes':<11}{'parameters':>13}{'million MACs':>14}{'memory, MB':>12}"
    for name, group in zip(names, groups, strict=True):
        yield f"{name:<{width}}{group.kind:<{kinds}}{group.role:<11}" + _numbers(group.cost)
    yield ""
    total = found.total()
    for role, cost in found.by_role().items():
        shares = f"{_percent(cost.parameters, total.parameters):>10}{_percent(cost.macs, total.macs):>8}"
        shares += f"{_percent(cost.activation_bytes, total.activation_bytes):>8}"
        yield f"{MEANING[role]:<{width}}{'':<{kinds + 11}}{_numbers(cost)}{shares}"
    yield f"{'in all':<{width}}{'':<{kinds + 11}}{_numbers(total)}"
    yield ""
    yield "MACs: multiplications with addition in matrix products and convolutions, half of the FLOPs. Memory: kept for"
    yield "the backward pass of one image, float32, without weights. The shares are of parameters, MACs and memory."
    yield ""


def _numbers(cost: "Cost") -> str:
    return f"{cost.parameters:>13,}{cost.macs / 1e6:>14,.1f}{cost.activation_bytes / 1e6:>12,.1f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
