"""`mixonomy fewshot`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.choices import BadImagePolicy
from mixonomy.cli.arguments import parse

if TYPE_CHECKING:  # torch
    from mixonomy.probing import Probing

NO_CACHE = "none"


@dataclass(frozen=True)
class FewShot:
    """Scores simple classifiers on the features of a model that stays as it is: what it is worth for other data.

    They are fitted to training images and scored once on test images. ridge: least squares from few images of each
    class, several draws; linear: logistic regression on all, its l2 chosen on held-out images; knn: the nearest 20.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, or a .safetensors or .npz file."""
    data: str
    """SOURCE: the other data."""
    shots: tuple[int, ...] | None = None
    """Images of each class that ridge gets; 1 5 10 25 if not given."""
    seeds: int | None = None
    """Draws of them; 3 if not given."""
    probe: str = "ridge"
    """Which classifiers, joined by commas: ridge, linear, knn."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    on_bad_image: BadImagePolicy = "error"
    """What to do about images that cannot be read: stop, or leave them out."""
    cache: str | None = None
    """Folder where features are kept; ~/.cache/mixonomy/features if not given, none to keep nothing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: FlagCreatePairsOff[bool] = False
    """Print the scores as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(FewShot, argv, name="fewshot")

    from mixonomy import api
    from mixonomy.experiment import Runtime
    from mixonomy.probing import CACHE

    probes: list = [name.strip() for name in options.probe.split(",")]
    found = api.probe(
        options.run,
        options.data,
        probes=probes,
        shots=options.shots,
        num_seeds=options.seeds,
        on_bad_image=options.on_bad_image,
        cache=None if options.cache == NO_CACHE else options.cache or CACHE,
        runtime=Runtime(device=options.device, data_root=options.data_root),
    )
    people = sys.stderr if options.json else sys.stdout
    print("\n".join(_lines(found)), file=people)
    if options.json:
        print(json.dumps(found.to_dict()))
    return 0


def _lines(found: "Probing") -> Iterator[str]:
    yield f"{found.data}: top-1 of {found.n:,} test images"
    for few in found.few_shot:
        spread = "" if few.std is None else f" ± {few.std:.4f}"
        yield (
            f"{f'ridge, {few.shots} of each class':<26}{few.mean:.4f}{spread}  "
            f"({few.num_support:,} images, n = {len(few.top1)})"
        )
    if found.linear is not None:
        linear = found.linear
        yield f"{'linear':<26}{linear.top1:.4f}  ({linear.num_train:,} images, l2 {linear.l2:g} by held-out ones)"
    if found.knn is not None:
        yield f"{'nearest neighbours':<26}{found.knn:.4f}  ({found.num_train:,} images)"
    yield from (f"note: {note}" for note in found.notes)
