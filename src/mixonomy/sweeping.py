"""A sweep: values of a recipe's fields are tried on held-out images, then all images are trained on with the best.

Test images are scored once, by the last training, and choose nothing. Each trial is a run folder of its own in
OUT/sweep, so an interrupted sweep goes on where it was, and what is finished is never computed again; its weights are
removed then, since only its score counts.
"""

import copy
import difflib
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mixonomy import parallel
from mixonomy.experiment import Runtime, open_data, set_up
from mixonomy.progress import Console
from mixonomy.recipe import Recipe, Section, changed
from mixonomy.runs import RunFolder, check_same_recipe, write_json
from mixonomy.training import HEADLINES, REMEDY, Diverged, Lengths, train

Grid = Mapping[str, Sequence[Any]]
"""Field, such as "optim.lr" -> the values to try, as in the recipe or as text."""

# What must be the same in all trials, and why.
NOT_SWEPT = {
    "name": "it decides no number",
    "keep": "all trials keep the last weights, as the training on all images must",
    "early_stop": "all trials have the whole length, as the training on all images must",
    "data.source": "all trials need the same held-out images",
    "data.val_share": "all trials need the same held-out images",
    "data.train_images": "all trials need the same held-out images",
    "data.train_on_val": "all trials need held-out images",
}


@dataclass(frozen=True)
class Trial:
    """One combination of values, and how it did.

    Args:
      values: field -> value.
      score: headline score on the held-out images; None if the training diverged.
      seconds: of training.
      error: why there is no score.
    """

    values: dict[str, Any]
    score: float | None
    seconds: float
    error: str | None = None


def check_grid(recipe: Recipe, grid: Grid) -> list[tuple[dict[str, Any], Recipe]]:
    """All combinations of a grid: the values as the recipe has them, and the recipe.

    Raises:
      ValueError: for a field that does not exist or may not be swept, a value that it does not take, fewer than two
        different combinations, or a recipe that holds out nothing.
    """
    if recipe.early_stop is not None or recipe.data.train_on_val:
        field = "early_stop" if recipe.early_stop is not None else "data.train_on_val"
        raise ValueError(f"a sweep has no use for {field}: {NOT_SWEPT[field]}; leave it out.")
    for field in grid:
        _check_field(field)
    recipes = []
    for combination in itertools.product(*grid.values()):
        tried = _with_values(recipe, dict(zip(grid, combination, strict=True)))
        values = {field: _value(tried, field) for field in grid}
        if any(values == other for other, _ in recipes):
            raise ValueError(f"the sweep tries {_describe(values)} twice; give each value once.")
        recipes.append((values, tried))
    if len(recipes) < 2:
        raise ValueError("a sweep compares two values or more; give them like optim.lr=0.003,0.01,0.03,0.06.")
    return recipes


