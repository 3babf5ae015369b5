"""The comparison: lengths, costs that are counted, and words that follow from the rows."""

import json
import math
from dataclasses import replace

import pytest
import torch

from mixonomy.bench.cost import Cost
from mixonomy.cli import main
from mixonomy.experiment import Runtime, open_data
from mixonomy.progress import Console
from mixonomy.recipe import changed
from mixonomy.rows import Origin, make_row, read
from mixonomy.runs import environment
from mixonomy.studies import compare as comparing
from mixonomy.studies.compared import EDGE, EPOCHS, SECONDS, TARGET, entries, found_of, front, level_with
from mixonomy.studies.contenders import contender
from mixonomy.studies.pace import step_seconds
from mixonomy.studies.study import Work
from mixonomy.train_state import TrainState
from mixonomy.training import Diverged, train

HERE = Origin("a CPU, 2 of 2 cores, torch 2", None, "mixonomy study compare", "2026-01-01")


def rows_of(scores, *, setting=SECONDS, speeds=None):
    """Rows as a comparison makes them: model -> accuracies by seed, None of one that diverged; model -> images/s."""
    found = []
    for model, values in scores.items():
        about = {"study": "compare", "model": model}
        speed = (speeds or {}).get(model, 100.0)
        for metric, value in (("predicts_per_s", speed), ("flops", 1e9), ("lr", 0.001), ("sweep_seconds", 3.0)):
            found.append(make_row(HERE, data="toys", metric=metric, value=value, unit="", **about))
        for seed, value in enumerate(values):
            place = {"data": f"toys, {setting}", "unit": "", "seed": seed}
            if value is None:
                found.append(make_row(HERE, metric="top1", value=None, n=0, note="diverged", **place, **about))
                continue
            for metric, number in (("top1", value), ("seconds", 60.0), ("params", 1e6), ("epochs", 5.0)):
                found.append(make_row(HERE, metric=metric, value=number, **place, **about))
    return found


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("10min", 600.0, "seconds"),
        ("90s", 90.0, "seconds"),
        ("1.5 h", 5400.0, "seconds"),
        ("20", 20.0, "epochs"),
        ("2.5 epochs", 2.5, "epochs"),
    ],
)
def test_budget_is_a_time_or_epochs(text, value, unit):
    assert comparing.Budget.of(text) == comparing.Budget(value, unit)


