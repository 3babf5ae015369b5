"""`mixonomy predict`."""

import json
import sys
from dataclasses import asdict, dataclass

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse


@dataclass(frozen=True)
class Predict:
    """Classifies image files; exits with 1 if one of them could not be read."""

    run: Positional[str]
    """A run folder, or a .safetensors or .npz file."""
    paths: Positional[tuple[str, ...]]
    """Image files."""
    top: int = 3
    """How many classes to name."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per image: path, classes (name, prob) or error."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Predict, argv, name="predict")
    if not options.paths:
        raise ValueError("no image files given; name at least one after the run.")
    if options.top < 1:
        raise ValueError(f"--top is {options.top}; give at least 1.")

    from mixonomy import api
    from mixonomy.experiment import Runtime

    failed = 0
    for prediction in api.predict(options.run, options.paths, top=options.top, runtime=Runtime(device=options.device)):
        failed += prediction.error is not None
        if options.json:
            row = asdict(prediction)
            row["classes"] = [{"name": name, "prob": prob} for name, prob in prediction.classes]
            row.pop("error" if prediction.error is None else "classes")
            print(json.dumps(row, ensure_ascii=False))
        elif prediction.error is not None:
            print(f"{prediction.path}: {prediction.error}", file=sys.stderr)
        else:
            print(f"{prediction.path}: {', '.join(f'{name} {prob:.1%}' for name, prob in prediction.classes)}")
    return 1 if failed else 0