def sweep(
    recipe: Recipe,
    grid: Grid,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Tries all combinations, trains with the best on all but the test images, and scores those once.

    Every trial trains on train less what is held out and is scored there with its last weights; of equal scores the
    combination that comes first wins. One that diverges is left out.

    Args:
      grid: see `Grid`; several fields make all their combinations.
      out: the run folder of the last training; the trials are in its folder sweep/.
      model: as for `train`; every training begins from a copy.
    Returns:
      The result of the last training, with "sweep": what was tried, what was chosen, and the seconds of all trials.
    Raises:
      ValueError: for a grid that does not fit the recipe, the data or the folder, before anything is trained.
      Diverged: if every combination does, or the training on all images.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    runtime, console, folder = runtime or Runtime(), console or Console(quiet=True), RunFolder(out)
    parallel.only_alone("a sweep")
    recipes = check_grid(recipe, grid)
    finals = [(values, changed(tried, data={"train_on_val": True})) for values, tried in recipes]
    _check_folder(folder, finals)
    folders = [RunFolder(folder.path / "sweep" / _slug(values)) for values, _ in recipes]
    left = [tried for (_, tried), trial in zip(recipes, folders, strict=True) if _is_left(trial, tried)]
    opened = open_data(recipe, runtime) if left else None
    for tried in left:
        Lengths.of(tried, len(set_up(tried, runtime, copy.deepcopy(model), opened).plan.train))
    trials = []
    for number, ((values, tried), trial) in enumerate(zip(recipes, folders, strict=True), start=1):
        console.say(f"sweep, {number} of {len(recipes)}: {_describe(values)}")
        try:
            result = train(
                tried,
                trial.path,
                model=copy.deepcopy(model),
                runtime=runtime,
                console=console,
                command=command,
                is_trial=True,
                opened=opened,
            )
        except Diverged as error:
            result = {"error": f"{error.what}. {REMEDY}", "seconds": error.seconds}
            trial.finish(result)
        trial.model.unlink(missing_ok=True)  # of many large trials the disk would be full
        shutil.rmtree(trial.checkpoints, ignore_errors=True)
        score = next((result[f"val_{name}"] for name in HEADLINES if f"val_{name}" in result), None)
        trials.append(Trial(values, score, result["seconds"], result.get("error")))
    best = best_of(trials)
    for trial in trials:
        console.say(f"sweep: {describe_trial(trial)}{', chosen' if trial is best else ''}")
    for field in edges(best, trials):
        console.say(f"sweep: the best {field} is at the edge of what was tried; one beyond it may be better")
    found = {
        "trials": [asdict(trial) for trial in trials],
        "chosen": best.values,
        "seconds": sum(trial.seconds for trial in trials),
    }
    final = next(final for values, final in finals if values == best.values)
    if opened is not None:
        opened = open_data(final, runtime, opened.source)
    return train(
        final,
        out,
        model=model,
        runtime=runtime,
        console=console,
        command=command,
        also={"sweep": found},
        opened=opened,
    )


@contextmanager
def remembering_failure(folder: Path, recipe: Recipe, grid: Grid | None = None) -> Iterator[None]:
    """Keeps why the training inside diverged, and does not let it begin again in that folder: it would again.

    Args:
      recipe, grid: of what is inside, as for `sweep`; what another one came to in that folder says nothing of it.
    Raises:
      Diverged: if it does, or did before.
      ValueError: if another one did before.
    """
    failure = folder / "failed.json"
    tried = json.loads(json.dumps({field: list(values) for field, values in (grid or {}).items()}))
    if failure.is_file():
        kept = json.loads(failure.read_text(encoding="utf-8"))
        if "recipe" in kept:
            check_same_recipe(folder, Recipe.model_validate(kept["recipe"]), recipe)
            if kept["grid"] != tried:
                raise ValueError(f"{folder} holds another sweep, which diverged; give another --out, or that sweep.")
        elif (run := RunFolder(folder)).exists() and not tried:  # of a version that kept the reason alone
            run.check_recipe(recipe)
        raise Diverged(kept["reason"], seconds=kept.get("seconds", 0.0))
    try:
        yield
    except Diverged as error:
        about = {"seconds": error.seconds, "recipe": recipe.model_dump(mode="json"), "grid": tried}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(failure, {"reason": error.what, **about})
        raise


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score, the first of equal ones.

    Raises:
      Diverged: if none has a score.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        seconds = sum(trial.seconds for trial in trials)
        raise Diverged(f"no value of the sweep trained to its end; the first said: {trials[0].error}", seconds=seconds)
    return max(scored, key=lambda trial: trial.score or 0.0)


def _check_folder(folder: RunFolder, finals: Sequence[tuple[dict[str, Any], Recipe]]) -> None:
    """Refuses a folder with anything but what this sweep leaves there, before it trains for nothing.

    Raises:
      ValueError: naming what differs.
    """
    if not folder.has_progress():
        return
    folder.check_no_trial()
    if folder.recipe() not in [final for _, final in finals]:
        folder.check_recipe(finals[0][1])
    if (result := folder.result()) is None:
        return
    tried = [trial["values"] for trial in result.get("sweep", {}).get("trials", ())]
    if tried != json.loads(json.dumps([values for values, _ in finals])):
        there = "; ".join(map(_describe, tried)) or "no sweep"
        raise ValueError(f"{folder.path} holds another run, of {there}; give another --out, or that sweep.")


def _is_left(trial: RunFolder, tried: Recipe) -> bool:
    """Whether a trial has no result yet.

    Raises:
      ValueError: if its folder holds another one.
    """
    if trial.has_progress():
        trial.check_recipe(tried)
    return trial.result() is None


def _slug(values: Mapping[str, Any]) -> str:
    """The name of a trial's folder."""
    return re.sub(r"[^\w.=,+-]", "-", _describe(values))


def describe_trial(trial: Trial) -> str:
    """The values and the score in words."""
    said = "diverged" if trial.score is None else f"{trial.score:.2%} on held-out images"
    return f"{_describe(trial.values)}: {said} in {trial.seconds:,.0f} s"


def edges(best: Trial, trials: Sequence[Trial]) -> list[str]:
    """The fields whose chosen number is the smallest or the largest of three or more that were tried."""
    found = []
    for field, value in best.values.items():
        tried = {trial.values[field] for trial in trials if isinstance(trial.values[field], int | float)}
        if len(tried) > 2 and value in (min(tried), max(tried)) and not isinstance(value, bool):
            found.append(field)
    return found


def _check_field(field: str) -> None:
    if field in NOT_SWEPT:
        raise ValueError(f"{field} cannot be swept: {NOT_SWEPT[field]}.")
    known = list(_fields())
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown field {field!r}; {hint}`mixonomy train --help` shows all fields.")


def _fields() -> list[str]:
    """Names of all fields, those of sections with the section's name before."""
    found = []
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += [f"{name}.{part}" for part in kind.model_fields]
        else:
            found.append(name)
    return found


def _with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    changes: dict[str, Any] = {"keep": "last"}
    for field, value in values.items():
        section, _, name = field.rpartition(".")
        if section:
            changes.setdefault(section, {})[name] = value
        else:
            changes[field] = value
    return changed(recipe, **changes)


def _value(recipe: Recipe, field: str) -> Any:
    found: Any = recipe
    for part in field.split("."):
        found = getattr(found, part)
    return found


def _describe(values: Mapping[str, Any]) -> str:
    return ",".join(f"{field}={value}" for field, value in values.items())