@pytest.mark.parametrize("text", ["", "ten", "10 days", "0", "-3s", "nan", "inf"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match="give a time such as 90s, 10min or 2h, or a number of epochs"):
        comparing.Budget.of(text)


def test_lengths_follow_from_the_budget_and_the_speed_of_each_model():
    by_time = comparing.lengths(comparing.Budget(60.0, "seconds"), {"fast": 0.1, "slow": 0.4}, 100.0)
    assert by_time == {"fast": {SECONDS: 600, EPOCHS: 150}, "slow": {SECONDS: 150, EPOCHS: 150}}
    by_epochs = comparing.lengths(comparing.Budget(2.0, "epochs"), {"fast": 0.1, "slow": 0.4}, 100.0)
    assert by_epochs == {"fast": {SECONDS: 200, EPOCHS: 200}, "slow": {SECONDS: 50, EPOCHS: 200}}
    alike = comparing.lengths(comparing.Budget(2.0, "epochs"), {"fast": 0.1, "as fast": 0.102}, 100.0)
    assert alike["as fast"] == {SECONDS: 200, EPOCHS: 200}


def test_small_images_get_small_patches():
    assert contender("mixer-s/16", 32).model.patch_size == 4 and "patches of 4" in contender("mixer-s/16", 32).note
    assert contender("mixer-s/16", 224).model.patch_size is None and contender("mixer-s/16", 227).model
    with pytest.raises(ValueError, match="31 pixels a side cannot be cut .* use 32 pixels"):
        contender("mixer-small", 31)
    assert contender("convmixer-small", 32).model.patch_size == 2 and contender("vit-small", 64).model.patch_size == 8
    assert contender("mixer-small", 28).model.patch_size == 4 and contender("convmixer-small", 28).model.patch_size == 2
    assert (
        contender("resnet-small", 32).model.stem == "small" and contender("resnet-small", 64).model.stem == "imagenet"
    )
    assert contender("mixer-small", 8).model.num_blocks == 3
    assert contender("runs/x", 32).init == "runs/x" and contender("timm:resnet50.a1_in1k", 32).init is not None
    assert contender("timm:resnet18", 32).model.name == "timm:resnet18"


def test_a_run_folder_may_be_called_like_a_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mixer-cifar/run1", "mixer-mine"):
        with pytest.raises(ValueError, match="unknown model|did you mean"):
            contender(name, 32)
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        assert contender(name, 32).init == name


def test_learning_rates_are_chosen_on_enough_images_and_nothing_is_mixed():
    base = comparing.base_recipe("digits", None)  # 1,437 images
    assert base.data.val_share == comparing.MOST_CHOOSING and base.augment.cutmix_prob == base.augment.mixup == 0.0


def test_published_weights_are_found_by_the_name_of_a_model():
    assert contender("mixer-b/16", 224, is_pretrained=True).init == "timm:mixer_b16_224.goog_in21k"
    assert contender("timm:resnet18", 224, is_pretrained=True).init.startswith("timm:resnet18.")
    for name, complaint in (("mixer-h/14", "no published weights"), ("mixer-small", "has no published weights")):
        with pytest.raises(ValueError, match=complaint):
            contender(name, 224, is_pretrained=True)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("mixer-x/16", "did you mean"), ("mixer", "use mixer-small"), ("timm:resnet5000", "timm has no model")],
)
def test_unknown_contenders_are_refused(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        contender(name, 32)


def test_the_most_accurate_is_recommended_and_what_is_level_with_it_is_named():
    rows = rows_of({"mixer": (0.80, 0.81, 0.82), "vit": (0.79, 0.82, 0.80), "cnn": (0.60, 0.61, 0.62)})
    found = entries(rows, "toys", SECONDS)
    assert [entry.model for entry in found] == ["mixer", "vit", "cnn"]
    assert [entry.model for entry in level_with(found[0], found)] == ["vit"]
    said = found_of(rows).summary
    assert said[0].startswith("Take mixer: after 60 s of training") and "81.00 ± 1.00 % (3 seeds)" in said[0]
    assert "Not clearly worse" in said[1] and "vit (-0.67 [" in said[1] and "cnn" not in said[1]
    assert found[0].hours == pytest.approx(2 * 60 / 3600), "two cores for a minute"


def test_rows_of_two_budgets_and_of_data_with_a_comma_are_kept_apart():
    rows = []
    for data, scores in (("a, b (2 s)", {"x": (0.5,), "y": (0.4,)}), ("a, b (3 s)", {"x": (0.5,), "y": (0.6,)})):
        rows += [{**row, "data": row["data"].replace("toys", data)} for row in rows_of(scores)]
    assert found_of(rows).facts["recommended"] == {"a, b (2 s)": "x", "a, b (3 s)": "y"}
    assert str(comparing.Budget.of("10min")) == "600 s" and str(comparing.Budget.of("2.5")) == "2.5 epochs"


def test_a_clear_winner_and_a_single_seed_are_called_what_they_are():
    clear = found_of(rows_of({"mixer": (0.80, 0.81, 0.82), "cnn": (0.60, 0.61, 0.62)})).summary
    assert "All others are clearly worse: the next is cnn, at -20.00" in clear[1]
    single = found_of(rows_of({"mixer": (0.80,), "cnn": (0.60,)})).summary
    assert "With one seed there is no spread" in single[1]


def test_it_is_said_what_a_mixer_beats_and_what_beats_it():
    scores = {"mixer-small": (0.50, 0.51, 0.52), "vit": (0.40, 0.41, 0.42), "cnn": (0.60, 0.61, 0.62)}
    said = found_of(rows_of(scores | {"convmixer-small": (0.49, 0.53, 0.50)})).summary
    (standing,) = [text for text in said if "mixer-small is" in text]
    assert standing.startswith("mixer-small is 2nd of 4, in points: ahead of vit (+10.00 [")
    assert (
        "; behind cnn (-10.00 [" in standing and "not clearly ahead of or behind convmixer-small (+0.33 [" in standing
    )
    (standing,) = [t for t in found_of(rows_of({"mixer-s/16": (0.5,), "cnn": (0.6,)})).summary if "mixer-s/16 is" in t]
    assert standing.endswith("of one seed, against cnn (-10.00).")


def test_a_learning_rate_at_the_edge_is_said():
    rows = rows_of({"mixer": (0.50,), "cnn": (0.60,)})
    for row in rows:
        if row["metric"] == "lr":
            row["note"] = "0.001: 50 %" + ("; at the edge of what was tried" if row["model"] == "cnn" else "")
    assert any(text.endswith("others may serve better, for cnn (0.001).") for text in found_of(rows).summary)


def test_front_holds_what_no_other_beats_in_both():
    speeds = {"best": 50.0, "fast": 400.0, "beaten": 40.0, "middle": 100.0}
    scores = {"best": (0.9,), "fast": (0.6,), "beaten": (0.8,), "middle": (0.85,)}
    found = entries(rows_of(scores, speeds=speeds), "toys", SECONDS)
    assert [entry.model for entry in front(found, lambda entry: -entry.predicts_per_s)] == ["fast", "middle", "best"]
    said = found_of(rows_of(scores, speeds=speeds)).summary
    assert "middle answers 2.0 times as fast; its accuracy differs by -5.00 points, 1 seed." in said


def test_a_model_that_failed_with_most_seeds_is_compared_over_those_that_both_have():
    said = found_of(rows_of({"a": (0.90, 0.91, 0.92), "b": (0.20, None, None)})).summary
    assert said[0].startswith("Take a: ") and "(3 seeds)" in said[0]
    assert "two seeds or more that both were trained with are needed: b (-70.00 points, 1 seed)." in said[1]
    assert said[2].endswith("placed behind any that was: b (20.00 %, 1 of 3 seeds).")
    assert not any("Not clearly worse" in text or "clearly worse" in text for text in said)


def test_a_model_that_failed_with_most_seeds_is_not_recommended_over_one_that_failed_with_none():
    scores = {"a": (0.90, None, None), "b": (0.80, 0.81, 0.82), "c": (0.60, 0.61, 0.62)}
    for setting in (SECONDS, EPOCHS):
        found = found_of(rows_of(scores, setting=setting))
        assert "b" in found.summary[0].split(":")[0] and not any("--seeds 0 1 2" in text for text in found.summary)
        assert (
            "1 other of 2 is clearly worse: the next is c, at -20.00 [-20.00, -20.00] points, 3 seeds." in found.summary
        )
        assert any("both were trained with are needed: a (+10.00 points, 1 seed)." in text for text in found.summary)
        assert any("behind any that was: a (90.00 %, 1 of 3 seeds)." in text for text in found.summary)
        assert [line[0] for line in found.tables[0].lines] == ["b", "c", "a"]


def counted(rows, images):
    """The same with the number of test images of each training."""
    tops = [row for row in rows if row["metric"] == "top1"]
    return [*rows, *({**row, "metric": "test_images", "value": images, "unit": "images"} for row in tops)]


def test_what_so_few_test_images_cannot_tell_is_not_called_clear():
    rows = rows_of({"mixer-small": (0.875, 0.85, 0.90), "cnn": (0.85, 0.825, 0.875)})  # an image of 40 less each time
    assert any("clearly worse" in text for text in found_of(rows).summary[:2]), "by seeds alone"
    few = found_of(counted(rows, 40)).summary
    assert few[1] == "Not clearly worse: cnn (-2.50 [-2.50, -2.50] points, 3 seeds)."
    assert any("not clearly ahead of or behind cnn" in text for text in few)
    # Of 40 images: 1.96 * sqrt((0.875 * 0.15 + 0.85 * 0.125 - 0.025^2) / 40) = 15.1 points.
    assert any("on the same 40 test images; as many others would move a difference by up to 15.1" in t for t in few)
    assert any("All others are clearly worse" in text for text in found_of(counted(rows, 40_000)).summary)


def test_a_better_model_that_failed_once_is_said_to_be_better_where_it_was_trained():
    rows = rows_of({"a": (0.90, 0.92, None), "b": (0.80, 0.81, 0.82)}, speeds={"a": 400.0, "b": 100.0})
    found = found_of(rows)
    assert found.summary[0].startswith("Take b: ")
    assert any(t.startswith("Better with the seeds that both were trained with: a (+10.50 [") for t in found.summary)
    assert not any("Not clearly worse" in text or "a answers" in text for text in found.summary)


def test_who_is_ahead_at_equal_epochs_has_its_interval_and_its_number_of_seeds():
    single = found_of(rows_of({"mixer": (0.80,), "cnn": (0.60,)}, setting=EPOCHS)).summary
    assert "has the highest test accuracy, 80.00 % (1 seed)" in single[0] and "may be chance" in single[1]
    rows = rows_of({"mixer": (0.80, 0.81), "cnn": (0.79, 0.81)}, setting=EPOCHS)
    for row in rows:
        if (row["metric"], row["model"]) == ("seconds", "cnn"):
            row["value"] = 30.0
    said = found_of(rows).summary
    assert "cnn, the fastest, takes 30 s, its accuracy differs by -0.50 [-6.85, +5.85] points, 2 seeds." in said[0]
    assert said[1].startswith("Not clearly worse")


def test_seconds_that_are_not_those_planned_are_said():
    rows = rows_of({"fast": (0.5,), "slow": (0.6,)})
    for model in ("fast", "slow"):
        planned = {"data": f"toys, {SECONDS}", "metric": TARGET, "value": 57.0, "unit": "s"}
        rows.append(make_row(HERE, study="compare", model=model, **planned))
    assert not any("not equal" in text or "not quite" in text for text in found_of(rows).summary)
    for row in rows:
        if row["metric"] == "seconds":
            row["value"] = {"fast": 54.0, "slow": 61.0}[row["model"]]
    (said,) = [text for text in found_of(rows).summary if "not quite equal" in text]
    assert said.endswith("57.0 s were planned, and it took fast 54.0 s and slow 61.0 s.")
    for row in rows:
        if (row["metric"], row["model"]) == ("seconds", "slow"):
            row["value"] = 114.0
    (said,) = [text for text in found_of(rows).summary if "not equal" in text]
    assert "57.0 s were planned for each training" in said and said.endswith("it took slow 114.0 s (+100 %).")


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (0.003, (0.001, 0.003, 0.01)),
        (0.03, (0.001, 0.003, 0.01, 0.03, 0.09)),
        (1.0, (0.001, 0.003, 0.01, 0.03, 0.09)),
        (0.0001, (0.001, 0.003, 0.01, 0.0003, 9e-05)),
    ],
)
def test_rates_beyond_the_best_are_tried_while_it_is_at_the_edge(asked, tmp_path, monkeypatch, best, tried):
    rates = []

    def train(recipe, folder, **options):
        rates.append(recipe.optim.lr)
        return {"val_top1": 1 - abs(math.log10(recipe.optim.lr / best)) / 10, "seconds": 1.0}

    monkeypatch.setattr(comparing, "train", train)
    plan = {"trial_steps": {"mixer-small": 10}}
    work = Work(tmp_path, Runtime(), Console(quiet=True), "")
    monkeypatch.setattr(work, "data_of", lambda recipe: None)
    chosen = comparing._chosen(asked, asked.contenders[0], plan, work)
    assert tuple(rates) == tried and chosen.seconds == len(tried)
    assert chosen.note.endswith(EDGE) == (best in (1.0, 0.0001))
    rates.clear()
    comparing._chosen(replace(asked, is_fixed=True), asked.contenders[0], plan, work)
    assert tuple(rates) == (0.001, 0.003, 0.01), "those of the user and no others"


