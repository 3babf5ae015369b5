"""Trains a recipe with several seeds and keeps what it scored and cost.

    python benchmarks/recipes.py cifar10 --seeds 0 1 2 --data-root ../shared/data

Each seed has a run folder of its own; the same command goes on where it was stopped. To use one process per seed, start
it with `--seeds 0`, `--seeds 1`, ..., and then once with `--summarise`, which trains nothing. Rows that are
already there are not written twice.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from mixonomy import api, runs
from mixonomy.experiment import Runtime
from mixonomy.progress import Console
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from mixonomy.rows import origin_of
from mixonomy.training import Interrupted
from rows import RESULTS, Origin, Row, append, command_line, make_row, read

UNITS = {"top1": "share", "seconds": "s", "images_per_s": "images/s", "params": "parameters"}


def describe(recipe: Recipe) -> str:
    """The model and how long it is trained: "mixer P=4 C=128 blocks=8 D_S=64 D_C=512, 14 epochs"."""
    model = recipe.model
    sizes = {
        "P": model.patch_size,
        "C": model.hidden_dim,
        "blocks": model.num_blocks,
        "D_S": model.tokens_mlp_dim,
        "D_C": model.channels_mlp_dim,
    }
    return f"{' '.join([model.name, *(f'{k}={v}' for k, v in sizes.items() if v is not None)])}, {recipe.duration}"


def folder_of(recipe: Recipe, parent: Path) -> runs.RunFolder:
    """The run folder of a recipe with its seed."""
    return runs.RunFolder(parent / f"{recipe.name}-{runs.recipe_hash(recipe)}")


def train(recipe: Recipe, folder: runs.RunFolder, data_root: str | None) -> str | None:
    """Trains one seed, or goes on; returns why it failed, or None.

    Raises:
      ValueError: if the run could not even start, which says nothing about the recipe.
    """
    try:
        runtime = Runtime(data_root=data_root)
        api.train(recipe, folder.path, runtime=runtime, console=Console(), command=command_line())
    except (ValueError, RuntimeError) as error:
        if not folder.exists():
            raise
        return f"seed {recipe.seed} failed: {error}"
    return None


def started(recipe: Recipe, parent: Path) -> list[Recipe]:
    """The recipe with every seed for which there is a run folder."""
    found = [runs.RunFolder(path) for path in sorted(parent.glob(f"{recipe.name}-*"))]
    seeded = [folder.recipe() for folder in found if folder.exists()]
    return sorted((r for r in seeded if changed(r, seed=0) == changed(recipe, seed=0)), key=lambda r: r.seed)


def rows_of(recipes: list[Recipe], parent: Path, failures: dict[int, str], *, with_summary: bool) -> list[Row]:
    """One row per seed and metric and, where wanted, one over all seeds: mean, sample standard deviation, n."""
    values: dict[str, list[float]] = {metric: [] for metric in UNITS}
    rows, origins, missing = [], [], []
    about: dict[str, Any] = {"study": "recipe", "model": describe(recipes[0]), "data": recipes[0].data.source}
    for recipe in recipes:
        folder = folder_of(recipe, parent)
        info, result = folder.info(), folder.result()
        origins.append(_origin(info))
        if result is None:
            note = failures.get(recipe.seed, f"seed {recipe.seed} is not finished")
            missing.append(recipe.seed)
            if recipe.seed in failures:
                rows.append(make_row(origins[-1], **about, metric="top1", value=None, unit="share", note=note, n=0))
                rows[-1]["seed"] = recipe.seed
            else:
                print(note, file=sys.stderr)
            continue
        for metric, unit in UNITS.items():
            values[metric].append(result[metric])
            rows.append(
                make_row(origins[-1], **about, metric=metric, value=result[metric], unit=unit, seed=recipe.seed)
            )
    if not with_summary:
        return rows
    note = f"no result from seed {', '.join(map(str, missing))}" if missing else None
    for metric, unit in UNITS.items():
        found = values[metric]
        summary: dict[str, Any] = {
            "value": statistics.mean(found) if found else None,
            "spread": statistics.stdev(found) if len(found) > 1 else None,
            "n": len(found),
        }
        rows.append(make_row(_together(origins), **about, metric=metric, unit=unit, note=note, **summary))
    return rows


def _origin(info: dict[str, Any]) -> Origin:
    return origin_of(info, info["device"], info["command"])


def _together(origins: list[Origin]) -> Origin:
    """One origin for several runs: what they share once, what differs side by side, the last day."""
    device, commit, command = (
        "; ".join(dict.fromkeys(str(getattr(o, key)) for o in origins)) for key in ("device", "commit", "command")
    )
    return Origin(device, commit, command, max(o.date for o in origins))


def _is_same(a: Row, b: Row) -> bool:
    return all(a[key] == b[key] for key in ("study", "model", "data", "metric", "value", "seed", "n", "commit"))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", help="a name from `mixonomy list recipes`, or a Python file")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2; with --summarise: all that were started")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", help="in place of the recipe's duration")
    length.add_argument("--duration", help='likewise, such as "500 steps"')
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="parent of the run folders")
    parser.add_argument("--results", type=Path, default=RESULTS / "recipes.jsonl")
    parser.add_argument("--summarise", action="store_true", help="train nothing; rows from the run folders")
    options = parser.parse_args()
    failures: dict[int, str] = {}
    try:
        recipe = load_recipe(options.recipe)
        duration = f"{options.epochs} epochs" if options.epochs else options.duration
        recipe = changed(recipe, duration=duration) if duration else recipe
        seeds = options.seeds or ([r.seed for r in started(recipe, options.runs)] if options.summarise else [0, 1, 2])
        seeded = [changed(recipe, seed=seed) for seed in seeds]
        if not seeded:
            raise ValueError(f"there is no run of {recipe.name} in {options.runs}; train some seeds, or give --runs.")
        for one in seeded if not options.summarise else ():
            failure = train(one, folder_of(one, options.runs), options.data_root)
            failures |= {one.seed: failure} if failure else {}
        # A single seed has no spread; its summary is made with the others by --summarise.
        rows = rows_of(seeded, options.runs, failures, with_summary=options.summarise or len(seeded) > 1)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    known = read(options.results)
    new = [row for row in rows if not any(_is_same(row, old) for old in known)]
    append(options.results, new)
    for row in rows:
        if row["metric"] == "top1":
            who = "all seeds" if row["seed"] is None else f"seed {row['seed']}"
            print(f"{recipe.name}, {who}: top-1 {row['value']}, spread {row['spread']}, n {row['n']}")
    print(f"{len(new)} new rows in {options.results}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
