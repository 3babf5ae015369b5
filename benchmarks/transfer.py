"""Transfer of a Mixer pre-trained on CIFAR-100, beside the same Mixer from scratch, under a protocol for a CPU.

    python benchmarks/transfer.py --data-root ../shared/data --runs runs/transfer
    python benchmarks/transfer.py --parts tune & python benchmarks/transfer.py --parts probe resolution small

Pre-training is the recipe cifar100 with half its blocks and for 15 epochs, that all of this fits a CPU. Then:

- `probe`: few-shot, linear probe and nearest neighbours on frozen features, pre-trained and fresh;
- `tune`: the recipe `finetune` for 200 steps of 128 images, the rate chosen on held-out images by the first seed;
  fresh weights are trained as long, by SGD and by AdamW, each with rates of its own;
- `resolution`: 500 steps of the same, the pre-trained weights as they are and at twice the side, by one rate;
- `small`: ways to fine-tune little data of one's own, compared on validation images.

Test images are scored once for each run, in `small` never. Every training is a run folder; the same command goes on
where it was stopped, and adds only rows that are not there. Parts may run at the same time once pre-training is over:
they have folders of their own, and a row is added by one write.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixonomy import api
from mixonomy.data import open_source
from mixonomy.durations import num_steps
from mixonomy.evals.suites import Task
from mixonomy.experiment import Runtime
from mixonomy.loading import load
from mixonomy.models import create, info_of
from mixonomy.probing import probe
from mixonomy.progress import Console
from mixonomy.recipe import Model, Recipe, changed
from mixonomy.recipes import load_recipe
from mixonomy.recipes.folder_finetune import recipe as own_data
from mixonomy.training import train
from mixonomy.transferring import Protocol, fine_tuned, task_recipe
from rows import RESULTS, Row, append, command_line, make_row, origin, read

BLOCKS, EPOCHS = 4, 15
LRS = (0.01, 0.03, 0.06)  # the paper's but for the lowest, which is for longer trainings
# At 200 steps and 0.03 neither size had learned enough to differ; at 500 steps 0.06 was the better of 0.06 and 0.2 on
# EuroSAT's held-out images at 32 pixels.
RESOLUTION_LRS = (0.06,)
SCRATCH_LRS = {"sgd": (0.03, 0.1, 0.3), "adamw": (5e-4, 1e-3, 3e-3)}
# What `folder_finetune` is held against, one thing at a time, see `small`.
SMALL: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no frozen start": {"freeze": None},
    "frozen start 30 %": {"freeze": "30 %"},
    "SGD 0.03": {"optim": {"name": "sgd", "lr": 0.03, "weight_decay": 0.0}},
    "learning rate 3e-4": {"optim": {"lr": 3e-4}},
    "learning rate 3e-3": {"optim": {"lr": 3e-3}},
    "layer decay 0.75": {"optim": {"layer_decay": 0.75}},
    "no crop": {"augment": {"crop": "none"}},
    "resmall crop": {"augment": {"crop": "resmall"}},
    "head alone": {"tune": "head", "freeze": None},
    "biases and norms": {"tune": "bias-norm"},
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
      protocol: steps and batch of `tune`.
      probed: data for frozen features.
      tuned: (task, seeds).
      resized, resized_protocol, pixels: tasks of `resolution`, its steps and batch, and the sides that images get; the
        first is the model's.
      small: name in rows -> the recipe's data, whose held-out part judges; with the seeds and steps of each.
    """

    protocol: Protocol
    probed: tuple[Task, ...]
    tuned: tuple[tuple[Task, int], ...]
    resized: tuple[Task, ...]
    resized_protocol: Protocol
    pixels: tuple[int, int]
    small: dict[str, dict[str, Any]]
    small_seeds: int
    small_steps: int


CIFAR10 = Task("cifar10", "cifar10", 10, val_share=0.02, lrs=LRS)
FEW_CIFAR10 = Task("cifar10, 1,000 images", "cifar10", 10, train_images=1000, val_share=0.2, lrs=LRS)
EUROSAT = Task("eurosat", "eurosat", 10, val_share=0.2, lrs=LRS)
FLOWERS = Task("flowers102", "flowers102", 102, lrs=LRS)  # has a validation split
IMAGENETTE = Task("imagenette", "imagenette", 10, val_share=0.1, lrs=LRS)
DIGITS = Task("digits", "digits", 10, train_images=100, val_share=0.2, lrs=(0.01, 0.03))

