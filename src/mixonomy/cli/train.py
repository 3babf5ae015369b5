"""`mixonomy train`."""

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import ValidationError
from tyro.conf import FlagCreatePairsOff, arg

from mixonomy.cli.arguments import parse
from mixonomy.cli.predictions import write_line
from mixonomy.preprocessing import EvalCrop
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import choose_recipe

if TYPE_CHECKING:
    from mixonomy.experiment import Runtime

# Short forms of the fields that people set most.
SHORT = {
    "--model": "--model.name",
    "--data": "--data.source",
    "--lr": "--optim.lr",
    "--eval-probe": "--probe.source",
    "--crop": "--data.eval-crop",
    "--on-bad-image": "--data.on-bad-image",
    "--max-bad-share": "--data.max-bad-share",
}
# Fields that decide what others mean: they are set before the others.
CHOICES = (
    ("model", "name"), ("data", "eval_crop"), ("augment", "crop"), ("optim", "name"), ("data", "on_bad_image"),
    ("augment", "randaugment_layers"), ("augment", "mixup"), ("augment", "cutmix_prob"), ("optim", "schedule"),
)  # fmt: skip
CROPS = {"center": "resmall"}  # what people say -> the paper's name


@dataclass(frozen=True)
class Train:
    """Trains by a recipe; the same command goes on with an unfinished run, and shows the result of a finished one.

    Short forms: --model NAME (--model.name), --data SOURCE (--data.source), --lr (--optim.lr), --epochs N
    (--duration "N epochs"), --crop center|squash|pad (--data.eval-crop; center is resmall), --on-bad-image and
    --max-bad-share (--data....), --eval-probe SOURCE (--probe.source). --image-size takes HEIGHTxWIDTH too.
    """

    fields: Annotated[Recipe, arg(name="")]
    recipe: str | None = None
    """A name from `mixonomy list recipes` or a Python file that sets `recipe`; by --data, else digits. With --init:
    finetune for known data, folder_finetune for others."""
    out: Path | None = None
    """Run folder; runs/NAME-HASH of the recipe if not given."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    workers: int | None = None
    """Processes that decode images that do not fit in memory; as many as cores if not given."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Extra trackers beside metrics.jsonl; wandb reads $WANDB_MODE, $WANDB_PROJECT and so on."""
    sweep: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE,... such as optim.lr=0.003,0.01,0.03: each is trained in OUT/sweep and scored on held-out
    images, then the best is trained on those too; several fields make all their combinations."""
    find_lr: FlagCreatePairsOff[bool] = False
    """Instead of training, suggest a learning rate after about 100 steps; the plot goes to OUT.find-lr.html."""
    json: FlagCreatePairsOff[bool] = False
    """Print the result as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    long = expand(argv)
    asked = (value_of(long, flag) for flag in ("--recipe", "--data.source", "--data-root", "--init", "--model.name"))
    base = choose_recipe(*asked)
    for section, choice in CHOICES:
        value = value_of(long, f"--{section}.{choice.replace('_', '-')}")
        with contextlib.suppress(ValidationError):  # which the parser will explain
            base = base if value is None else changed(base, **{section: {choice: value}})
    options = parse(Train, long, name="train", default=Train(base))

    from mixonomy import api, parallel
    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.report import advise, read_finished
    from mixonomy.runs import RunFolder
    from mixonomy.stopping import Interrupted, leaving_when_preempted, stopped

    grid = parse_sweep(options.sweep) if options.sweep else None
    out = options.out or api.default_out(options.fields, grid)
    runtime = Runtime(options.device, options.workers, options.data_root, options.checkpoint_minutes, options.track)
    if options.find_lr:
        return _find_lr(options, out, runtime)
    command = shlex.join(["mixonomy", "train", *argv])
    try:
        with leaving_when_preempted():
            run = api.train(options.fields, out, sweep=grid, runtime=runtime, console=Console(), command=command)
    except Interrupted as stop:
        return stopped(stop)
    if parallel.launched_rank():  # the first of several processes speaks
        return 0
    result = run.result
    people = sys.stderr if options.json else sys.stdout
    finished = read_finished(RunFolder(run.path))
    headline = "top-1" if finished.headline == "top1" else "mean average precision"
    lines = [
        *_sweep_lines(result.get("sweep")),
        f"{headline} {finished.score:.2%} on {result['n']:,} images ({result['split']}) after "
        f"{result['seconds']:.0f} s of training ({result['images_per_s']:,.0f} images/s)",
        f"report: {run.path / 'report.html'}",
    ]
    found = advise(finished)
    lines += ["what to do next:"] if found else []
    lines += [f"{number}. {advice.text}" for number, advice in enumerate(found, start=1)]
    for line in lines:
        write_line(line, people)
    if options.json:
        print(json.dumps(result))
    return 0


