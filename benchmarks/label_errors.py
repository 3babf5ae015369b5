"""Plants wrong labels in the digits, trains on them, and counts how many of those in test data are found again.

    python benchmarks/label_errors.py --seeds 0 1 2

Training, validation and test images all have the same share of wrong labels, as in a data set nobody has checked. The
model is small, so that it is wrong at times by itself: what it finds then is not always a wrong label.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from mixonomy import api
from mixonomy.data import open_source, plan_splits
from mixonomy.evals import Classification
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from recipes import describe
from rows import RESULTS, append, make_row, origin

SMALL = {"hidden_dim": 32, "num_blocks": 2, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}


def plant(folder: Path, share: float, seed: int) -> Path:
    """Writes the digits as files and a CSV in which a share of the labels is wrong; those files end in "w"."""
    rng, lines = np.random.default_rng(seed), ["path,label,split"]
    for split, samples in open_source("digits").splits.items():
        for i, label in enumerate(samples.labels.tolist()):
            is_wrong = rng.random() < share
            name = f"{split}{i:04d}{'w' if is_wrong else ''}.png"
            (folder / name).write_bytes(bytes(samples.images[i]))
            lines.append(f"{name},{(label + rng.integers(1, 10)) % 10 if is_wrong else label},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def measure(recipe: Recipe, share: float) -> dict[str, float]:
    """Trains once; top-1 against the labels with the wrong ones, and numbers of test images.

    Returns:
      top1, wrong (images with a wrong label), found (images that are suspected) and right (both).
    """
    with tempfile.TemporaryDirectory() as folder:
        source = str(plant(Path(folder), share, recipe.seed))
        run = api.train(changed(recipe, data={"source": source}), Path(folder) / "run")
        scored = api.evaluate(run.path, split="test")
        assert isinstance(scored, Classification), "each digit has one label"
        names = plan_splits(open_source(source), recipe.data.val_share).test.names
        found = {names[suspect.index] for suspect in scored.label_check.suspects()}
        wrong = {name for name in names if name.endswith("w.png")}
    return {"top1": run.result["top1"], "wrong": len(wrong), "found": len(found), "right": len(found & wrong)}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05], help="of labels made wrong")
    parser.add_argument("--duration", help="in place of the recipe's")
    parser.add_argument("--results", type=Path, default=RESULTS / "label_errors.jsonl")
    options = parser.parse_args()
    recipe = changed(load_recipe("digits"), model=SMALL)
    recipe = changed(recipe, duration=options.duration) if options.duration else recipe
    where = origin()
    for share in options.shares:
        seeds = [measure(changed(recipe, seed=seed), share) for seed in options.seeds]
        data, model = f"digits, {share:.0%} of the labels wrong", describe(recipe)
        rows = []
        for metric in seeds[0]:
            values = [each[metric] for each in seeds]
            rows.append(
                make_row(
                    where, study="label_errors", model=model, data=data, metric=metric, value=statistics.mean(values),
                    unit="share" if metric == "top1" else "images",
                    spread=statistics.stdev(values) if len(values) > 1 else None, n=len(values),
                )
            )  # fmt: skip
            print(f"{data}: {metric} {rows[-1]['value']:.4g} over {len(values)} seeds")
        append(options.results, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
