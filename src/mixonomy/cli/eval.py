"""`mixonomy eval`."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.choices import BadImagePolicy, RealBy
from mixonomy.cli.arguments import parse
from mixonomy.cli.predictions import write_line


@dataclass(frozen=True)
class Eval:
    """Scores a trained model, as a whole and per class.

    One label per image: top-1, top-5, negative log-likelihood (nll), calibration error (ece), macro-F1. Several: mean
    average precision (map), micro- and macro-F1, share of images with exactly the right labels, nll.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a .safetensors, .npz, .onnx or .xml file, timm:NAME, or hf:OWNER/NAME on the Hugging Face hub."""
    data: str | None = None
    """SOURCE; the data the run was trained on if not given."""
    split: Literal["train", "val", "test"] | None = None
    """Which part, as training divides it; test if not given (all of other data that have one part)."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    on_bad_image: BadImagePolicy = "error"
    """What to do about images that cannot be read: stop, or leave them out."""
    real: str | None = None
    """The file real.json: score ImageNet's validation images by their reassessed labels (ReaL) too."""
    real_by: RealBy = "name"
    """How an image is found there: by ImageNet's name of it, or by its place among all 50,000 in ImageNet's order."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: FlagCreatePairsOff[bool] = False
    """Print the scores as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Eval, argv, name="eval")

    from mixonomy import api
    from mixonomy.experiment import Runtime
    from mixonomy.report.tables import class_table

    model = api.load(options.run)
    scored = api.evaluate(
        model,
        options.data,
        split=options.split,
        on_bad_image=options.on_bad_image,
        real=options.real,
        real_by=options.real_by,
        runtime=Runtime(device=options.device, data_root=options.data_root),
    )
    people = sys.stderr if options.json else sys.stdout
    for name, value in scored.scores():
        print(f"{name:<12}{value:,}" if isinstance(value, int) else f"{name:<12}{value:.4f}", file=people)
    names = api.info_of(model).class_names or tuple(str(i) for i in range(scored.num_classes))
    write_line(class_table(names, scored.per_class()), people)
    if options.json:
        print(json.dumps({**scored.to_dict(), "classes": names}))
    return 0