def test_lengths_follow_from_the_speed_of_the_trials_once(asked, tmp_path):
    work = Work(tmp_path, Runtime(), Console(quiet=True), "")
    plan = {"trial_steps": {"fast": 5, "slow": 5, "diverged": 5}, "num_images": 320, "batch_size": 32}
    chosen = {
        "fast": comparing._Chosen(0.1, 0.0, 0.001, ""),
        "slow": comparing._Chosen(0.1, 0.0, 0.004, ""),
        "diverged": comparing._Chosen(None, 0.0, None, "it diverged"),
    }
    found = comparing._with_lengths(asked, plan, chosen, work)
    assert found["steps"] == {"fast": {SECONDS: 200, EPOCHS: 50}, "slow": {SECONDS: 50, EPOCHS: 50}}
    assert found[TARGET] == 0.2 and json.loads((tmp_path / "plan.json").read_text()) == found
    chosen["fast"] = comparing._Chosen(0.1, 0.0, 0.002, "")
    assert comparing._with_lengths(asked, found, chosen, work) == found, "seeds may be added later"
    chosen["diverged"] = comparing._Chosen(0.1, 0.0, 0.008, "there was memory for it in a later command")
    found = comparing._with_lengths(asked, found, chosen, work)
    assert found["steps"]["fast"] == {SECONDS: 200, EPOCHS: 50} and found["steps"]["slow"] == {SECONDS: 50, EPOCHS: 50}
    assert found["steps"]["diverged"] == {SECONDS: 25, EPOCHS: 50} and found[TARGET] == 0.2
    del chosen["diverged"]
    in_epochs = replace(asked, budget=comparing.Budget(3.0, "epochs"))
    found = comparing._with_lengths(in_epochs, plan, chosen, work)
    assert found["steps"]["slow"] == {SECONDS: 15, EPOCHS: 30} and found[TARGET] == pytest.approx(0.06)


