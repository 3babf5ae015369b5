"""`mixonomy study compare`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import StudyOptions, command_of


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
    """Of each training: a time such as 90s, 10min or 2h, or a number of epochs; 5min if not given, with --quick 10s."""
    init: Literal["fresh", "pretrained"] = "fresh"
    """pretrained: names of models stand for their published weights, which are downloaded."""
    lr: tuple[float, ...] = ()
    """Learning rates that every model tries; 0.0003 0.001 0.003 0.01 if not given. A tenth of them for weights."""
    image_size: int | None = None
    """Pixels a side; that of the recipe for the data if not given."""
    batch_size: int | None = None
    """Images per step; that of the recipe for the data if not given."""


QUICK_MODELS = ("mixer-small", "vit-small", "convmixer-small", "resnet-small")


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyCompare, argv, name="study compare")

    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.report.study_page import terminal_lines
    from mixonomy.rows import read as read_rows
    from mixonomy.stopping import Interrupted, stopped
    from mixonomy.studies import compare as comparing
    from mixonomy.studies.contenders import contender, default_models
    from mixonomy.studies.study import write_results

    out = options.out or Path("runs") / f"study-compare{'-quick' if options.quick else ''}"
    if options.rows is not None:
        rows = [row for row in read_rows(options.rows) if row["study"] == comparing.NAME]
        if not rows:
            raise ValueError(f"{options.rows} has no rows of the study compare; give a file of its rows.")
        write_results(comparing.STUDY, out, rows)
    else:
        source = options.data or "digits"
        budget = comparing.Budget.of(options.budget or ("10s" if options.quick else "5min"))
        base = comparing.base_recipe(
            source, options.data_root, image_size=options.image_size, batch_size=options.batch_size
        )
        names = options.models or (QUICK_MODELS if options.quick else tuple(default_models()))
        if len(set(names)) < len(names):
            raise ValueError("a model is named twice; give each once.")
        side = max(base.height_width)
        is_pretrained = options.init == "pretrained"
        asked = comparing.Comparison(
            base,
            tuple(contender(name, side, is_pretrained=is_pretrained) for name in names),
            budget,
            options.chosen_seeds,
            options.lr or comparing.LRS,
        )
        runtime = Runtime(device=options.device, workers=options.workers, data_root=options.data_root)
        try:
            rows = comparing.compare(
                asked, out, runtime=runtime, console=Console(), command=command_of(comparing.NAME, argv)
            )
        except Interrupted as stop:
            return stopped(stop)
    found, page = comparing.STUDY.read(rows), out / "compare.html"
    people = sys.stderr if options.json else sys.stdout
    print("\n".join([*terminal_lines(found), f"page: {page}, rows: {out / 'rows.jsonl'}"]), file=people)
    if options.json:
        about = {"study": comparing.NAME, "out": str(out), "page": str(page), "summary": list(found.summary)}
        print(json.dumps({**about, **found.facts, "rows": rows}))
    return 0 if any(row["metric"] == "top1" and row["value"] is not None for row in rows) else 1
