"""A study that trains: planned runs go through the one loop, what they score becomes rows, and rows what was found.

Each training is a run folder in OUT/runs, so an interrupted study goes on where it was and what is finished is never
computed again. What is said of a study is a pure function of its rows.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixonomy import devices
from mixonomy.experiment import Opened, Runtime, open_data
from mixonomy.loading import load
from mixonomy.models.files import write_atomically
from mixonomy.progress import Console
from mixonomy.recipe import Data, Recipe, changed
from mixonomy.report.study_page import Found, Table, write_study_page
from mixonomy.rows import Row, make_row, origin_of, to_text
from mixonomy.rows import read as read_rows
from mixonomy.runs import RunFolder, environment, read_metrics, write_json
from mixonomy.stopping import Interrupted, interrupted_at_once
from mixonomy.sweeping import remembering_failure
from mixonomy.training import Diverged, train

Build = Callable[[int, int], nn.Module]
"""(number of classes, channels of an image) -> a module of the study's own: images [B, c, H, W] -> logits [B, K]."""


@dataclass(frozen=True)
class Number:
    """One thing that was measured of a run; becomes a row.

    Args:
      value: None with a note that says why there is none.
      spread, n, at, note: see `mixonomy.rows`.
    """

    metric: str
    value: float | None
    unit: str
    spread: float | None = None
    n: int = 1
    at: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Finished:
    """A finished run of a study, for what else there is to measure of it.

    Args:
      opened: the data that the run was trained on.
    """

    planned: "Planned"
    folder: RunFolder
    result: dict[str, Any]
    runtime: Runtime
    opened: Opened

    def model(self) -> nn.Module:
        """The trained model, in evaluation mode."""
        return load(self.folder.path, model=_built(self.planned, self.opened))


Measure = Callable[[Finished], Iterable[Number]]


@dataclass(frozen=True)
class Planned:
    """One training of a study.

    Args:
      model, data: what its rows are called; with the seed of the recipe they name the run.
      recipe: of the training.
      build: makes a module of the study's own in place of the recipe's model, after torch's generator has the recipe's
        seed; the recipe's model if None.
      measure: what else to measure once it is trained; done once and kept.
      start: another training of the study, whose weights this one starts from.
    """

    model: str
    data: str
    recipe: Recipe
    build: Build | None = None
    measure: Measure | None = None
    start: "Planned | None" = None

    @property
    def folder(self) -> str:
        """Of the run, relative to OUT."""
        words = re.sub(r"[^\w.=,+-]+", "-", f"{self.model} on {self.data}")
        return f"runs/{words}/seed{self.recipe.seed}"


@dataclass(frozen=True)
class Study:
    """What is trained, and what its rows say.

    Args:
      name: of the command, and of the study in its rows.
      planned: in the order in which they run.
      read: from rows, of this study and no other, to what they say; for any number of rows.
    """

    name: str
    planned: tuple[Planned, ...]
    read: Callable[[Sequence[Row]], Found]


