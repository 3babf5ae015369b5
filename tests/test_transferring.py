"""Suites: what is run, what is absent, what a mean is of, and that nothing is computed twice."""

import json

import numpy as np
import pytest
from PIL import Image

import mixonomy as mx
from mixonomy import training
from mixonomy.cli import main
from mixonomy.data import open_source, plan_splits
from mixonomy.evals.suites import AVG5, SUITES, VTAB1K, VTAB_LIKE, Suite, Task
from mixonomy.models import save_model
from mixonomy.transferring import Protocol, find_task, load_suite, task_recipe, transfer

SHORT = Protocol(steps=3, batch_size=16, lrs=(0.01, 0.03), few_shot=False)
SMALL = Suite("small", (Task("digits", "digits", 10, train_images=100, val_share=0.2), Task("gone", "vtab/gone", 4)))


@pytest.fixture
def init(tmp_path) -> str:
    sizes = {"patch_size": 2, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    save_model(mx.create("mixer", num_classes=3, image_size=8, in_channels=1, **sizes), tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def test_suites_are_the_papers():
    assert [len(suite.tasks) for suite in (AVG5, VTAB1K, VTAB_LIKE)] == [5, 19, 3]
    groups = [task.group for task in VTAB1K.tasks]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert all(task.lrs == (0.003, 0.01, 0.03) and task.steps == 2500 for task in VTAB1K.tasks)
    recipe = task_recipe(VTAB_LIKE.tasks[2], "eurosat", 1000, "w.npz", Protocol(), 64)
    assert (recipe.data.train_images, recipe.data.val_share, recipe.image_size) == (1000, 0.2, 64)
    assert (recipe.duration, recipe.optim.name, recipe.batch_size) == ("2500 steps", "sgd", 512)


def test_what_an_augmentation_would_change_the_label_of_does_not_get_it():
    augments = {}
    for task in VTAB1K.tasks:
        recipe = task_recipe(task, task.source, 800, "w.npz", Protocol(), None)
        assert recipe.data.eval_crop == "squash", "no border is cut off what is scored"
        augments[task.name] = (recipe.augment.crop, recipe.augment.flip)
    assert augments.pop("dsprites-location") == ("none", False)
    for name in ("clevr-count", "clevr-distance", "dmlab", "kitti-distance"):
        assert augments.pop(name) == ("none", True)
    for name in ("dsprites-orientation", "smallnorb-azimuth"):
        assert augments.pop(name) == ("resmall", False)
    assert len(augments) == 12 and set(augments.values()) == {("resmall", True)}
    recipe = task_recipe(AVG5.tasks[3], "pets", 3680, "w.npz", Protocol(), None)
    assert (recipe.data.eval_crop, recipe.augment.crop, recipe.augment.flip) == ("resmall", "resmall", True)


def test_suite_is_run_resumed_and_never_computed_twice(init, tmp_path, monkeypatch):
    started, original = [], training.set_up

    def watching(recipe, *others):
        started.append(recipe.optim.lr)
        return original(recipe, *others)

    monkeypatch.setattr(training, "set_up", watching)
    first = transfer(init, SMALL, tmp_path / "out", protocol=SHORT)
    (row,) = first["rows"]
    assert len(started) == 3 and row["task"] == "digits" and row["lr"] in (0.01, 0.03)
    assert [each["task"] for each in first["absent"]] == ["gone"]
    (mean,) = first["means"]
    assert mean == {"name": "small, 1 of 2 tasks", "image_size": None, "mean": row["mean"], "n": 1}
    assert transfer(init, SMALL, tmp_path / "out", protocol=SHORT) == first and len(started) == 3
    assert json.loads((tmp_path / "out/transfer.json").read_text()) == json.loads(json.dumps(first))
    with pytest.raises(ValueError, match="holds another transfer: protocol differ"):
        transfer(init, SMALL, tmp_path / "out", protocol=Protocol(steps=4))


def test_sizes_and_seeds_are_rows_and_spread(init, tmp_path):
    suite = Suite("one", SMALL.tasks[:1])
    protocol = Protocol(steps=2, batch_size=16, lrs=(0.01,), image_sizes=(8, 16), seeds=2, few_shot=False)
    found = transfer(init, suite, tmp_path / "out", protocol=protocol)
    assert [(row["image_size"], len(row["top1"]), row["std"] is None) for row in found["rows"]] == [
        (8, 2, False), (16, 2, False)
    ]  # fmt: skip
    assert [mean["name"] for mean in found["means"]] == ["one", "one"]


def test_data_with_other_classes_is_refused(init, tmp_path):
    with pytest.raises(ValueError, match="digits has 10 classes and d of s 11; move it away"):
        transfer(init, Suite("s", (Task("d", "digits", 11),)), tmp_path / "out", protocol=SHORT)


def test_command_prints_a_table_and_writes_the_page(init, tmp_path, capsys):
    suite = tmp_path / "suite.py"
    suite.write_text(
        "from mixonomy.evals.suites import Suite, Task\n"
        "suite = Suite('mine', (Task('digits', 'digits', 10), Task('gone', 'nothing', 2)), {'other': (50.0, 'book')})\n"
    )
    command = ["transfer", init, "--suite", str(suite), "--out", str(tmp_path / "out"), "--steps", "2", "--json"]
    assert main([*command, "--batch-size", "16", "--lr", "0.01"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert set(result["rows"][0]["few_shot"]) == {"1", "5", "10", "25"}
    assert "mean of mine, 1 of 2 tasks: " in err and "gone" in err
    page = (tmp_path / "out/transfer.html").read_text()
    assert "Absent" in page and "25-shot" in page and "50.00" in page


def test_unknown_suite_is_one_sentence():
    with pytest.raises(ValueError, match="unknown suite 'avg-5'; did you mean 'avg5'"):
        load_suite("avg-5")
    assert load_suite("vtab-like") is SUITES["vtab-like"]


def test_list_files_of_vtab_are_read(tmp_path):
    folder = tmp_path / "vtab/pets"
    (folder / "images").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(np.full((4, 4, 3), 40 * i, dtype=np.uint8)).save(folder / f"images/{i} a.png")
    lines = [f"images/{i} a.png {i % 3}" for i in range(6)]
    for name, part in (("train800", lines[:3]), ("val200", lines[3:5]), ("test", lines[5:])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    task = Task("pets", "vtab/pets", 3)
    assert find_task(task, str(tmp_path)) == str(folder) and find_task(task, str(folder)) is None
    source = open_source(str(folder))
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert source.splits["test"].labels.tolist() == [2] and source.class_names == ("0", "1", "2")
    plan = plan_splits(source, 0.1, train_on_val=True)
    assert len(plan.train) == 5 and plan.val is None
    (folder / "val200.txt").write_text("images/0 a.png x\n")
    with pytest.raises(ValueError, match="line 1 of .*val200.txt is 'images/0 a.png x'; it must be PATH LABEL"):
        open_source(str(folder))


def test_limited_images_are_the_same_whoever_asks_and_val_is_among_them():
    digits = open_source("digits")
    plan = plan_splits(digits, 0.2, train_images=200)
    assert plan.val is not None and len(plan.train) + len(plan.val) == 200
    assert 30 <= len(plan.val) <= 50, "stratified, so not to the image"
    fewer = plan_splits(digits, 0.0, train_images=100)
    names = {*plan.train.names, *plan.val.names}
    assert set(fewer.train.names) < names and fewer.val is None
    assert set(plan_splits(digits, 0.2, train_on_val=True, train_images=200).train.names) == names
    with pytest.raises(ValueError, match="train_images is 9,999 and digits has"):
        plan_splits(digits, 0.2, train_images=9999)
