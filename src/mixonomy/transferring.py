"""Transfer: one set of weights fine-tuned to every task of a suite by its protocol, and scored on few images of each.

Each training is a run folder and each result a file in OUT/TASK, so an interrupted suite goes on where it was and
nothing is computed twice. A task whose data is not there is absent, and no mean is taken over it unnoticed.
"""

import difflib
import json
import runpy
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mixonomy import data
from mixonomy.data.sources import known, parquet
from mixonomy.data.sources.open import data_root
from mixonomy.evals.suites import SUITES, Suite, Task
from mixonomy.experiment import Runtime
from mixonomy.loading import load
from mixonomy.models.checks import digest
from mixonomy.probing import CACHE, probe
from mixonomy.progress import Console
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes.finetune import recipe_for
from mixonomy.runs import RunFolder, write_json
from mixonomy.sweeping import sweep
from mixonomy.training import train

FORMAT = 1


@dataclass(frozen=True)
class Protocol:
    """What a person may change of the suite's own protocol; None leaves it as it is.

    Args:
      steps, batch_size: of each fine-tuning.
      lrs: rates to choose from on held-out images; a single one chooses nothing.
      image_sizes: each is a row of its own; the size of the weights if empty.
      seeds: fine-tunings of each task, the first of which chooses the rate.
      few_shot: whether to score the frozen features from few images too.
    """

    steps: int | None = None
    batch_size: int | None = None
    lrs: tuple[float, ...] | None = None
    image_sizes: tuple[int, ...] = ()
    seeds: int = 1
    few_shot: bool = True

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; give 1 or more.")
        if self.lrs is not None and not self.lrs:
            raise ValueError("lrs is empty; give one rate or more, or leave it out.")


def load_suite(name: str) -> Suite:
    """The suite of a name, or of a Python file that sets `suite`.

    Raises:
      ValueError: if there is none.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"no file {name}; give {', '.join(SUITES)} or a Python file that sets `suite`.")
        found = runpy.run_path(name).get("suite")
        if not isinstance(found, Suite):
            raise ValueError(f"{name} sets no `suite`; it must hold `suite = mixonomy.evals.suites.Suite(...)`.")
        return found
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown suite {name!r}; {hint}use {', '.join(SUITES)} or a Python file that sets `suite`.")
    return SUITES[name]


def transfer(
    init: str,
    suite: Suite,
    out: str | Path,
    *,
    protocol: Protocol | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Fine-tunes the weights to every task whose data is there, scores each test set once a seed, and adds it all up.

    Args:
      init: weights, see `mixonomy.load`; the model stays as it is.
      out: folder of the results, which is transfer.json at the end.
    Returns:
      The content of transfer.json: rows of tasks, those absent with the reason, and the mean under a name that says how
      many tasks it is of.
    Raises:
      ValueError: if the folder holds another transfer, or a task's data is not what the suite says.
      Interrupted: after Ctrl-C, once everything is saved.
    """
    protocol, runtime, console = protocol or Protocol(), runtime or Runtime(), console or Console(quiet=True)
    out, model = Path(out), load(init)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    settings = {"format": FORMAT, "init": init, "sha256": digest(tensors, b""), "suite": asdict(suite)}
    settings |= {"protocol": asdict(protocol)}
    _check_same(out, json.loads(json.dumps(settings)))
    rows, absent = [], []
    for task in suite.tasks:
        source = find_task(task, runtime.data_root)
        if source is None:
            reason = f"no {task.source} under {data_root(runtime.data_root)}"
            absent.append({"task": task.name, "group": task.group, "reason": reason})
            console.say(f"{suite.name}: {task.name} is absent, {reason}")
            continue
        opened = data.open_source(source, runtime.data_root)
        if len(opened.class_names) != task.num_classes:
            raise ValueError(
                f"{source} has {len(opened.class_names)} classes and {task.name} of {suite.name} {task.num_classes}; "
                f"move it away, or mend it."
            )
        few = _few_shot(model, opened, task, out / task.name / "fewshot.json", runtime) if protocol.few_shot else {}
        for size in protocol.image_sizes or (None,):
            console.say(f"{suite.name}: {task.name}{'' if size is None else f' at {size} pixels'}")
            folder = out / task.name / ("native" if size is None else f"{size} pixels")
            recipe = task_recipe(task, source, len(opened.splits["train"]), init, protocol, size)
            scores, lr = fine_tuned(recipe, protocol.lrs or task.lrs, protocol.seeds, folder, runtime, console, command)
            rows.append(
                {
                    "task": task.name,
                    "group": task.group,
                    "image_size": size,
                    "lr": lr,
                    "top1": scores,
                    "mean": statistics.fmean(scores),
                    "std": statistics.stdev(scores) if len(scores) > 1 else None,
                    "few_shot": few,
                }
            )
    result = {**settings, "rows": rows, "absent": absent, "means": means(suite, rows)}
    write_json(out / "transfer.json", result)
    return result