FULL = Size(
    Protocol(steps=200, batch_size=128),
    # Train and val of flowers102 together have 20 images of a class.
    probed=(CIFAR10, EUROSAT, replace(FLOWERS, train_images=2040)),
    tuned=((FEW_CIFAR10, 3), (EUROSAT, 3), (FLOWERS, 3), (CIFAR10, 1)),
    resized=(EUROSAT, FLOWERS, IMAGENETTE),
    resized_protocol=Protocol(steps=500, batch_size=128),
    pixels=(32, 64),
    small={
        "eurosat, 300 images": {"source": "eurosat", "val_share": 0.7},
        "flowers102, 612 images": {"source": "flowers102", "train_images": 2040, "val_share": 0.7},
    },
    small_seeds=2,
    small_steps=150,
)
QUICK = Size(
    Protocol(steps=3, batch_size=16),
    probed=(DIGITS,),
    tuned=((DIGITS, 2),),
    resized=(DIGITS,),
    resized_protocol=Protocol(steps=3, batch_size=16),
    pixels=(8, 16),
    small={"digits, 30 images": {"source": "digits", "train_images": 100, "val_share": 0.7}},
    small_seeds=1,
    small_steps=10,
)


@dataclass(frozen=True)
class Job:
    """A fine-tuning to measure.

    Args:
      model, data: as they stand in rows.
      lrs: rates to choose from on held-out images; where there are none, held-out images judge in place of test images.
    """

    model: str
    data: str
    recipe: Recipe
    lrs: tuple[float, ...]
    seeds: int

    @property
    def num_images(self) -> int:
        """Training images that all its runs pass."""
        recipe = self.recipe
        steps = num_steps(recipe.duration, batch_size=recipe.batch_size, num_examples=1)
        return (len(self.lrs) + self.seeds) * steps * recipe.batch_size


@dataclass(frozen=True)
class Start:
    """What all parts begin with: the pre-trained weights, the same model fresh, and what to run on."""

    init: str
    model: Model
    runtime: Runtime
    runs: Path


def pretraining(epochs: int) -> Recipe:
    """CIFAR-100 by its recipe, but for the depth and the length."""
    return changed(load_recipe("cifar100"), model={"num_blocks": BLOCKS}, duration=f"{epochs} epochs")


def fine_tuning(task: Task, start: Start, protocol: Protocol, pixels: int | None = None) -> Recipe:
    """The recipe for the task, as `mixonomy transfer` has it."""
    num_images = len(open_source(task.source, start.runtime.data_root).splits["train"])
    return task_recipe(task, task.source, num_images, start.init, protocol, pixels)


def from_scratch(recipe: Recipe, model: Model, pixels: int, optimizer: str) -> Recipe:
    """The same training of a fresh model; values that only SGD reads go."""
    values = recipe.model_dump()
    values |= {"init": None, "model": model.model_dump(), "image_size": pixels}
    scratch = Recipe.model_validate(values)
    return scratch if optimizer == "sgd" else changed(scratch, optim={"name": optimizer, "weight_decay": 0.05})


def tune(start: Start, size: Size) -> Iterator[Job]:
    """Pre-trained against fresh weights on every data set."""
    for task, seeds in size.tuned:
        recipe = fine_tuning(task, start, size.protocol)
        yield Job("pre-trained, SGD", task.name, recipe, task.lrs, seeds)
        for name, optimizer in (("SGD", "sgd"), ("AdamW", "adamw")):
            scratch = from_scratch(recipe, start.model, size.pixels[0], optimizer)
            yield Job(f"from scratch, {name}", task.name, scratch, SCRATCH_LRS[optimizer], seeds)


def resolution(start: Start, size: Size) -> Iterator[Job]:
    """The pre-trained weights as they are and resized to twice the side."""
    for task in size.resized:
        for pixels in size.pixels:
            recipe = fine_tuning(task, start, size.resized_protocol, pixels)
            yield Job(f"pre-trained, {pixels} pixels", task.name, recipe, RESOLUTION_LRS, 1)


def small(start: Start, size: Size) -> Iterator[Job]:
    """Changes of `folder_finetune`, one at a time."""
    steps = f"{size.small_steps} steps"
    for name, about in size.small.items():
        base = changed(own_data, init=start.init, data=about, duration=steps, eval_every=steps, keep="last")
        for variant, change in SMALL.items():
            yield Job(f"folder_finetune, {variant}", name, changed(base, **change), (), size.small_seeds)