@pytest.mark.parametrize(("seeds", "lrs", "what"), [((0, 1, 0), (0.1,), "seed 0"), ((0,), (0.1, 0.1), "rate 0.1")])
def test_what_is_given_twice_is_refused(asked, seeds, lrs, what):
    with pytest.raises(ValueError, match=f"{what} is given twice; give each once"):
        replace(asked, seeds=seeds, lrs=lrs)


@pytest.fixture
def asked():
    base = changed(comparing.base_recipe("digits", None), batch_size=32)
    return comparing.Comparison(
        base, (contender("mixer-small", 8),), comparing.Budget(0.2, "seconds"), (0,), (0.001, 0.003, 0.01)
    )


def test_a_step_is_timed_with_its_own_images_and_the_recipe_of_the_training(asked, monkeypatch):
    seen = []

    def step(state, batch, number):
        seen.append((len(batch.labels), state.recipe.optim.clip))
        return torch.zeros(())

    monkeypatch.setattr(TrainState, "step", step)
    recipe, runtime = asked.recipe(asked.contenders[0]), Runtime(device="cpu")
    assert step_seconds(recipe, runtime, open_data(recipe, runtime), turns=2, turn_s=0.0) > 0
    assert seen == [(32, 1.0)] * 9, "three turns of three steps, the first of them for nothing"