def find_task(task: Task, root: str | None) -> str | None:
    """The SOURCE of a task's data, None where it is absent; nothing is downloaded for a suite."""
    where = data_root(root)
    if task.source in known.KNOWN or task.source.startswith("vtab/"):
        path = where / task.source
        if not parquet.siblings(path) and not path.is_dir():
            return None
        return task.source if task.source in known.KNOWN else str(path)
    try:
        data.open_source(task.source, root)
    except ValueError:
        return None
    return task.source


def task_recipe(
    task: Task, source: str, num_images: int, init: str, protocol: Protocol, image_size: int | None
) -> Recipe:
    """The recipe `finetune` with what the task and the person say."""
    recipe = changed(
        recipe_for(task.train_images or num_images, protocol.steps or task.steps),
        init=init,
        image_size=image_size,
        data={"source": source},
    )
    if task.train_images is not None:
        recipe = changed(recipe, data={"train_images": task.train_images})
    if task.val_share is not None:
        recipe = changed(recipe, data={"val_share": task.val_share})
    if task.eval_crop is not None:
        recipe = changed(recipe, data={"eval_crop": task.eval_crop})
    if not task.is_cropped:
        recipe = changed(recipe, augment={"crop": "none"})
    if not task.is_flipped:
        recipe = changed(recipe, augment={"flip": False})
    if protocol.batch_size is not None:
        recipe = changed(recipe, batch_size=protocol.batch_size)
    return recipe


def means(suite: Suite, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each image size the mean over its tasks, named after the suite only if it is of all of them."""
    found = []
    for size in dict.fromkeys(row["image_size"] for row in rows):
        scores = [row["mean"] for row in rows if row["image_size"] == size]
        count, total = len(scores), len(suite.tasks)
        name = suite.name if count == total else f"{suite.name}, {count} of {total} tasks"
        found.append({"name": name, "image_size": size, "mean": statistics.fmean(scores), "n": count})
    return found


def _check_same(out: Path, settings: dict[str, Any]) -> None:
    """Writes what is asked for into a new folder; refuses one that holds something else."""
    path = out / "settings.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    there = json.loads(path.read_text())
    if changes := [key for key in settings if there.get(key) != settings[key]]:
        raise ValueError(f"{out} holds another transfer: {', '.join(changes)} differ; give another --out.")


def _few_shot(model: torch.nn.Module, source: data.Source, task: Task, path: Path, runtime: Runtime) -> dict[str, Any]:
    """Mean and deviation by shots of the task's training images, from the file where they were computed before."""
    if not path.is_file():
        options: dict[str, Any] = {"device": runtime.device, "workers": runtime.workers, "cache": CACHE}
        found = probe(model, source, train_images=task.train_images, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {str(few.shots): {"mean": few.mean, "std": few.std} for few in found.few_shot})
    return json.loads(path.read_text())


def fine_tuned(
    recipe: Recipe,
    lrs: Sequence[float],
    seeds: int,
    folder: Path,
    runtime: Runtime,
    console: Console,
    command: str,
) -> tuple[list[float], float]:
    """Test top-1 of each seed, and the rate that held-out images chose with the first.

    Args:
      lrs: rates to choose from; a single one chooses nothing.
      folder: of the runs, seed0 and so on.
    """
    options: dict[str, Any] = {"runtime": runtime, "console": console, "command": command}
    if len(lrs) > 1:
        scores = [sweep(recipe, {"optim.lr": lrs}, folder / "seed0", **options)["top1"]]
        chosen = RunFolder(folder / "seed0").recipe()
    else:
        chosen = changed(recipe, optim={"lr": lrs[0]}, data={"train_on_val": True})
        scores = [train(chosen, folder / "seed0", **options)["top1"]]
    for seed in range(1, seeds):
        scores.append(train(changed(chosen, seed=seed), folder / f"seed{seed}", **options)["top1"])
    assert chosen.optim.lr is not None, "a rate was given"
    return scores, chosen.optim.lr