def _find_lr(options: Train, out: Path, runtime: "Runtime") -> int:
    from mixonomy import api
    from mixonomy.progress import Console

    for option in ("track", "checkpoint_minutes", "sweep"):
        if getattr(options, option) != getattr(Train, option):
            raise ValueError(f"--{option.replace('_', '-')} has no effect with --find-lr; leave it out.")
    test, page = api.find_lr(options.fields, out, runtime=runtime, console=Console()), api.lr_page(out)
    rest = "" if test.rest_lr is None else f" --optim.rest-lr {test.rest_lr:g}"
    print(
        f"suggested learning rate {test.lr:g}: --lr {test.lr:g}{rest}\nplot: {page}",
        file=sys.stderr if options.json else sys.stdout,
    )
    if options.json:
        points = zip(test.rates, test.losses, test.smoothed, strict=True)
        curve = [{"lr": lr, "loss": loss, "smoothed": smoothed} for lr, loss, smoothed in points]
        print(json.dumps({"lr": test.lr, "rest_lr": test.rest_lr, "curve": curve, "page": str(page)}))
    return 0


def parse_sweep(texts: Sequence[str]) -> dict[str, list[str]]:
    """["lr=0.01,0.03"] -> {"optim.lr": ["0.01", "0.03"]}: short forms of fields are known here too.

    Raises:
      ValueError: for a text of another form, or a field that comes twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        flag = f"--{name.strip().replace('_', '-')}"
        field = SHORT.get(flag, flag).removeprefix("--").replace("-", "_")
        parts = [value.strip() for value in values.split(",")]
        if not name or not all(parts):
            raise ValueError(f"--sweep {text} is not FIELD=VALUE,VALUE,...; give it like optim.lr=0.003,0.01,0.03.")
        if field in grid:
            raise ValueError(f"--sweep names {field} twice; give all its values in one place.")
        grid[field] = parts
    return grid


def _sweep_lines(sweep: dict[str, Any] | None) -> list[str]:
    """What a sweep tried, the score of each, and what it cost."""
    if sweep is None:
        return []
    from mixonomy.sweeping import Trial, describe_trial

    trials = [Trial(**trial) for trial in sweep["trials"]]
    rows = [f"  {describe_trial(t)}{' (chosen)' if t.values == sweep['chosen'] else ''}" for t in trials]
    return [f"tried on held-out images, {sweep['seconds']:,.0f} s in all:", *rows, "then trained on those images too:"]


def expand(argv: list[str]) -> list[str]:
    """Writes short forms in full, and --option=value as two words.

    Raises:
      ValueError: for a crop that there is not, and for a length that is given twice.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--epochs" in words and "--duration" in words:
        raise ValueError("--epochs and --duration both say how long to train; give one of them.")
    out: list[str] = []
    for i, word in enumerate(words):
        if i and words[i - 1] == "--epochs":
            out.append(f"{word} epochs")
        elif i and words[i - 1] == "--image-size" and re.fullmatch(r"\d+x\d+", word):
            out += word.split("x")
        elif i and words[i - 1] == "--crop":
            crop = CROPS.get(word, word)
            if crop not in get_args(EvalCrop):
                raise ValueError(f"--crop is {word!r}; use center, resize, squash or pad.")
            out.append(crop)
        else:
            out.append("--duration" if word == "--epochs" else SHORT.get(word, word))
    return out


def value_of(argv: list[str], flag: str) -> str | None:
    """The word after the last occurrence of a flag."""
    at = [i for i, word in enumerate(argv[:-1]) if word == flag]
    return argv[at[-1] + 1] if at else None