def test_seconds_of_a_learning_rate_that_diverges_are_counted_and_it_is_named(asked, tmp_path, monkeypatch):
    def train(recipe, folder, **options):
        if recipe.optim.lr == 0.01:
            raise Diverged("the loss became nan at step 7", seconds=2.0)
        return {"val_top1": 0.5 + recipe.optim.lr, "seconds": 1.0}

    monkeypatch.setattr(comparing, "train", train)
    plan = {"trial_steps": {"mixer-small": 10}}
    work = Work(tmp_path, Runtime(), Console(quiet=True), "")
    monkeypatch.setattr(work, "data_of", lambda recipe: None)
    for _ in range(2):  # the second time from failed.json
        chosen = comparing._chosen(asked, asked.contenders[0], plan, work)
        assert (chosen.lr, chosen.seconds, chosen.step_s) == (0.003, 4.0, 0.1)
        assert chosen.note == "validation top-1 after 10 steps: 0.001: 50.10 %, 0.003: 50.30 %, 0.01: diverged"


def test_costs_are_kept_as_they_are_measured_but_not_why_a_model_did_not_run(asked, tmp_path, monkeypatch):
    measured = []

    def cost(case, device):
        measured.append(case.model["name"])
        if case.model["name"] == "vit" and len(measured) < 5:
            raise ValueError("no network")
        if case.model["name"] == "convmixer" and len(measured) < 5:
            raise KeyboardInterrupt
        return fixed_cost(case, device)

    monkeypatch.setattr(comparing, "in_a_process", cost)
    monkeypatch.setattr(comparing, "step_seconds", lambda *others, **options: 0.1)
    three = replace(asked, contenders=tuple(contender(f"{name}-small", 8) for name in ("mixer", "vit", "convmixer")))
    work = Work(tmp_path, Runtime(device="cpu"), Console(quiet=True), "")
    with pytest.raises(KeyboardInterrupt):
        comparing._plan(three, work)
    assert measured == ["mixer", "mixer", "vit", "convmixer"]
    plan = comparing._plan(three, work)
    assert measured[4:] == ["vit", "vit", "convmixer", "convmixer"] and set(plan["trial_steps"]) == set(plan["costs"])


