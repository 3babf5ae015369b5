"""Transfer: one set of weights fine-tuned to every task of a suite by its protocol, and scored on few images of each.

Each training is a run folder and each result a file in OUT/TASK, so an interrupted suite goes on where it was and
nothing is computed twice. A task whose data is not there is absent, one whose training diverges has failed, and no
mean is taken over either unnoticed.
"""

import difflib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mixonomy import data
from mixonomy.choices import BadImagePolicy
from mixonomy.data.sources import known, parquet, shards
from mixonomy.data.sources.open import data_root
from mixonomy.evals.suites import SUITES, Suite, Task, check_lrs
from mixonomy.experiment import Runtime
from mixonomy.loading import at_size, load
from mixonomy.models.checks import digest
from mixonomy.models.hub import HUB
from mixonomy.probing import CACHE, probe
from mixonomy.progress import Console
from mixonomy.python_file import set_in
from mixonomy.recipe import Recipe, changed, differences
from mixonomy.recipes.finetune import recipe_for
from mixonomy.runs import RunFolder, write_json
from mixonomy.sweeping import remembering_failure, sweep
from mixonomy.training import Diverged, train

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
      on_bad_image, max_bad_share: as in a recipe.
    """

    steps: int | None = None
    batch_size: int | None = None
    lrs: tuple[float, ...] | None = None
    image_sizes: tuple[int, ...] = ()
    seeds: int = 1
    few_shot: bool = True
    on_bad_image: BadImagePolicy = "error"
    max_bad_share: float | None = None

    def __post_init__(self):
        for what in ("steps", "batch_size", "seeds"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise ValueError(f"{what} is {value}; give 1 or more.")
        if self.lrs is not None:
            check_lrs(self.lrs, "the protocol")
        for size in self.image_sizes:
            if size < 1 or self.image_sizes.count(size) > 1:
                raise ValueError(f"image sizes are {list(self.image_sizes)}; give pixels, each size once.")


def load_suite(name: str) -> Suite:
    """The suite of a name, or of a Python file that sets `suite`.

    Raises:
      ValueError: if there is none.
    """
    if name.endswith(".py"):
        return set_in(name, "suite", Suite, ", ".join(SUITES))
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
      The content of transfer.json: rows of tasks, those absent and those failed with the reason, and the mean under a
      name that says how many tasks it is of.
    Raises:
      ValueError: if the folder holds another transfer, the model cannot have one of the sizes, or a task's data is
        broken or not what the suite says; before anything is trained.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    protocol, runtime, console = protocol or Protocol(), runtime or Runtime(), console or Console(quiet=True)
    out, model = Path(out), load(init)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    settings = {"format": FORMAT, "init": init, "sha256": digest(tensors, b""), "suite": asdict(suite)}
    settings |= {"protocol": asdict(protocol)}
    for size in protocol.image_sizes:
        at_size(model, (size, size))
    present, absent = [], []
    for task in suite.tasks:
        if (source := find_task(task, runtime.data_root)) is None:
            reason = _why_absent(task, runtime.data_root)
            absent.append({"task": task.name, "group": task.group, "reason": reason})
        else:
            count = _num_images(suite, task, source, runtime.data_root)
            sizes = protocol.image_sizes or (None,)
            present.append((task, {s: task_recipe(task, source, count, init, protocol, s) for s in sizes}))
    if not present:
        raise ValueError(
            f"no task of {suite.name} has its data, such as {absent[0]['task']}: {absent[0]['reason']}; name another "
            f"folder by --data-root or $MIXONOMY_DATA."
        )
    _check_same(out, json.loads(json.dumps(settings)))
    if absent:
        names = ", ".join(each["task"] for each in absent)
        console.say(f"{suite.name}: {len(absent)} of {len(suite.tasks)} tasks have no data here: {names}")
    rows, failed = [], []
    for task, recipes in present:
        for size, recipe in recipes.items():
            console.say(f"{suite.name}: {task.name}{'' if size is None else f' at {size} pixels'}")
            folder = out / task.name / ("native" if size is None else f"{size} pixels")
            about = {"task": task.name, "group": task.group, "image_size": size}
            try:
                few = _few_shot(model, size, recipe, folder / "fewshot.json", runtime) if protocol.few_shot else {}
                scored = _scored(recipe, protocol.lrs or task.lrs, protocol.seeds, folder, runtime, console, command)
                rows.append({**about, **scored, "few_shot": few})
            except Diverged as error:
                failed.append({**about, "reason": error.what})
                console.say(f"{suite.name}: {task.name} has failed, {error.what}")
    result = {**settings, "rows": rows, "absent": absent, "failed": failed}
    result |= {"means": means(suite, rows), "group_means": means(suite, rows, groups=True)}
    write_json(out / "transfer.json", result)
    return result


def find_task(task: Task, root: str | None) -> str | None:
    """The SOURCE of a task's data, None where there is nothing.

    Known names need their parquet files: torchvision would download what it does not find.
    """
    if task.source == "digits" or task.source.startswith((HUB, shards.PREFIX)):
        return task.source
    is_known, path = task.source in known.KNOWN, _place(task, root)
    if not parquet.siblings(path) and (is_known or not path.exists()):
        return None
    return task.source if is_known else str(path)


def _place(task: Task, root: str | None) -> Path:
    """Where the data of a task should be; parquet files have the name of the split behind it."""
    is_under_root = task.source in known.KNOWN or task.source.startswith("vtab/")
    return data_root(root) / task.source if is_under_root else Path(os.path.expanduser(task.source))


def _why_absent(task: Task, root: str | None) -> str:
    path = _place(task, root)
    or_else = "" if task.source in known.KNOWN else f" and no {path}"
    return f"there is no {path}_train.parquet{or_else}"


def _num_images(suite: Suite, task: Task, source: str, root: str | None) -> int:
    """The number of training images, once the data is what the task says.

    Raises:
      ValueError: if it is broken, or something else.
    """
    opened = data.open_source(source, root)
    whose = f"{task.name} of suite {suite.name}"
    if opened.is_multilabel:
        raise ValueError(f"{source} has images with several labels and {whose} is scored by one; give other data.")
    if len(opened.class_names) != task.num_classes:
        raise ValueError(
            f"{source} has {len(opened.class_names)} classes and {whose} {task.num_classes}; move it away, or mend it."
        )
    sizes = {name: len(split) for name, split in opened.splits.items()}
    if task.split_sizes is not None:
        train, val = task.split_sizes
        if (sizes.get("train"), sizes.get("val")) != (train, val) or "test" not in sizes:
            there = ", ".join(f"{count:,} {name}" for name, count in sizes.items())
            raise ValueError(
                f"{source} has {there} images and {whose} needs {train:,} train, {val:,} val and all test images; "
                f"divide it so, or move it away."
            )
    data.plan_splits(opened, 0.0, train_images=task.train_images)  # refuses too few
    return sizes["train"]


def task_recipe(
    task: Task, source: str, num_images: int, init: str, protocol: Protocol, image_size: int | None
) -> Recipe:
    """The recipe `finetune` with what the task and the person say."""
    recipe = recipe_for(task.train_images or num_images, protocol.steps or task.steps)
    images = {"train_images": task.train_images, "val_share": task.val_share, "eval_crop": task.eval_crop}
    bad = {"on_bad_image": protocol.on_bad_image, "max_bad_share": protocol.max_bad_share}
    given = {key: value for key, value in (images | bad).items() if value is not None}
    return changed(
        recipe,
        init=init,
        image_size=image_size,
        data={"source": source, **given},
        augment=({} if task.is_cropped else {"crop": "none"}) | ({} if task.is_flipped else {"flip": False}),
        batch_size=protocol.batch_size or recipe.batch_size,
    )


def means(suite: Suite, rows: Sequence[dict[str, Any]], groups: bool = False) -> list[dict[str, Any]]:
    """For each image size the mean over its tasks, named after the suite only if it is of all of them.

    Args:
      groups: give the means over the tasks of each of the suite's groups instead, where it has several.
    Returns:
      Of each its name, image size, number of tasks, mean, the sample standard deviation of that mean over seeds (None
      of one seed), and the means of those shots that all its tasks have.
    """
    parts = {suite.name: suite.tasks}
    if groups:
        of_groups = {task.group: tuple(t for t in suite.tasks if t.group == task.group) for task in suite.tasks}
        parts = of_groups if len(of_groups) > 1 else {}
    found = []
    for size in dict.fromkeys(row["image_size"] for row in rows):
        for part, tasks in parts.items():
            names = {task.name for task in tasks}
            here = [row for row in rows if row["image_size"] == size and row["task"] in names]
            if not here:
                continue
            of_seeds = [statistics.fmean(seed) for seed in zip(*(row["top1"] for row in here), strict=True)]
            shots = [shot for shot in here[0]["few_shot"] if all(shot in row["few_shot"] for row in here)]
            few = {shot: statistics.fmean(row["few_shot"][shot]["mean"] for row in here) for shot in shots}
            found.append(
                {
                    "name": part if len(here) == len(tasks) else f"{part}, {len(here)} of {len(tasks)} tasks",
                    "image_size": size,
                    "mean": statistics.fmean(of_seeds),
                    "std": statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
                    "n": len(here),
                    "few_shot": {shot: {"mean": mean, "std": None} for shot, mean in few.items()},
                }
            )
    return found


def _check_same(out: Path, settings: dict[str, Any]) -> None:
    """Writes what is asked for into a new folder; refuses one that holds something else."""
    path = out / "settings.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    there = json.loads(path.read_text())
    changes = ["the suite"] if _protocol(there.pop("suite", {})) != _protocol(settings["suite"]) else []
    changes += differences(there, {key: value for key, value in settings.items() if key != "suite"})
    if changes:
        raise ValueError(f"{out} holds another transfer: {', '.join(changes)}; give another --out.")


def _protocol(suite: dict[str, Any]) -> dict[str, Any]:
    """A suite as settings.json has it, less the numbers of others, which decide nothing."""
    tasks = [{key: value for key, value in task.items() if key != "published"} for task in suite.get("tasks", ())]
    return {**suite, "tasks": tasks, "published": None}


def _few_shot(model: torch.nn.Module, size: int | None, recipe: Recipe, path: Path, runtime: Runtime) -> dict[str, Any]:
    """Mean and deviation by shots of the task's training images, from the file where they were computed before."""
    if not path.is_file():
        model = model if size is None else at_size(model, (size, size))
        opened, bad = data.open_source(recipe.data.source, runtime.data_root), data.BadImages(recipe.data.on_bad_image)
        options: dict[str, Any] = {"device": runtime.device, "workers": runtime.workers, "cache": CACHE, "bad": bad}
        found = probe(model, opened, train_images=recipe.data.train_images, **options)
        share = recipe.data.max_bad_share
        bad.check(len(opened), data.MAX_BAD_SHARE if share is None else share)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {str(few.shots): {"mean": few.mean, "std": few.std} for few in found.few_shot})
    return json.loads(path.read_text())


def _scored(recipe: Recipe, lrs: Sequence[float], seeds: int, folder: Path, *others: Any) -> dict[str, Any]:
    """What `fine_tuned` gives, with the number of test images, and of those that could not be read.

    Raises:
      Diverged: where a training does, or did when it was tried: it would again.
      ValueError: if another recipe or other rates were tried there and diverged.
    """
    with remembering_failure(folder, recipe, {"optim.lr": lrs}):
        scores, lr = fine_tuned(recipe, lrs, seeds, folder, *others)
    result = RunFolder(folder / "seed0").result()
    assert result is not None, "it was scored"
    return {
        "lr": lr,
        "n": result["n"],
        "bad_images": len(result["bad_images"]),
        "top1": scores,
        "mean": statistics.fmean(scores),
        "std": statistics.stdev(scores) if len(scores) > 1 else None,
    }


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
