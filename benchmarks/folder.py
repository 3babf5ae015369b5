"""Tries the recipe `folder` without cutmix, and changes of that, on small real data: what its defaults come from.

    python benchmarks/folder.py --data imagenette flowers102 eurosat --data-root ../shared/data
    python benchmarks/folder.py --variants base "cutmix 0.5" --samples 60000

Choices look at validation data: the source's own, else 30 % of train, since a tenth of 1,000 images would tell little.
Every variant sees the same number of images and has a run folder of its own; the same command goes on where it was
stopped. Minutes are of the process's CPUs.
"""

import argparse
import sys
import time
from pathlib import Path

from mixonomy.data import open_source
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes.folder import recipe_for
from recipes import folder_of, train
from rows import RESULTS, append, make_row, origin

VAL_SHARE = 0.3

# What is changed, one thing at a time.
VARIANTS: dict[str, dict[str, dict[str, object] | object]] = {
    "base": {},
    "cutmix 0.5": {"augment": {"cutmix_prob": 0.5}},
    "crop of 10 % or more": {"augment": {"min_area": 0.1}},
    "crop of 60 % or more": {"augment": {"min_area": 0.6}},
    "weight decay 0.3": {"optim": {"weight_decay": 0.3}},
    "128 pixels, P = 16": {"image_size": 128, "model": {"patch_size": 16}},
    "96 pixels, P = 12": {"image_size": 96, "model": {"patch_size": 12}},
    "48 pixels, P = 6": {"image_size": 48, "model": {"patch_size": 6}},
    "P = 4 at 32 pixels": {"image_size": 32, "model": {"patch_size": 4}},
    "C 128": {"model": {"hidden_dim": 128, "channels_mlp_dim": 384, "tokens_mlp_dim": 64}},
    "C 256": {"model": {"hidden_dim": 256, "channels_mlp_dim": 768}},
    "4 blocks": {"model": {"num_blocks": 4}},
    "D_S 32": {"model": {"tokens_mlp_dim": 32}},
    "stochastic depth 0.1": {"model": {"drop_path": 0.1}},
    "learning rate 0.01": {"optim": {"lr": 0.01}},
    "batches of 64": {"batch_size": 64},
}


def variant(name: str, source: str, root: str | None, samples: int | None) -> Recipe:
    """The folder recipe for a source, with one thing changed.

    Args:
      samples: images to see in training; the recipe's own length if None.
    """
    splits = open_source(source, root).splits
    share = 0.1 if samples is None else VAL_SHARE
    num_images = len(splits["train"]) * (1 if "val" in splits and "test" in splits else 1 - share)
    base = changed(recipe_for(round(num_images)), data={"source": source, "val_share": share})
    base = changed(base, augment={"cutmix_prob": 0.0})
    base = changed(base, **VARIANTS[name])
    return (
        base
        if samples is None
        else changed(base, duration=f"{samples} examples", eval_every=f"{samples // 4} examples")
    )


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["imagenette", "flowers102", "eurosat"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--samples", type=int, nargs="+", help="images to see in training; the recipe's own length if not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="parent of the run folders")
    parser.add_argument("--results", type=Path, default=RESULTS / "folder.jsonl")
    options = parser.parse_args()
    for name in options.variants:
        for samples in options.samples or [None]:
            for source in options.data:
                recipe = changed(variant(name, source, options.data_root, samples), seed=options.seed)
                folder, began = folder_of(recipe, options.runs), time.process_time()
                failure = train(recipe, folder, options.data_root)
                result = folder.result() or {}
                about = {"study": "folder", "model": f"{name}, {recipe.duration}", "data": source, "note": failure}
                values = {
                    "val_top1": (result.get("val_top1"), "share"),
                    "top1": (result.get("top1"), "share"),
                    "cpu_minutes": ((time.process_time() - began) / 60, "min"),
                }
                rows = [
                    make_row(origin(), metric=metric, value=value, unit=unit, seed=options.seed, **about)
                    for metric, (value, unit) in values.items()
                ]
                append(options.results, rows)
                print(f"{source}, {name}, {recipe.duration}: {values}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