@pytest.mark.parametrize(("options", "what"), [({"lrs": (0.0,)}, "lr"), ({"seeds": (-1,)}, "seed")])
def test_a_wrong_rate_or_seed_is_said_before_anything_is_measured(asked, tmp_path, monkeypatch, options, what):
    monkeypatch.setattr(comparing, "_plan", lambda *others: pytest.fail("it is measured"))
    with pytest.raises(ValueError, match=what):
        comparing.compare(replace(asked, **options), tmp_path)


def test_rows_name_the_device_that_auto_stands_for(asked, tmp_path, monkeypatch):
    here = environment()
    here["machine"]["gpu"] = "a large GPU"
    plan = {"environment": here, "trial_steps": {}, "costs": {"mixer-small": {"error": "no memory"}}}
    monkeypatch.setattr(comparing, "_plan", lambda *others: plan)
    monkeypatch.setattr("mixonomy.devices.resolve_device", lambda name: torch.device("cuda"))
    (row,) = comparing.compare(asked, tmp_path)
    assert row["device"].startswith("a large GPU, torch")


def test_a_model_whose_every_trial_diverges_has_a_row_that_says_why(asked, tmp_path, monkeypatch):
    def train(recipe, folder, **options):
        raise Diverged("the loss became nan at step 7", seconds=2.0)

    monkeypatch.setattr(comparing, "in_a_process", fixed_cost)
    monkeypatch.setattr(comparing, "step_seconds", lambda *others, **options: 0.1)
    monkeypatch.setattr(comparing, "train", train)
    rows = comparing.compare(asked, tmp_path, runtime=Runtime(device="cpu"))
    assert {row["metric"]: row["value"] for row in rows}["sweep_seconds"] == 6.0
    (failed,) = [row for row in rows if row["metric"] == "top1"]
    assert failed["value"] is None and failed["note"].endswith("the loss became nan at step 7")


def test_lengths_measured_on_another_machine_are_refused(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "in_a_process", fixed_cost)
    monkeypatch.setattr(comparing, "step_seconds", lambda *others, **options: 0.1)
    work = Work(tmp_path, Runtime(device="cpu"), Console(quiet=True), "")
    plan = comparing._plan(asked, work)
    monkeypatch.setattr(comparing, "step_seconds", lambda *others, **options: pytest.fail("it is timed again"))
    assert comparing._plan(asked, work) == plan
    chosen = {"mixer-small": comparing._Chosen(0.1, 0.0, 0.01, "")}
    whole = comparing._with_lengths(asked, plan, chosen, work)
    assert comparing._plan(asked, work) == whole and whole["steps"]["mixer-small"][SECONDS] == 20
    monkeypatch.setattr(comparing, "machine", lambda *others: "another")
    with pytest.raises(ValueError, match="speeds of another machine; give another --out, or the same .* cores, torch"):
        comparing._plan(asked, work)


