"""Training a recipe with several seeds: rows by seed, summary, failure, one seed per process."""

import statistics
import sys

import pytest

import recipes
import rows

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Calls the script with a very short digits recipe; returns its exit status and all rows so far."""

    def call(*arguments):
        paths = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "recipes.jsonl")]
        monkeypatch.setattr(sys, "argv", ["recipes.py", "digits", "--duration", "2 steps", *paths, *arguments])
        return recipes.main(), rows.read(tmp_path / "recipes.jsonl")

    return call


def values(found, metric, seed):
    return [row["value"] for row in found if row["metric"] == metric and row["seed"] == seed]


def test_two_seeds_give_their_rows_and_one_summary(run):
    status, found = run("--seeds", "0", "1")
    assert status == 0 and len(found) == 3 * len(recipes.UNITS)
    top1 = values(found, "top1", 0) + values(found, "top1", 1)
    [summary] = [row for row in found if row["metric"] == "top1" and row["seed"] is None]
    assert summary["value"] == pytest.approx(statistics.mean(top1))
    assert summary["spread"] == pytest.approx(statistics.stdev(top1))
    assert (summary["n"], summary["data"]) == (2, "digits") and summary["model"].startswith("mixer P=2 C=64")
    assert run("--seeds", "0", "1") == (0, found), "the same command again adds nothing"


def test_seeds_of_separate_processes_are_summarised_from_their_folders(run):
    assert run("--seeds", "0")[0] == 0
    status, found = run("--seeds", "2")
    assert status == 0 and all(row["seed"] in (0, 2) for row in found), "no summary of a single seed"
    status, found = run("--summarise")
    assert status == 0 and len(values(found, "top1", 0)) == 1
    [summary] = [row for row in found if row["metric"] == "top1" and row["seed"] is None]
    assert summary["n"] == 2


def test_a_failed_seed_keeps_a_row(run, monkeypatch):
    train = recipes.api.train

    def fails_for_seed_1(recipe, out, **options):
        if recipe.seed != 1:
            return train(recipe, out, **options)
        recipes.runs.RunFolder(out).start(recipes.runs.RunFolder(first).info())
        raise ValueError("the loss became nan at step 1")

    _, found = run("--seeds", "0")
    first = next((recipes.Path(sys.argv[5])).iterdir())
    monkeypatch.setattr(recipes.api, "train", fails_for_seed_1)
    status, found = run("--seeds", "0", "1")
    assert status == 1
    [failed] = [row for row in found if row["seed"] == 1]
    assert failed["value"] is None and "the loss became nan" in failed["note"]
    [summary] = [row for row in found if row["metric"] == "top1" and row["seed"] is None]
    assert (summary["n"], summary["note"]) == (1, "no result from seed 1")


def test_a_run_that_cannot_start_is_an_error_and_no_row(run, capsys):
    status, found = run("--summarise")
    assert (status, found) == (1, []) and "there is no run of digits" in capsys.readouterr().err
