"""Studies that train: what runs, what is kept, and that rows alone give the pages."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mixonomy import training
from mixonomy.experiment import Runtime
from mixonomy.recipe import changed
from mixonomy.report.study_page import Found, Table
from mixonomy.rows import read
from mixonomy.runs import RunFolder
from mixonomy.stopping import Interrupted
from mixonomy.studies import study as running
from mixonomy.studies.study import (
    Number,
    Planned,
    Study,
    curve,
    failures,
    percent,
    run,
    values_of,
    write_results,
)
from mixonomy.sweeping import remembering_failure
from mixonomy.training import Diverged
from training_runs import TenLines, tiny


def found(rows):
    lines = tuple((row["model"], f"{row['value']}") for row in rows if row["metric"] == "top1")
    return Found("A study", ("One sentence.", "Another."), tables=(Table("Scores", ("model", "top-1"), lines),))


def study(**changes) -> Study:
    return Study("try", (Planned("mixer", "digits", tiny(), **changes),), found)


def with_seeds(planned: Planned, seeds: tuple[int, ...]) -> tuple[Planned, ...]:
    return tuple(replace(planned, recipe=changed(planned.recipe, seed=seed)) for seed in seeds)


@pytest.fixture
def started(monkeypatch):
    """The seeds of the trainings that are set up, in order."""
    seen, original = [], training.set_up

    def watching(recipe, *others):
        seen.append(recipe.seed)
        return original(recipe, *others)

    monkeypatch.setattr(training, "set_up", watching)
    return seen


@pytest.mark.slow
def test_rows_have_what_was_scored_and_nothing_is_trained_twice(tmp_path, started):
    planned = with_seeds(Planned("mixer", "digits", tiny()), (0, 3))
    two = Study("try", planned, found)
    rows = run(two, tmp_path, command="mixonomy study try")
    assert started == [0, 3]
    result = training.train(planned[1].recipe, tmp_path / planned[1].folder)
    values = values_of(rows, "top1", model="mixer", data="digits")
    assert values.by_seed[3] == result["top1"] and values.n == 2 and set(values.by_seed) == {0, 3}
    assert {row["command"] for row in rows} == {"mixonomy study try"} and read(tmp_path / "rows.jsonl") == rows
    page = (tmp_path / "try.html").read_bytes()
    assert run(two, tmp_path) == rows and started == [0, 3], "what is finished is only read"
    write_results(two, tmp_path / "again", read(tmp_path / "rows.jsonl"))
    assert (tmp_path / "again/try.html").read_bytes() == page
    assert (tmp_path / "again/rows.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()


def test_what_else_is_measured_is_measured_once_and_kept(tmp_path):
    calls = []

    def measure(finished):
        calls.append(finished.model()(torch.zeros(1, 1, 8, 8)).shape)
        yield Number("extra", 0.25, "share", at=1.5)

    (extra,) = [row for row in run(study(measure=measure), tmp_path) if row["metric"] == "extra"]
    assert (extra["value"], extra["at"], extra["seed"]) == (0.25, 1.5, 0)
    run(study(measure=measure), tmp_path)
    assert calls == [(1, 10)]


def test_a_module_of_the_study_starts_from_the_seed(tmp_path):
    def build(num_classes, channels):
        assert (num_classes, channels) == (10, 1)
        return TenLines()

    planned = with_seeds(Planned("mine", "digits", tiny(duration="1 steps", optim={"lr": 1e-9}), build), (0, 1, 0))
    with pytest.raises(ValueError, match="plans runs/mine-on-digits/seed0 twice"):
        run(Study("try", planned, found), tmp_path)
    rows = run(Study("try", planned[:2], found), tmp_path)
    params = sum(p.numel() for p in TenLines().parameters())
    assert values_of(rows, "params").by_seed == {0: params, 1: params}
    torch.manual_seed(1)
    expected = TenLines().conv.weight
    from mixonomy.loading import load

    trained = load(tmp_path / planned[1].folder, model=TenLines())
    torch.testing.assert_close(trained.conv.weight, expected, atol=1e-7, rtol=0)


def test_a_training_that_diverges_has_a_row_and_stops_nothing(tmp_path, started):
    bad = changed(tiny(), optim={"lr": 1e30, "name": "sgd", "warmup": "0 steps"})
    both = Study("try", (Planned("bad", "digits", bad), Planned("good", "digits", tiny())), found)
    for _ in range(2):
        rows = run(both, tmp_path)
        (failed,) = [row for row in rows if row["model"] == "bad"]
        assert failed["value"] is None and "step" in failed["note"] and failed["n"] == 0
        assert values_of(rows, "top1", model="good").n == 1
    assert started == [0, 0], "what diverged is not tried again"
    assert percent(values_of(rows, "top1", model="bad")) == "–"
    (table,) = failures(rows)
    assert table.lines == (("bad", "digits", "0", failed["note"]),) and failures(rows[1:]) == ()


def test_what_another_recipe_came_to_is_not_taken_for_a_failure(tmp_path):
    bad = {"lr": 1e30, "name": "sgd", "warmup": "0 steps"}
    run(Study("try", (Planned("mixer", "digits", changed(tiny(), optim=bad)),), found), tmp_path)
    failure = tmp_path / "runs/mixer-on-digits/seed0/failed.json"
    kept = json.loads(failure.read_text())
    assert kept["seconds"] > 0 and "step" in kept["reason"]
    for content in (kept, {"reason": kept["reason"]}):  # the second as earlier versions wrote it
        failure.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="seed0 holds another run: .*optim.lr"):
            run(study(), tmp_path)


def test_a_sweep_of_other_values_than_those_that_diverged_is_refused(tmp_path):
    sgd = changed(tiny(), optim={"name": "sgd", "warmup": "0 steps"})
    with pytest.raises(Diverged), remembering_failure(tmp_path, sgd, {"optim.lr": (1e30, 1e31)}):
        raise Diverged("no value trained to its end", seconds=3.0)
    with pytest.raises(Diverged) as again, remembering_failure(tmp_path, sgd, {"optim.lr": (1e30, 1e31)}):
        pass
    assert again.value.seconds == 3.0
    for grid in ({"optim.lr": (0.1, 0.2)}, None):
        with pytest.raises(ValueError, match="holds another sweep"), remembering_failure(tmp_path, sgd, grid):
            pass


def test_what_starts_from_a_training_that_diverged_has_a_row_with_the_device_that_auto_stands_for(
    tmp_path, monkeypatch
):
    bad = Planned("bad", "digits", changed(tiny(), optim={"lr": 1e30, "name": "sgd", "warmup": "0 steps"}))
    tuned = Planned("tuned", "digits", tiny(), start=bad)
    here = running.environment()
    here["machine"]["gpu"] = "a large GPU"
    monkeypatch.setattr(running, "environment", lambda: here)
    rows = run(Study("try", (bad, tuned), found), tmp_path)
    assert [(row["model"], row["value"]) for row in rows] == [("bad", None), ("tuned", None)]
    assert rows[1]["note"] == "it starts from bad, which was not trained to its end"
    monkeypatch.setattr(running, "resolved", lambda runtime: Runtime(device="cuda"))
    (row,) = run(Study("try", (tuned,), found), tmp_path)
    assert row["device"].startswith("a large GPU, torch")


def test_a_study_that_was_moved_is_still_read(tmp_path, monkeypatch):
    first = Planned("first", "digits", tiny(duration="2 steps"))
    both = Study("try", (first, Planned("tuned", "digits", tiny(duration="2 steps"), start=first)), found)
    rows = run(both, tmp_path / "here")
    assert RunFolder(tmp_path / "here/runs/tuned-on-digits/seed0").recipe().init == str(
        tmp_path / "here/runs/first-on-digits/seed0"
    )
    (tmp_path / "here").rename(tmp_path / "there")
    assert run(both, tmp_path / "there") == rows
    monkeypatch.chdir(tmp_path)
    assert run(both, "there") == rows


@pytest.mark.parametrize("full", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_a_model_for_which_there_is_no_memory_has_a_row_and_stops_nothing(tmp_path, monkeypatch, full):
    original = running.train

    def large_model(recipe, *others, **options):
        if recipe.seed == 0:
            raise full
        return original(recipe, *others, **options)

    monkeypatch.setattr(running, "train", large_model)
    two = Study("try", with_seeds(Planned("mixer", "digits", tiny()), (0, 1)), found)
    values = values_of(run(two, tmp_path), "top1")
    assert values.failed == ("seed 0: the memory is full",) and values.n == 1
    monkeypatch.setattr(running, "train", original)
    assert values_of(run(two, tmp_path), "top1").n == 2, "a full memory is tried again"
    monkeypatch.setattr(running, "train", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        run(two, tmp_path / "other")


def test_an_interrupted_study_leaves_rows_and_page_of_what_was_finished(tmp_path, monkeypatch):
    original, both = running.train, with_seeds(Planned("mixer", "digits", tiny()), (0, 1))

    def until_ctrl_c(recipe, *others, **options):
        if recipe.seed == 1:
            raise Interrupted("stopped at step 5; the same command goes on")
        return original(recipe, *others, **options)

    monkeypatch.setattr(running, "train", until_ctrl_c)
    with pytest.raises(Interrupted):
        run(Study("try", both, found), tmp_path)
    assert {row["seed"] for row in read(tmp_path / "rows.jsonl")} == {0} and (tmp_path / "try.html").is_file()
    monkeypatch.setattr(running, "train", original)
    assert {row["seed"] for row in run(Study("try", both, found), tmp_path)} == {0, 1}


@pytest.mark.parametrize(("number", "is_preempted"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_between_two_trainings_leaves_what_was_finished(tmp_path, monkeypatch, number, is_preempted):
    original, both = running._built, with_seeds(Planned("mixer", "digits", tiny()), (0, 1))

    def signalled(planned, opened):
        if planned.recipe.seed == 1:
            signal.raise_signal(number)
        return original(planned, opened)

    monkeypatch.setattr(running, "_built", signalled)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="the same command goes on") as stop:
        run(Study("try", both, found), tmp_path)
    assert stop.value.is_preempted == is_preempted and signal.getsignal(number) == before
    assert {row["seed"] for row in read(tmp_path / "rows.jsonl")} == {0} and (tmp_path / "try.html").is_file()
    with pytest.raises(Interrupted):  # nothing is finished: what is there stays
        run(Study("try", both[1:], found), tmp_path)
    assert {row["seed"] for row in read(tmp_path / "rows.jsonl")} == {0}


def test_rows_of_another_study_are_not_replaced(tmp_path):
    run(study(), tmp_path)
    kept = (tmp_path / "rows.jsonl").read_bytes()
    other = Study("another", (), found)
    for attempt in (lambda: run(other, tmp_path), lambda: write_results(other, tmp_path, [])):
        with pytest.raises(ValueError, match="holds the rows of the study try; give another --out"):
            attempt()
    assert (tmp_path / "rows.jsonl").read_bytes() == kept and not (tmp_path / "another.html").exists()


def test_another_recipe_under_the_same_name_is_refused(tmp_path):
    run(study(), tmp_path)
    other = Study("try", (Planned("mixer", "digits", tiny(duration="11 steps")),), found)
    with pytest.raises(ValueError, match="holds another run: duration"):
        run(other, tmp_path)


def test_images_with_several_labels_are_refused(tmp_path, monkeypatch):
    opened = SimpleNamespace(source=SimpleNamespace(is_multilabel=True, name="tags"))
    monkeypatch.setattr("mixonomy.studies.study.open_data", lambda *_: opened)
    with pytest.raises(ValueError, match="tags has images with several labels"):
        run(study(), tmp_path)


def test_curves_have_the_epoch_of_each_score(tmp_path):
    (planned,) = study().planned
    run(study(), tmp_path)
    points = list(curve(RunFolder(tmp_path / planned.folder), {"val/top1": "val_top1"}))
    assert [point.at for point in points] == [5 * 32 / 1295, 10 * 32 / 1295]
    assert all(point.metric == "val_top1" and point.unit == "share" for point in points)