def measured(part: str, jobs: list[Job], start: Start) -> Iterator[Row]:
    """Runs all, one row for each: mean and sample standard deviation over seeds."""
    options: dict[str, Any] = {"runtime": start.runtime, "console": Console(), "command": command_line()}
    for job in jobs:
        folder = start.runs / _slug(f"{part} {job.data} {job.model}")
        recipe, chosen = job.recipe, ""
        if job.lrs:
            scores, lr = fine_tuned(recipe, job.lrs, job.seeds, folder, **options)
            tried = ", ".join(f"{rate:g}" for rate in job.lrs)
            chosen = f", learning rate {lr:g}"
            chosen += f" of {tried}, chosen on held-out images" if len(job.lrs) > 1 else ""
        else:
            runs = ((changed(recipe, seed=seed), folder / f"seed{seed}") for seed in range(job.seeds))
            scores = [train(*run, **options, is_trial=True)["top1"] for run in runs]
        yield make_row(
            origin(),
            study="transfer",
            model=job.model,
            data=job.data,
            metric="top1" if job.lrs else "val_top1",
            value=statistics.fmean(scores),
            unit="share",
            spread=statistics.stdev(scores) if len(scores) > 1 else None,
            n=len(scores),
            note=f"{recipe.duration} of {recipe.batch_size}{chosen}",
        )


def frozen(start: Start, size: Size) -> Iterator[Row]:
    """Frozen features, pre-trained and fresh."""
    pretrained = load(start.init)
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {"pre-trained": pretrained, "from scratch": create(**info_of(pretrained).arguments)}
    for task in size.probed:
        source = open_source(task.source, start.runtime.data_root)
        for name, model in models.items():
            found = probe(
                model,
                source,
                probes=("ridge", "linear", "knn"),
                num_seeds=3,
                device=start.runtime.device,
                cache=start.runs / "features",
                train_images=task.train_images,
            )
            assert found.linear is not None and found.knn is not None, "both were asked for"
            about: dict[str, Any] = {
                "study": "transfer",
                "model": f"{name}, frozen",
                "data": task.name,
                "unit": "share",
            }
            for few in found.few_shot:
                short = f"{few.num_short} classes have fewer images" if few.num_short else None
                over = {"spread": few.std, "n": len(few.top1), "note": short}
                yield make_row(origin(), **{**about, **over}, metric=f"ridge_{few.shots}shot", value=few.mean)
            yield make_row(origin(), **about, metric="linear_top1", value=found.linear.top1)
            yield make_row(origin(), **about, metric="knn_top1", value=found.knn)


JOBS: dict[str, Callable[[Start, Size], Iterator[Job]]] = {"tune": tune, "resolution": resolution, "small": small}
PARTS = ("probe", *JOBS)


def rows_of(part: str, start: Start, size: Size) -> Iterator[Row]:
    """The rows of one part; says first how much there is to do."""
    if part == "probe":
        return frozen(start, size)
    jobs = list(JOBS[part](start, size))
    images: dict[Any, int] = {}
    for job in jobs:
        pixels = job.recipe.image_size or size.pixels[0]
        images[pixels] = images.get(pixels, 0) + job.num_images
    words = " and ".join(f"{number:,} of {pixels} pixels" for pixels, number in images.items())
    print(f"{part}: {sum(len(job.lrs) + job.seeds for job in jobs)} trainings on {words}", file=sys.stderr)
    return measured(part, jobs, start)


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def _is_same(a: Row, b: Row) -> bool:
    return all(a.get(key) == b.get(key) for key in ("study", "model", "data", "metric", "value", "n", "note"))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of pre-training")
    parser.add_argument("--init", help="weights in place of pre-training")
    parser.add_argument("--quick", action="store_true", help="a try of all parts on the digits, in seconds")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--results", type=Path, default=RESULTS / "transfer.jsonl")
    options = parser.parse_args()
    runtime, size = Runtime(data_root=options.data_root), QUICK if options.quick else FULL
    recipe = changed(load_recipe("digits"), duration="9 steps") if options.quick else pretraining(options.epochs)
    if options.init is None:
        folder = options.runs / f"pretrained-{recipe.duration.replace(' ', '-')}"
        options.init = str(api.train(recipe, folder, runtime=runtime, console=Console()).path)
    start = Start(options.init, recipe.model, runtime, options.runs)
    for part in options.parts:
        for row in rows_of(part, start, size):
            print(f"{row['model']} on {row['data']}: {row['metric']} {row['value']} ± {row['spread']}", file=sys.stderr)
            if not any(_is_same(row, old) for old in read(options.results)):
                append(options.results, [row])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
