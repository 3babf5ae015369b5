"""Sweeps: what is tried, what chooses, and that nothing is computed twice."""

import json

import pytest

import mixonomy as mx
from mixonomy import sweeping, training
from mixonomy.cli.train import parse_sweep
from mixonomy.data import open_source, plan_splits
from mixonomy.progress import Console
from mixonomy.recipe import changed
from mixonomy.report import write_report
from mixonomy.runs import RunFolder
from mixonomy.sweeping import Trial, best_of, check_grid, edges, sweep
from mixonomy.training import train
from training_runs import TenLines, assert_same_weights, tiny

GRID = {"optim.lr": ("0.0001", "0.01")}


@pytest.fixture
def trained(monkeypatch):
    """The folders of the trainings that make steps, in order."""
    seen, original = [], training.set_up

    def watching(recipe, *others):
        seen.append(recipe.optim.lr)
        return original(recipe, *others)

    monkeypatch.setattr(training, "set_up", watching)
    return seen


def test_best_on_held_out_images_is_trained_on_all_of_them(tmp_path, trained):
    result = sweep(tiny(), GRID, tmp_path)
    trials = result["sweep"]["trials"]
    alone = [train(tiny(keep="last", optim={"lr": lr}), tmp_path / f"alone{lr}") for lr in (0.0001, 0.01)]
    assert [trial["score"] for trial in trials] == [one["val_top1"] for one in alone]
    best = max(trials, key=lambda trial: trial["score"])
    assert result["sweep"]["chosen"] == best["values"] != trials[1 - trials.index(best)]["values"]
    final = tiny(keep="last", data={"train_on_val": True}, optim={"lr": best["values"]["optim.lr"]})
    assert RunFolder(tmp_path).recipe() == final
    train(final, tmp_path / "by hand")
    assert_same_weights(tmp_path, tmp_path / "by hand")
    assert result["sweep"]["seconds"] == sum(trial["seconds"] for trial in trials)


def test_trials_never_see_the_test_images(tmp_path, capsys):
    sweep(tiny(), GRID, tmp_path, console=Console())
    assert capsys.readouterr().err.count("1,295 training and 143 held-out images, ") == 2
    held_out = plan_splits(open_source("digits"), 0.1).val
    assert held_out is not None
    for folder in (tmp_path / "sweep").iterdir():
        result = json.loads((folder / "result.json").read_text())
        assert (result["split"], result["n"], result["top1"]) == ("val", len(held_out), result["val_top1"])
    assert RunFolder(tmp_path).result()["n"] == len(open_source("digits").splits["test"])  # type: ignore[index]


def test_interrupted_sweep_goes_on_and_computes_nothing_twice(tmp_path, trained, monkeypatch):
    whole = sweep(tiny(), GRID, tmp_path / "whole")
    trained.clear()
    original = sweeping.train

    def dying(recipe, *others, **options):
        if recipe.optim.lr == 0.01 and options.get("is_trial"):
            raise KeyboardInterrupt
        return original(recipe, *others, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweeping, "train", dying)
        sweep(tiny(), GRID, tmp_path / "parts")
    assert trained == [0.0001]
    parts = sweep(tiny(), GRID, tmp_path / "parts")
    assert trained == [0.0001, 0.01, parts["sweep"]["chosen"]["optim.lr"]], "what was left, and the training on all"
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert [t["score"] for t in parts["sweep"]["trials"]] == [t["score"] for t in whole["sweep"]["trials"]]
    assert sweep(tiny(), GRID, tmp_path / "parts") == parts and len(trained) == 3


def test_finished_trial_keeps_its_score_and_no_weights(tmp_path):
    sweep(tiny(), GRID, tmp_path)
    trial = tmp_path / "sweep/optim.lr=0.01"
    assert not list(trial.rglob("*.safetensors")) and RunFolder(trial).result() is not None
    recipe = RunFolder(trial).recipe()
    for use in (lambda: train(recipe, trial), lambda: mx.load(trial), lambda: write_report(RunFolder(trial))):
        with pytest.raises(ValueError, match="is a trial of a sweep, which keeps its scores on held-out images"):
            use()


@pytest.mark.parametrize(
    ("recipe", "grid", "words"),
    [
        (tiny(), {"image_size": (8, 9)}, "9x9"),
        (tiny(), {"optim.warmup": ("1 steps", "11 steps")}, "the warm-up of 11 steps is longer than the training of"),
        (tiny(), {"freeze": ("1 steps", "10 steps")}, "freeze is 10 steps and the training 10"),
    ],
)
def test_value_that_fits_nothing_is_refused_before_any_training(recipe, grid, words, tmp_path, trained):
    with pytest.raises(ValueError, match=words):
        sweep(recipe, grid, tmp_path)
    assert not trained


