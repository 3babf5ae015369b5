"""Transfer of a Mixer pre-trained on CIFAR-100, beside the same Mixer from scratch, under a protocol for a CPU.

    python benchmarks/transfer.py --data-root ../shared/data --runs runs/transfer
    python benchmarks/transfer.py --parts probe resolution --seeds 0

Pre-training is the recipe cifar100 with half its blocks and for 15 epochs, that all of this fits a CPU. Then, for each data set: few-shot, linear probe and nearest neighbours on frozen
features (`probe`); fine-tuning of at most 500 steps of 128 images, the rate chosen on held-out images (`tune`); the
same at twice the side (`resolution`); and ways to fine-tune little data of one's own, compared on validation images
(`small`). From scratch, SGD and AdamW may choose from rates of their own. Test images are scored once for each run.
Every training is a run folder; the same command goes on where it was stopped, and adds only rows that are not there.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mixonomy import api
from mixonomy.experiment import Runtime
from mixonomy.models import create_from, save_model
from mixonomy.progress import Console
from mixonomy.recipe import Model, Recipe, changed
from mixonomy.recipes import load_recipe
from mixonomy.recipes.finetune import recipe as finetune
from mixonomy.recipes.folder_finetune import recipe as own_data
from mixonomy.runs import RunFolder
from rows import RESULTS, Row, append, make_row, origin, read

BLOCKS, EPOCHS, STEPS, BATCH = 4, 15, 500, 128
# Name of the data in rows -> (SOURCE, training images, share of them to choose by).
DATA: dict[str, tuple[str, int | None, float]] = {
    "cifar10": ("cifar10", None, 0.02),
    "cifar10, 1,000 images": ("cifar10", 1000, 0.2),
    "eurosat": ("eurosat", None, 0.2),
    "flowers102": ("flowers102", None, 0.1),
}
RESOLUTION = {name: (name, None, 0.1) for name in ("eurosat", "flowers102", "imagenette")}
PIXELS, LARGE_PIXELS = 32, 64
LRS = {"sgd": (0.003, 0.01, 0.03, 0.06), "adamw": (3e-4, 1e-3, 3e-3)}
# What `folder_finetune` is held against, one thing at a time, see `small`.
SMALL: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no frozen start": {"freeze": None},
    "frozen start 30 %": {"freeze": "30 %"},
    "SGD 0.03": {"optim": {"name": "sgd", "lr": 0.03, "weight_decay": 0.0}},
    "learning rate 3e-4": {"optim": {"lr": 3e-4}},
    "learning rate 3e-3": {"optim": {"lr": 3e-3}},
    "layer decay 0.75": {"optim": {"layer_decay": 0.75}},
    "no crop": {"augment": {"crop": "none", "min_area": None}},
    "crop of 5 % or more": {"augment": {"min_area": 0.05}},
    "head alone": {"tune": "head", "freeze": None},
    "biases and norms": {"tune": "bias-norm"},
}


def pretraining(epochs: int) -> Recipe:
    """CIFAR-100 by its recipe, but for the depth and the length."""
    return changed(load_recipe("cifar100"), model={"num_blocks": BLOCKS}, duration=f"{epochs} epochs")


def protocol(about: tuple[str, int | None, float], seed: int, steps: int) -> Recipe:
    """Fine-tuning by the paper's recipe, but for its length and batch."""
    source, train_images, val_share = about
    return changed(
        finetune,
        data={"source": source, "train_images": train_images, "val_share": val_share},
        optim={"warmup": "10 %"},
        duration=f"{steps} steps",
        eval_every=f"{max(steps // 5, 1)} steps",
        batch_size=BATCH,
        seed=seed,
    )


def from_scratch(recipe: Recipe, model: Model, pixels: int, optimizer: str) -> Recipe:
    """The same training of a fresh model; values that only SGD reads go."""
    values = recipe.model_dump()
    values |= {"init": None, "model": model.model_dump(), "image_size": pixels}
    scratch = Recipe.model_validate(values)
    return (
        scratch
        if optimizer == "sgd"
        else changed(scratch, optim={"name": "adamw", "momentum": None, "weight_decay": 0.05})
    )


def swept(recipe: Recipe, seeds: list[int], folder: Path, runtime: Runtime) -> tuple[list[float], float]:
    """Test top-1 of each seed and the rate, which the first seed chose on held-out images."""
    first = changed(recipe, seed=seeds[0])
    grid = {"optim.lr": LRS[recipe.optim.name]}
    scores = [
        api.train(first, folder / f"seed{seeds[0]}", sweep=grid, runtime=runtime, console=Console()).result["top1"]
    ]
    chosen = RunFolder(folder / f"seed{seeds[0]}").recipe()
    for seed in seeds[1:]:
        run = api.train(changed(chosen, seed=seed), folder / f"seed{seed}", runtime=runtime, console=Console())
        scores.append(run.result["top1"])
    assert chosen.optim.lr is not None, "the sweep chose it"
    return scores, chosen.optim.lr