def run(
    study: Study,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
) -> list[Row]:
    """Trains what is not trained yet, and writes OUT/rows.jsonl and the page OUT/NAME.html.

    A training that diverges, or that memory does not hold, has a row without a value; the others go on. Rows and page
    of a study that is interrupted are of what was finished.

    Returns:
      The rows, in the order of the planned runs.
    Raises:
      ValueError: if two planned runs have one name, a folder holds another run or OUT another study, or a recipe does
        not fit its data.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    work = Work(Path(out), resolved(runtime), console or Console(quiet=True), command)
    folders = [planned.folder for planned in study.planned]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ValueError(f"the study {study.name} plans {twice[0]} twice; give each model, data and seed once.")
    check_results(study.name, work.out)

    def all_rows() -> Iterator[list[Row]]:
        for number, planned in enumerate(study.planned, start=1):
            said = f"{planned.model}, {planned.data}, seed {planned.recipe.seed}"
            work.console.say(f"study {study.name}, run {number} of {len(folders)}: {said}")
            yield rows_of(study.name, planned, work)

    return collected(study, work.out, all_rows())


def collected(study: Study, out: Path, parts: Iterator[list[Row]]) -> list[Row]:
    """All rows of the parts, written with their page; where it is interrupted, those of what was finished.

    Raises:
      Interrupted: see `run`.
    """
    rows: list[Row] = []
    try:
        with interrupted_at_once():
            for part in parts:
                rows += part
    except Interrupted:
        if rows:
            write_results(study, out, rows)
        raise
    write_results(study, out, rows)
    return rows


def check_results(study: str, out: Path) -> None:
    """Refuses a folder with rows of another study, which would be replaced.

    Raises:
      ValueError: naming it.
    """
    path = out / "rows.jsonl"
    there = {row["study"] for row in read_rows(path)} - {study} if path.is_file() else set()
    if there:
        raise ValueError(f"{out} holds the rows of the study {', '.join(sorted(there))}; give another --out.")


def data_named(base: Recipe) -> str:
    """What rows call the data: the source, how many of its images are taken if not all, and how long is trained."""
    count = base.data.train_images
    images = "" if count is None else f", {count:,} images"
    return f"{base.data.source}{images}, {base.duration}"


def resolved(runtime: Runtime | None) -> Runtime:
    """The same with the device that "auto" stands for here, which rows name."""
    runtime = runtime or Runtime()
    return replace(runtime, device=str(devices.resolve_device(runtime.device)))


def write_results(study: Study, out: Path, rows: Sequence[Row]) -> Found:
    """Writes OUT/rows.jsonl and the page, from nothing but the rows; see `check_results` for its error."""
    check_results(study.name, out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "rows.jsonl", to_text(rows).encode())
    found = study.read(rows)
    write_study_page(out / f"{study.name}.html", found, rows)
    return found


class Work:
    """Where and how the trainings of a study run.

    Args:
      out: folder of the study.
      runtime: with a device of its own, see `resolved`.
      command: for the rows.
    """

    def __init__(self, out: Path, runtime: Runtime, console: Console, command: str):
        self.out, self.runtime, self.console, self.command = out, runtime, console, command
        self._last: tuple[Data, Opened] | None = None

    def data_of(self, recipe: Recipe) -> Opened:
        """The recipe's data, divided; opened once where several recipes in a row have the same.

        Raises:
          ValueError: if an image may have several labels.
        """
        if self._last is None or self._last[0] != recipe.data:
            opened = open_data(recipe, self.runtime)
            if opened.source.is_multilabel:
                raise ValueError(
                    f"{opened.source.name} has images with several labels; give data with one label for each image."
                )
            self._last = recipe.data, opened
        return self._last[1]


def rows_of(study: str, planned: Planned, work: Work) -> list[Row]:
    """Trains one planned run, unless it is finished, and gives its rows."""
    folder = RunFolder(work.out / planned.folder)
    about: dict[str, Any] = {"study": study, "model": planned.model, "data": planned.data}
    about["seed"] = planned.recipe.seed
    try:
        recipe = _recipe_of(planned, folder, work)
        with remembering_failure(folder.path, recipe):
            result = _trained(planned, recipe, folder, work)
    except (Diverged, MemoryError, RuntimeError) as error:
        why = why_failed(error)
        work.console.say(f"{planned.model} has failed: {why}")
        numbers = [Number("top1", None, "share", n=0, note=why)]
    else:
        numbers = [*_scores(result), *_measured(planned, folder, result, work)]
    # Where the weights to start from are missing there is no run.
    info = (
        folder.info() if folder.exists() else {**environment(), "device": work.runtime.device, "command": work.command}
    )
    where = origin_of(info, info["device"], info["command"])
    return [make_row(where, **about, **asdict(number)) for number in numbers]


def why_failed(error: Exception) -> str:
    """In words, for a row; any error but of a training that diverged or of a full memory is raised again."""
    if isinstance(error, Diverged):
        return error.what
    if not devices.is_memory_full(error):
        raise error
    return "the memory is full"


def _recipe_of(planned: Planned, folder: RunFolder, work: Work) -> Recipe:
    """The recipe with the weights that it starts from, as the run has them where it is finished: OUT may have moved.

    Raises:
      Diverged: if the training that makes those weights did.
    """
    if planned.start is None:
        return planned.recipe
    if folder.exists() and folder.result() is not None:
        return changed(planned.recipe, init=folder.recipe().init)
    start = RunFolder(work.out / planned.start.folder)
    if not start.exists() or start.result() is None:
        raise Diverged(f"it starts from {planned.start.model}, which was not trained to its end")
    return changed(planned.recipe, init=str(start.path))


def _trained(planned: Planned, recipe: Recipe, folder: RunFolder, work: Work) -> dict[str, Any]:
    """The result of the run, without opening its data or building its model where it is finished."""
    if folder.exists() and (result := folder.result()) is not None:
        folder.check_recipe(recipe)
        return result
    opened = work.data_of(recipe)
    options: dict[str, Any] = {"runtime": work.runtime, "console": work.console, "command": work.command}
    return train(recipe, folder.path, opened=opened, model=_built(planned, opened), **options)


def _built(planned: Planned, opened: Opened) -> nn.Module | None:
    if planned.build is None:
        return None
    torch.manual_seed(planned.recipe.seed)
    return planned.build(len(opened.source.class_names), opened.source.channels)


def _scores(result: dict[str, Any]) -> Iterator[Number]:
    """What every run has: accuracy, size and cost."""
    yield Number("top1", result["top1"], "share")
    yield Number("test_images", result["n"], "images")
    if result.get("val_top1") is not None:
        yield Number("val_top1", result["val_top1"], "share")
    yield Number("params", result["params"], "parameters")
    yield Number("seconds", result["seconds"], "s")
    yield Number("images_per_s", result["images_per_s"], "images/s")


def _measured(planned: Planned, folder: RunFolder, result: dict[str, Any], work: Work) -> list[Number]:
    """What the study itself measures of the run, from the file where it was kept before."""
    if planned.measure is None:
        return []
    path = folder.path / "measured.json"
    if not path.is_file():
        found = Finished(planned, folder, result, work.runtime, work.data_of(planned.recipe))
        write_json(path, [asdict(number) for number in planned.measure(found)])
    return [Number(**number) for number in json.loads(path.read_text())]


def curve(folder: RunFolder, names: dict[str, str], *, by: str = "epoch") -> Iterator[Number]:
    """Scores over training, from metrics.jsonl.

    Args:
      names: in metrics.jsonl, such as "val/top1" -> of the metric; all are shares but "loss".
      by: "epoch" or "step", what `at` counts.
    """
    at = 0.0
    for row in read_metrics(folder.metrics):
        at = row.get(by, at)  # scores have their step, and stand after the line that has the epoch, too
        for name, metric in names.items():
            if name in row:
                yield Number(metric, row[name], "nat" if name == "loss" else "share", at=at)


@dataclass(frozen=True)
class Values:
    """One metric of a study's rows, by seed.

    Args:
      by_seed: seed -> value; seeds without a value are left out.
      failed: notes of those, one each.
    """

    by_seed: dict[int | None, float]
    failed: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @cached_property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @cached_property
    def std(self) -> float | None:
        """Of a sample; None of one seed."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None