def test_folder_of_another_run_is_refused_before_any_training(tmp_path, trained):
    train(tiny(), tmp_path / "plain")
    sweep(tiny(), GRID, tmp_path / "swept")
    train(tiny(), tmp_path / "trial/sweep/optim.lr=0.01")
    trained.clear()
    for folder, grid, words in (
        ("plain", GRID, "plain holds another run: .*data.train_on_val"),
        ("swept", {"optim.lr": (0.0001, 0.01, 0.02)}, "swept holds another run, of optim.lr=0.0001; optim.lr=0.01"),
        ("swept/sweep/optim.lr=0.01", GRID, "is a trial of a sweep"),
        ("trial", GRID, "optim.lr=0.01 holds another run: "),
    ):
        with pytest.raises(ValueError, match=words):
            sweep(tiny(), grid, tmp_path / folder)
    assert not trained


def test_value_that_diverges_is_a_result_and_not_tried_again(tmp_path, trained):
    grid = {"optim.lr": ("1e30", "0.01")}
    recipe = tiny(optim={"name": "sgd"})
    result = sweep(recipe, grid, tmp_path)
    first, second = result["sweep"]["trials"]
    assert first["score"] is None and "a lower --lr" in first["error"].lower() and second["score"] is not None
    assert "checkpoint" not in first["error"], "it is not kept"
    assert sweep(recipe, grid, tmp_path) == result and trained == [1e30, 0.01, 0.01]
    with pytest.raises(ValueError, match="no value of the sweep trained to its end; the first said: the "):
        sweep(recipe, {"optim.lr": ("1e30", "1e31")}, tmp_path / "other")


def test_several_fields_make_all_combinations():
    tried = check_grid(tiny(), {"optim.lr": (0.1, "0.2"), "augment.flip": ("true", "false"), "seed": ("3",)})
    assert [tuple(values.values()) for values, _ in tried] == [
        (0.1, True, 3), (0.1, False, 3), (0.2, True, 3), (0.2, False, 3)
    ]  # fmt: skip
    assert [(r.optim.lr, r.augment.flip, r.seed, r.keep) for _, r in tried][3] == (0.2, False, 3, "last")


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"optim.rate": (1, 2)}, "unknown field 'optim.rate'; "),
        ({"optim.layer_decy": (1, 2)}, "unknown field 'optim.layer_decy'; did you mean 'optim.layer_decay'"),
        ({"optim": (1, 2)}, "unknown field 'optim'"),
        ({"optim.lr": (0.1, "0.10")}, "tries optim.lr=0.1 twice"),
        ({"optim.lr": (0.1,)}, "a sweep compares two values or more"),
        ({"optim.lr": (0.1, "fast")}, "lr"),
        ({"data.val_share": (0.1, 0.2)}, "data.val_share cannot be swept: all trials need the same held-out images"),
        ({"optim.lr": (0.1, 0.2), "optim.momentum": (0.9,)}, "momentum has no effect"),
    ],
)
def test_grid_that_does_not_fit_is_one_sentence(grid, words):
    with pytest.raises(ValueError, match=words):
        check_grid(tiny(), grid)


def test_recipe_without_held_out_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="digits has no validation images here"):
        sweep(tiny(data={"val_share": 0.0}), GRID, tmp_path)
    with pytest.raises(ValueError, match="a sweep has no use for data.train_on_val: all trials need held-out"):
        sweep(tiny(data={"train_on_val": True}), GRID, tmp_path)
    with pytest.raises(ValueError, match="a sweep has no use for early_stop"):
        sweep(tiny(early_stop="1 epochs"), GRID, tmp_path)


def test_of_equal_scores_the_first_wins_and_an_edge_is_named():
    trials = [Trial({"optim.lr": lr}, score, 1.0) for lr, score in ((0.1, 0.5), (0.2, 0.7), (0.3, 0.7), (0.4, None))]
    assert best_of(trials) is trials[1]
    assert edges(trials[1], trials) == [] and edges(trials[0], trials) == ["optim.lr"]
    assert edges(trials[0], trials[:2]) == [], "of two each is an edge"


def test_options_name_fields_as_the_command_line_does():
    assert parse_sweep(["lr=0.1, 0.2", "optim.layer-decay=0.5,0.6"]) == {
        "optim.lr": ["0.1", "0.2"],
        "optim.layer_decay": ["0.5", "0.6"],
    }
    for texts, words in (
        (["lr"], "is not FIELD=VALUE"),
        (["lr=1,"], "is not FIELD"),
        (["lr=1", "optim.lr=2"], "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_sweep(texts)


def test_own_module_begins_each_training_anew_and_the_report_shows_the_sweep(tmp_path):
    run = mx.train(changed(tiny(), duration="4 steps"), tmp_path, model=TenLines(), sweep={"optim.lr": (1e-3, 1e-2)})
    page = (tmp_path / "report.html").read_text()
    assert "What was tried" in page and "optim.lr" in page
    assert "Nothing was held out" not in page and "Hold out validation images" not in page
    assert page.count("The images that could be held out were trained on too") == 2
    assert len(run.result["sweep"]["trials"]) == 2
