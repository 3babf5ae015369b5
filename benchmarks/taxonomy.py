"""What the layers of each architecture mix and cost, as rows in results/taxonomy.jsonl.

python benchmarks/taxonomy.py                 all of MODELS; about a minute on one core
python benchmarks/taxonomy.py mixer-b/16      some of them

A row is one kind of layer of one model; what it mixes is its note. The numbers are exact counts, the same everywhere.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rows import RESULTS, Origin, Row, append, make_row, origin

# One line per family: the model that the table of layers in docs/taxonomy.md shows, and all that its figure shows.
ARCHITECTURES = {
    "mixer-b/16": ("mixer-s/32", "mixer-s/16", "mixer-b/32", "mixer-b/16", "mixer-l/32", "mixer-l/16", "mixer-h/14"),
    "vit-b/16": ("vit-ti/16", "vit-s/32", "vit-s/16", "vit-b/32", "vit-b/16", "vit-l/32", "vit-l/16", "vit-h/14"),
    "resmlp-24": ("resmlp-12", "resmlp-24", "resmlp-36", "resmlp-big-24"),
    "gmlp-s/16": ("gmlp-ti/16", "gmlp-s/16", "gmlp-b/16"),
    "convmixer-768/32": ("convmixer-1024/20", "convmixer-768/32", "convmixer-1536/20"),
    "pool-b/16": ("pool-s/16", "pool-b/16"),
    "dwconv-b/16": ("dwconv-s/16", "dwconv-b/16"),
}
MODELS = tuple(name for names in ARCHITECTURES.values() for name in names)
IMAGE_SIZE = 224
ROLES = ("channels", "locations", "both", "neither")
UNITS = {"parameters": "parameters", "macs": "MACs per image", "activation_bytes": "bytes per image"}


@dataclass
class TaxonomyRow:
    """One kind of layer of one model, put together from its rows.

    Args:
      layer: name with * for numbers, and how many there are.
      kind: its class.
      role: one of ROLES.
      data: size of the image.
      commit: of mixonomy.
      cost: by the keys of UNITS.
    """

    layer: str
    kind: str
    role: str
    data: str
    commit: str
    cost: dict[str, float] = field(default_factory=dict)


def measure(name: str, where: Origin, image_size: int = IMAGE_SIZE) -> Iterator[Row]:
    """The rows of one model: three for each kind of layer."""
    from mixonomy.models import create
    from mixonomy.studies import taxonomy

    found = taxonomy(create(name, image_size=image_size), name, image_size=(image_size, image_size))
    for group in found.groups():
        times = f" x {group.num_layers}" if group.num_layers > 1 else ""
        for metric, unit in UNITS.items():
            yield make_row(
                where,
                study="taxonomy",
                model=f"{name}: {group.name}{times}: {group.kind}",
                data=f"{image_size} x {image_size}",
                metric=metric,
                value=getattr(group.cost, metric),
                unit=unit,
                note=group.role,
            )


def newest_of(rows: Sequence[Row]) -> dict[str, list[TaxonomyRow]]:
    """The layers of each model as it was measured last, models in the order of MODELS."""
    by_model: dict[str, dict[tuple[str, ...], list[TaxonomyRow]]] = {}
    for row in rows:
        model, layer, kind = row["model"].split(": ")
        run = (row["data"], str(row["commit"]), row["command"], row["date"])
        runs = by_model.setdefault(model, {})
        layers = runs.setdefault(run, [])
        same = [each for each in layers if (each.layer, each.kind, each.role) == (layer, kind, row["note"])]
        if not same:
            layers.append(TaxonomyRow(layer, kind, row["note"], row["data"], row["commit"] or "-"))
        (same or layers)[-1].cost[row["metric"]] = row["value"]
    order = dict.fromkeys(name for name in (*MODELS, *by_model) if name in by_model)
    return {model: list(by_model[model].values())[-1] for model in order}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS, help="names of models; MODELS if not given")
    parser.add_argument("--out", type=Path, default=RESULTS / "taxonomy.jsonl")
    options = parser.parse_args()
    where = origin()
    for name in options.models:
        append(options.out, measure(name, where))
        print(f"{name}: done")


if __name__ == "__main__":
    main()