def fixed_cost(case, device):
    slow = 2.0 if case.model["name"] == "vit" else 1.0
    return Cost(1000, 1e6 * case.batch_size, "fp32", [0.01 * slow], 10, [0.1 * slow], 100)


def fixed_step(recipe, *others, **options):
    return 0.2 if recipe.model.name == "vit" else 0.1


def timed_train(recipe, folder, **options):
    """Trains for real, and says that a step took twice as long as in the timing."""
    result = train(recipe, folder, **options)
    return {**result, "seconds": result["steps"] * 2 * fixed_step(recipe)}


@pytest.mark.slow
def test_command_compares_goes_on_and_reads_its_rows_again(tmp_path, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(comparing, "in_a_process", lambda *all: (measured.append(all), fixed_cost(*all))[1])
    monkeypatch.setattr(comparing, "step_seconds", fixed_step)
    monkeypatch.setattr(comparing, "train", timed_train)
    command = ["study", "compare", "--models", "mixer-small", "vit-small", "--budget", "2s", "--lr", "0.001", "0.003"]
    command += ["--out", str(tmp_path), "--json"]
    assert main([*command, "--seeds", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    top1 = [row for row in found["rows"] if row["metric"] == "top1"]
    assert [(row["model"], row["data"]) for row in top1] == [
        ("mixer-small", f"digits (2 s), {SECONDS}"), ("mixer-small", f"digits (2 s), {EPOCHS}"),
        ("vit-small", f"digits (2 s), {SECONDS}"), ("vit-small", f"digits (2 s), {EPOCHS}"),
    ]  # fmt: skip
    assert top1[2]["value"] == top1[3]["value"], "the slowest has one length, and is trained once"
    assert len(list((tmp_path / "runs").glob("*/seed0/result.json"))) == 3
    flops = [row["value"] for row in found["rows"] if row["metric"] == "train_flops" and row["model"] == "mixer-small"]
    assert flops == [3 * 1e6 * 10 * 64, 3 * 1e6 * 5 * 64]
    sweep = [row for row in found["rows"] if row["metric"] in ("lr", "sweep_seconds")]
    assert len(sweep) == 4 and "0.001: " in sweep[0]["note"] and sweep[1]["value"] > 0
    page = (tmp_path / "compare.html").read_bytes()
    assert main([*command, "--seeds", "0"]) == 0 and len(measured) == 4, "speeds are measured once, twice a model"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == found["rows"]
    again = ["study", "compare", "--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "again")]
    assert main(again) == 0 and (tmp_path / "again/compare.html").read_bytes() == page
    assert read(tmp_path / "again/rows.jsonl") == found["rows"]
    assert main([*command, "--budget", "3s", "--seeds", "0"]) == 1
    assert "holds another comparison" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_does_not_run_has_a_row_that_says_why(tmp_path, monkeypatch):
    def failing(case, device):
        if case.model["name"] == "vit":
            raise ValueError("no memory")
        return fixed_cost(case, device)

    monkeypatch.setattr(comparing, "in_a_process", failing)
    monkeypatch.setattr(comparing, "step_seconds", fixed_step)
    base = changed(comparing.base_recipe("digits", None), batch_size=32)
    both = tuple(contender(name, 8) for name in ("vit-small", "mixer-small"))
    asked = comparing.Comparison(base, both, comparing.Budget(0.2, "seconds"), (0,), (0.001,))
    rows = comparing.compare(asked, tmp_path, runtime=Runtime(device="cpu"))
    failed = [row for row in rows if row["model"] == "vit-small"]
    assert [(row["value"], row["note"]) for row in failed] == [(None, "no memory")]
    said = found_of(rows).summary
    assert "Not trained to the end: vit-small." in said and said[0].startswith("mixer-small has")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "soon"], "give a time such as"),
        (["--models", "mixer-small", "mixer-small"], "named twice"),
        (["--models", "resnet"], "unknown model 'resnet'"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, complaint, tmp_path, capsys):
    assert main(["study", "compare", *arguments, "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err