def tune(init: str, model: Model, options: argparse.Namespace, runtime: Runtime) -> Iterator[Row]:
    """Pre-trained against fresh weights on every data set."""
    for name, about in DATA.items():
        base = protocol(about, options.seeds[0], options.steps)
        arms = {
            "pre-trained, SGD": changed(base, init=init),
            "from scratch, SGD": from_scratch(base, model, PIXELS, "sgd"),
            "from scratch, AdamW": from_scratch(base, model, PIXELS, "adamw"),
        }
        for arm, recipe in arms.items():
            folder = options.runs / _slug(f"tune {name} {arm}")
            yield _summary(arm, name, "top1", *swept(recipe, options.seeds, folder, runtime))


def resolution(init: str, _: Model, options: argparse.Namespace, runtime: Runtime) -> Iterator[Row]:
    """The pre-trained weights as they are and resized to twice the side."""
    for name, about in RESOLUTION.items():
        for pixels in (PIXELS, LARGE_PIXELS):
            recipe = changed(protocol(about, options.seeds[0], options.steps), init=init, image_size=pixels)
            folder = options.runs / _slug(f"resolution {name} {pixels}")
            scores, lr = swept(recipe, options.seeds, folder, runtime)
            yield _summary(f"pre-trained, {pixels} pixels", name, "top1", scores, lr)


def probe(init: str, model: Model, options: argparse.Namespace, runtime: Runtime) -> Iterator[Row]:
    """Frozen features, pre-trained and fresh."""
    fresh = options.runs / "fresh.safetensors"
    torch.manual_seed(0)
    save_model(create_from(model, num_classes=10, image_size=(PIXELS, PIXELS), in_channels=3), fresh)
    for name in ("cifar10", "eurosat", "flowers102"):
        for arm, weights in (("pre-trained", init), ("from scratch", str(fresh))):
            found = api.probe(weights, name, probes=("ridge", "linear", "knn"), num_seeds=3, runtime=runtime)
            for few in found.few_shot:
                yield make_row(
                    origin(),
                    study="transfer",
                    model=f"{arm}, frozen",
                    data=name,
                    metric=f"ridge_{few.shots}shot",
                    value=few.mean,
                    unit="share",
                    spread=few.std,
                    n=len(few.top1),
                )
            assert found.linear is not None and found.knn is not None, "both were asked for"
            for metric, value in (("linear_top1", found.linear.top1), ("knn_top1", found.knn)):
                yield _single(f"{arm}, frozen", name, metric, value)


def small(init: str, _: Model, options: argparse.Namespace, runtime: Runtime) -> Iterator[Row]:
    """Changes of `folder_finetune`, one at a time; validation images judge, a third of train."""
    for name, source, images in (
        ("eurosat, 300 images", "eurosat", 300),
        ("flowers102, 600 images", "flowers102", 600),
    ):
        for variant, change in SMALL.items():
            base = changed(
                own_data,
                init=init,
                data={"source": source, "train_images": images, "val_share": 1 / 3},
                duration=f"{options.steps} steps",
                eval_every=f"{max(options.steps // 5, 1)} steps",
                keep="last",
            )
            recipe, scores = changed(base, **change), []
            for seed in options.seeds:
                folder = options.runs / _slug(f"small {name} {variant} {seed}")
                scores.append(api.train(changed(recipe, seed=seed), folder, runtime=runtime).result["val_top1"])
            yield _summary(f"folder_finetune, {variant}", name, "val_top1", scores, None)


PARTS = {"probe": probe, "tune": tune, "resolution": resolution, "small": small}


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def _single(model: str, data: str, metric: str, value: float) -> Row:
    return make_row(origin(), study="transfer", model=model, data=data, metric=metric, value=value, unit="share")


def _summary(model: str, data: str, metric: str, scores: list[float], lr: float | None) -> Row:
    """Mean and sample standard deviation over seeds."""
    return make_row(
        origin(),
        study="transfer",
        model=model,
        data=data,
        metric=metric,
        value=statistics.fmean(scores),
        unit="share",
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        n=len(scores),
        note=None if lr is None else f"learning rate {lr:g}, chosen on held-out images",
    )


def _is_same(a: Row, b: Row) -> bool:
    return all(a[key] == b[key] for key in ("study", "model", "data", "metric", "value", "n"))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each fine-tuning")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of pre-training")
    parser.add_argument("--init", help="weights in place of pre-training")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--results", type=Path, default=RESULTS / "transfer.jsonl")
    options = parser.parse_args()
    runtime = Runtime(data_root=options.data_root)
    options.runs.mkdir(parents=True, exist_ok=True)
    recipe = pretraining(options.epochs)
    if options.init is None:
        folder = options.runs / f"pretrained-{recipe.duration.replace(' ', '-')}"
        options.init = str(api.train(recipe, folder, runtime=runtime, console=Console()).path)
    for part in options.parts:
        for row in PARTS[part](options.init, recipe.model, options, runtime):
            print(f"{row['model']} on {row['data']}: {row['metric']} {row['value']} ± {row['spread']}", file=sys.stderr)
            if not any(_is_same(row, old) for old in read(options.results)):
                append(options.results, [row])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