def values_of(
    rows: Sequence[Row], metric: str, *, model: str | None = None, data: str | None = None, at: float | None = None
) -> Values:
    """The values of a metric, a later row in place of an earlier one of the same seed."""
    chosen = [
        row
        for row in rows
        if row["metric"] == metric
        and (model is None or row["model"] == model)
        and (data is None or row["data"] == data)
        and (at is None or row.get("at") == at)
    ]
    found = {row["seed"]: row["value"] for row in chosen if row["value"] is not None}
    failed = {row["seed"]: row["note"] for row in chosen if row["value"] is None and row["seed"] not in found}
    return Values(found, tuple(f"seed {seed}: {note}" for seed, note in failed.items()))


def failures(rows: Sequence[Row]) -> tuple[Table, ...]:
    """The trainings that did not come to their end, and why; no table where all did."""
    failed = [row for row in rows if row["metric"] == "top1" and row["value"] is None]
    lines = tuple(
        (row["model"], row["data"], "–" if row["seed"] is None else f"{row['seed']}", row["note"] or "–")
        for row in failed
    )
    return (Table("Failed", ("model", "data", "seed", "why"), lines, 4),) if lines else ()


def percent(values: Values) -> str:
    """Mean and deviation in %: "81.20 ± 0.31"; a dash where there is none."""
    if not values.n:
        return "–"
    spread = "" if values.std is None else f" ± {100 * values.std:.2f}"
    return f"{100 * values.mean:.2f}{spread}"
