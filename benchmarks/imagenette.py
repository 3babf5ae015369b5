"""Trains a Mixer and a ResNet-18 on Imagenette at 128 pixels, from scratch, with the same budget of CPU time.

    python benchmarks/imagenette.py mixer --data-root ../shared/data
    python benchmarks/imagenette.py resnet18 --data-root ../shared/data

Data, crops and label smoothing are the same. Optimizer and rate are each model's own: the Mixer's are those of the
CIFAR-10 recipe; with the ResNet's AdamW validation data were far better off than with SGD (0.01 and 0.05) in runs of a
few epochs. The lengths are to be set so that both take about as many CPU minutes. The same command goes on where it
was stopped; then the minutes are those of the last part only, and a note says so.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from mixonomy import api
from mixonomy.experiment import Runtime
from mixonomy.progress import Console
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from recipes import folder_of
from rows import RESULTS, append, command_line, make_row, origin

MIXER = load_recipe("imagenette")
RESNET = changed(
    MIXER,
    name="imagenette-resnet18",
    optim={"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine"},
    duration="57 epochs",
)


def main() -> int:
    """Runs the command."""
    import timm
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=["mixer", "resnet18"])
    parser.add_argument("--epochs", help="in place of the recipe's length")
    parser.add_argument("--lr", type=float, help="in place of the recipe's learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="parent of the run folders")
    parser.add_argument("--results", type=Path, default=RESULTS / "imagenette.jsonl")
    options = parser.parse_args()
    recipe: Recipe = changed(MIXER if options.model == "mixer" else RESNET, seed=options.seed)
    recipe = changed(recipe, duration=f"{options.epochs} epochs") if options.epochs else recipe
    recipe = changed(recipe, optim={"lr": options.lr}) if options.lr else recipe
    torch.manual_seed(options.seed)
    model = None if options.model == "mixer" else timm.create_model("resnet18", num_classes=10)
    folder = folder_of(recipe, options.runs)
    note = "minutes after the last restart only" if folder.exists() else None
    began = time.process_time()
    run = api.train(
        recipe,
        folder.path,
        model=model,
        runtime=Runtime(data_root=options.data_root),
        console=Console(),
        command=command_line(),
    )
    values = {
        "top1": (run.result["top1"], "share"),
        "val_top1": (run.result["val_top1"], "share"),
        "params": (run.result["params"], "parameters"),
        "cpu_minutes": ((time.process_time() - began) / 60, "min"),
    }
    about: dict[str, Any] = {
        "study": "imagenette",
        "model": f"{options.model}, {recipe.duration}",
        "data": "imagenette at 128 pixels",
    }
    rows = [
        make_row(origin(), metric=metric, value=value, unit=unit, seed=options.seed, note=note, **about)
        for metric, (value, unit) in values.items()
    ]
    append(options.results, rows)
    print(*(f"{metric} {value}" for metric, (value, _) in values.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
