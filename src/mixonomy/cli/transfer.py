"""`mixonomy transfer`."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.choices import BadImagePolicy
from mixonomy.cli.arguments import parse


@dataclass(frozen=True)
class Transfer:
    """Fine-tunes a model to every task of a suite by its protocol; the same command goes on with an unfinished suite.

    A task whose data is not there is listed as absent, one whose training diverges as failed, and the mean then says of
    how many tasks it is. vtab-like is the protocol of 1,000 images on cifar100, flowers102 and eurosat. A FILE.py sets
    `suite`.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Weights: a run folder, a file, timm:NAME or hf:OWNER/NAME."""
    suite: str
    """avg5, vtab1k, vtab-like or a Python file."""
    out: Path | None = None
    """Folder of the results; runs/transfer-SUITE-NAME if not given."""
    image_size: tuple[int, ...] = ()
    """Pixels; several give a row each. The size of the weights if not given."""
    steps: int | None = None
    """Of each fine-tuning; the suite's own if not given."""
    batch_size: int | None = None
    """Images per step; 512 if not given."""
    lr: tuple[float, ...] | None = None
    """Rates to choose from on held-out images; the suite's own if not given."""
    seeds: int = 1
    """Fine-tunings of each task."""
    few_shot: bool = True
    """Score the frozen features from few images of each class too, at each size."""
    on_bad_image: BadImagePolicy = "error"
    """What to do about images that cannot be read: stop, or leave them out, counted and named."""
    max_bad_share: float | None = None
    """For --on-bad-image skip: largest share of a task's images that may be left out; 0.01 if not given."""
    data_root: str | None = None
    """Folder of the data sets; $MIXONOMY_DATA if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: FlagCreatePairsOff[bool] = False
    """Print the result as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Transfer, argv, name="transfer")

    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.report.transfer_page import write_transfer_page
    from mixonomy.stopping import Interrupted, stopped
    from mixonomy.transferring import Protocol, load_suite, transfer

    suite = load_suite(options.suite)
    name = Path(options.run.rpartition(":")[2]).resolve().name
    out = options.out or Path("runs") / f"transfer-{suite.name}-{name}"
    protocol = Protocol(
        steps=options.steps,
        batch_size=options.batch_size,
        lrs=options.lr,
        image_sizes=options.image_size,
        seeds=options.seeds,
        few_shot=options.few_shot,
        on_bad_image=options.on_bad_image,
        max_bad_share=options.max_bad_share,
    )
    runtime = Runtime(device=options.device, data_root=options.data_root)
    command = shlex.join(["mixonomy", "transfer", *argv])
    try:
        result = transfer(
            options.run, suite, out, protocol=protocol, runtime=runtime, console=Console(), command=command
        )
    except Interrupted as stop:
        return stopped(stop)
    write_transfer_page(out / "transfer.html", result)
    people = sys.stderr if options.json else sys.stdout
    print("\n".join([*_lines(result), f"report: {out / 'transfer.html'}"]), file=people)
    if options.json:
        print(json.dumps(result))
    return 0 if result["rows"] else 1


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for row in result["rows"]:
        spread = "" if row["std"] is None else f" ± {row['std']:.4f} (n = {len(row['top1'])})"
        shots = ", ".join(f"{shots}-shot {few['mean']:.4f}" for shots, few in row["few_shot"].items())
        name = row["task"] + _at(row["image_size"])
        left_out = f"; {row['bad_images']} unreadable images left out" if row["bad_images"] else ""
        yield f"{name:<28}{row['mean']:.4f}{spread}  lr {row['lr']:g}{'; ' + shots if shots else ''}{left_out}"
    for each in result["absent"]:
        yield f"{each['task']:<28}absent: {each['reason']}"
    for each in result["failed"]:
        yield f"{each['task'] + _at(each['image_size']):<28}failed: {each['reason']}"
    for mean in (*result["group_means"], *result["means"]):
        spread = "" if mean["std"] is None else f" ± {mean['std']:.4f}"
        yield f"mean of {mean['name']}{_at(mean['image_size'])}: {mean['mean']:.4f}{spread}"
    if not result["rows"]:
        yield f"every task of {result['suite']['name']} that has its data failed, so there is no mean."


def _at(image_size: int | None) -> str:
    return "" if image_size is None else f" at {image_size} pixels"
