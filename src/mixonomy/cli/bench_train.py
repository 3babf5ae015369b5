"""`mixonomy bench train`."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff

from mixonomy.cli.arguments import parse
from mixonomy.cli.bench import chosen


@dataclass(frozen=True)
class BenchTrain:
    """Measures training steps, ours as `mixonomy train` runs them and others', on random images: the same weights,
    batch, loss and optimizer (fused AdamW), each compared with float64 before it is timed."""

    model: str | None = None
    """A name, as `mixonomy list models` shows it; mixer-s/16 if neither this nor a recipe is given."""
    recipe: str | None = None
    """Take model, image size, batch size and precision from this recipe, such as cifar10."""
    image_size: int | None = None
    """Pixels a side; the recipe's, else 224."""
    batch_size: int | None = None
    """Images of a step; the recipe's, else 32."""
    classes: int | None = None
    """Number of classes; 10 with a recipe, else 1000."""
    against: str = "timm,lucidrains"
    """Whom to measure beside, comma-separated: timm, lucidrains."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Of ours; the recipe's, else auto, as `mixonomy train` takes it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    rounds: int = 3
    """Turns of each setting."""
    quick: FlagCreatePairsOff[bool] = False
    """Two steps of each in one process, to see that it works; times mean little, and memory is not measured."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(BenchTrain, argv, name="bench train")
    if options.model is not None and options.recipe is not None:
        raise ValueError("both --model and --recipe are given; a recipe has its own model, so give one of them.")
    counts = {"batch-size": options.batch_size, "classes": options.classes, "rounds": options.rounds}
    for name, value in {**counts, "image-size": options.image_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; give at least 1.")

    from mixonomy import devices
    from mixonomy.bench import show, train, turns

    settings = chosen(options.against, {name: setting.library for name, setting in train.SETTINGS.items()})
    people = sys.stderr if options.json else sys.stdout
    device = str(devices.resolve_device(options.device))

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    side, precision = options.image_size, options.precision
    if options.recipe is not None:
        from mixonomy.recipes import load_recipe

        recipe = load_recipe(options.recipe)
        case = train.case_of_recipe(recipe, num_classes=options.classes or 10)
        precision = precision or recipe.precision
        if side is not None:
            case = replace(case, image_size=(side, side))
    else:
        case = train.case_of_model(options.model or "mixer-s/16", side or 224, num_classes=options.classes or 1000)
    if options.batch_size is not None:
        case = replace(case, batch_size=options.batch_size)
    case = replace(case, turn_s=0.0, gemm_size=256) if options.quick else case
    found = train.compare(
        case,
        settings,
        device=device,
        rounds=1 if options.quick else options.rounds,
        precision=precision or "auto",
        in_process=options.quick,
        say=say,
    )
    numbers = {name: found.numbers(name) for name in settings}
    size = " x ".join(map(str, case.image_size))
    title = f"training {options.recipe or case.model['name']}, {size} pixels, batch {case.batch_size}"
    print("\n".join([*found.limits.lines(), "", f"{title}, {device}"]), file=people)
    leave_out = ("top1_agreement", *(("peak_memory_bytes",) if options.quick else ()))
    print("\n".join(show.table(numbers, default=train.DEFAULT, leave_out=leave_out)), file=people)
    if options.json:
        about: dict[str, Any] = {
            "model": options.recipe or case.model["name"],
            "image_size": list(case.image_size),
            "batch_size": case.batch_size,
            "classes": case.num_classes,
            "device": device,
            "params": found.params,
            "flops": found.flops,
        }
        peers = {name: each for name, each in numbers.items() if name != turns.OURS}
        print(json.dumps(about | numbers[turns.OURS] | {"limits": asdict(found.limits), "peers": peers}))
    return 0
