"""`mixonomy study compare`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import StudyOptions, show

if TYPE_CHECKING:
    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.rows import Row


@dataclass(frozen=True)
class StudyCompare(StudyOptions):
    """Says which architecture is worth its cost on given data: accuracy at equal seconds and at equal epochs.

    Every model gets the same recipe and the same small sweep of the learning rate on validation images. The page shows
    accuracy with its spread, seconds, core-hours, FLOPs, throughput, memory, parameters, the Pareto front and what to
    take.
    """

    data: str | None = None
    """SOURCE; digits if not given."""
    models: tuple[str, ...] = ()
    """Names from `mixonomy list models`, timm:NAME, weights to start from, and mixer-small, vit-small, convmixer-small,
    resnet-small, botnet-small, nfnet-small, of sizes for a CPU; these six if none are given."""
    budget: str | None = None
    """Of each training: a time such as 90s, 10min or 2h, or a number of epochs; 5min if not given, with --quick 7s."""
    init: Literal["fresh", "pretrained"] = "fresh"
    """pretrained: names of models stand for their published weights, which are downloaded."""
    lr: tuple[float, ...] = ()
    """Learning rates to try, a tenth for weights; if not given 0.0003 0.001 0.003 0.01, and two beyond at most."""
    image_size: int | None = None
    """Pixels a side; that of the recipe for the data if not given."""
    batch_size: int | None = None
    """Images per step; that of the recipe for the data if not given."""


QUICK_MODELS = ("mixer-small", "vit-small", "convmixer-small", "resnet-small")


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyCompare, argv, name="study compare")

    from mixonomy.studies.compare import NAME, STUDY

    return show(NAME, options, argv, partial(_trained, options), STUDY.read)


def _trained(options: StudyCompare, out: Path, runtime: "Runtime", console: "Console", command: str) -> "list[Row]":
    from mixonomy.studies import compare as comparing
    from mixonomy.studies.contenders import contender, default_models

    budget = comparing.Budget.of(options.budget or ("7s" if options.quick else "5min"))
    base = comparing.base_recipe(
        options.data or "digits", options.data_root, image_size=options.image_size, batch_size=options.batch_size
    )
    names = options.models or (QUICK_MODELS if options.quick else tuple(default_models()))
    if len(set(names)) < len(names):
        raise ValueError("a model is named twice; give each once.")
    side, is_pretrained = max(base.height_width), options.init == "pretrained"
    contenders = tuple(contender(name, side, is_pretrained=is_pretrained) for name in names)
    lrs, is_fixed = options.lr or comparing.LRS, bool(options.lr)
    asked = comparing.Comparison(base, contenders, budget, options.chosen_seeds, lrs, is_fixed)
    return comparing.compare(asked, out, runtime=runtime, console=console, command=command)
