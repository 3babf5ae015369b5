"""Suites: what is run, what is absent, what a mean is of, and that nothing is computed twice."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mixonomy as mx
from mixonomy import training, transferring
from mixonomy.cli import main
from mixonomy.data import open_source, plan_splits
from mixonomy.evals.suites import AVG5, SUITES, VTAB1K, VTAB_LIKE, Suite, Task
from mixonomy.experiment import Runtime
from mixonomy.models import save_model
from mixonomy.probing import probe
from mixonomy.transferring import Protocol, find_task, load_suite, means, task_recipe, transfer

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
    about = {"name": "small, 1 of 2 tasks", "image_size": None, "n": 1}
    assert mean == {**about, "mean": row["mean"], "std": None, "few_shot": {}} and first["group_means"] == []
    assert transfer(init, SMALL, tmp_path / "out", protocol=SHORT) == first and len(started) == 3
    assert json.loads((tmp_path / "out/transfer.json").read_text()) == json.loads(json.dumps(first))
    with pytest.raises(ValueError, match=r"holds another transfer: .*protocol.steps \(3 there, 4 now\)"):
        transfer(init, SMALL, tmp_path / "out", protocol=Protocol(steps=4))


def test_sizes_and_seeds_are_rows_and_spread(init, tmp_path):
    suite = Suite("one", SMALL.tasks[:1])
    protocol = Protocol(steps=2, batch_size=16, lrs=(0.01,), image_sizes=(8, 16), seeds=2)
    found = transfer(init, suite, tmp_path / "out", protocol=protocol)
    assert [(row["image_size"], len(row["top1"]), row["std"] is None) for row in found["rows"]] == [
        (8, 2, False), (16, 2, False)
    ]  # fmt: skip
    assert [mean["name"] for mean in found["means"]] == ["one", "one"]
    digits = open_source("digits")
    for row, model in zip(found["rows"], (mx.load(init), mx.load(init, image_size=16)), strict=True):
        few = probe(model, digits, train_images=100).few_shot
        assert row["few_shot"] == {str(one.shots): {"mean": one.mean, "std": one.std} for one in few}


def test_data_with_other_classes_is_refused(init, tmp_path):
    with pytest.raises(ValueError, match="digits has 10 classes and d of suite s 11; move it away"):
        transfer(init, Suite("s", (Task("d", "digits", 11),)), tmp_path / "out", protocol=SHORT)


def folder_of(path: Path, classes: str) -> None:
    """A folder of class folders with four images each."""
    for i in range(4 * len(classes)):
        file = path / classes[i % len(classes)] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 5 * i, dtype=np.uint8)).save(file)


def test_unsuitable_data_is_refused_before_any_training_and_not_called_absent(init, tmp_path, monkeypatch):
    monkeypatch.setattr("mixonomy.transferring.fine_tuned", lambda *_: pytest.fail("trained"))
    folder_of(tmp_path / "mixed", "ab")
    (tmp_path / "mixed/train/a").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("path,label\n")
    several = tmp_path / "several.csv"
    several.write_text("path,label\nmixed/a/0.png,a;b\nmixed/b/1.png,b\n")
    folder_of(tmp_path / "vtab/caltech101", "ab")
    others = {
        "mixed": (Task("x", str(tmp_path / "mixed"), 2), "mixed has train and beside them a, b"),
        "empty": (Task("x", str(tmp_path / "labels.csv"), 2), "labels.csv"),
        "several": (Task("x", str(several), 2), "several labels and x of suite s is scored by one"),
        "few": (Task("x", "digits", 10, train_images=9999), "train_images is 9,999 and digits has"),
        "vtab": (Task("x", "vtab/caltech101", 2, split_sizes=(800, 200)), "8 train images and .* needs 800 train, 200"),
        "crop": (Task("x", "digits", 10, eval_crop="pda"), "eval_crop"),  # type: ignore[arg-type]
    }
    for name, (task, words) in others.items():
        suite = Suite("s", (Task("digits", "digits", 10), task))
        with pytest.raises(ValueError, match=words):
            transfer(init, suite, tmp_path / name, protocol=SHORT, runtime=Runtime(data_root=str(tmp_path)))
        assert not (tmp_path / name / "settings.json").exists(), "another try may be given other settings"
    with pytest.raises(ValueError, match="9x9"):
        transfer(init, SMALL, tmp_path / "size", protocol=Protocol(image_sizes=(8, 9)))


def test_suite_without_any_data_is_an_error(init, tmp_path):
    with pytest.raises(
        ValueError, match="no task of vtab1k has its data, such as caltech101: there is no .*caltech101_"
    ):
        transfer(init, VTAB1K, tmp_path / "out", runtime=Runtime(data_root=str(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_known_name_without_its_parquet_files_is_absent_and_not_downloaded(tmp_path):
    (tmp_path / "pets").mkdir()
    assert find_task(Task("pets", "pets", 37), str(tmp_path)) is None
    for source in ("digits", "hf:me/data", "shards:https://example.org/data"):
        assert find_task(Task("d", source, 10), str(tmp_path)) == source
    (tmp_path / "pets_test.parquet").touch()
    assert find_task(Task("pets", "pets", 37), str(tmp_path)) == "pets"


def test_images_that_cannot_be_read_are_left_out_where_that_is_asked_for(init, tmp_path):
    for i in range(64):
        file = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 3 * i, dtype=np.uint8)).save(file)
    (tmp_path / "images/b/3.png").write_bytes(b"junk")
    suite = Suite("s", (Task("x", str(tmp_path / "images"), 2, lrs=(0.01,)),))
    options = {"steps": 2, "batch_size": 16}
    with pytest.raises(ValueError, match="image 'b/3.png': .* or leave out what cannot be read by --on-bad-image skip"):
        transfer(init, suite, tmp_path / "error", protocol=Protocol(**options))
    with pytest.raises(ValueError, match="1 of 64 images cannot be read, more than the 1.00%"):
        transfer(init, suite, tmp_path / "one", protocol=Protocol(**options, on_bad_image="skip"))
    protocol = Protocol(**options, on_bad_image="skip", max_bad_share=0.05)
    (row,) = transfer(init, suite, tmp_path / "skip", protocol=protocol)["rows"]
    assert row["bad_images"] == 1 and row["few_shot"]


def test_task_that_diverges_has_failed_and_the_others_go_on(init, tmp_path, monkeypatch):
    original, trained = transferring.fine_tuned, []

    def watching(recipe, *others):
        trained.append(recipe.data.source)
        return original(recipe, *others)

    monkeypatch.setattr(transferring, "fine_tuned", watching)
    suite = Suite("two", (Task("wild", "digits", 10, lrs=(1e38, 2e38)), Task("calm", "digits", 10, lrs=(0.01,))))
    protocol = Protocol(steps=8, batch_size=16, few_shot=False)
    found = transfer(init, suite, tmp_path, protocol=protocol)
    assert [row["task"] for row in found["rows"]] == ["calm"] and len(trained) == 2
    (failed,) = found["failed"]
    assert (failed["task"], failed["image_size"]) == ("wild", None)
    assert failed["reason"].startswith("no value of the sweep trained to its end; the first said: the loss became ")
    assert [mean["name"] for mean in found["means"]] == ["two, 1 of 2 tasks"]
    assert transfer(init, suite, tmp_path, protocol=protocol) == found and trained[2:] == ["digits"], "calm alone"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Protocol(steps=0), "steps is 0; give 1 or more"),
        (lambda: Protocol(batch_size=0), "batch_size is 0; give 1 or more"),
        (lambda: Protocol(lrs=(0.1, 0.1)), "the protocol has the learning rate 0.1 twice"),
        (lambda: Protocol(image_sizes=(32, 32)), r"image sizes are \[32, 32\]; give pixels, each size once"),
        (lambda: Protocol(image_sizes=(0,)), r"image sizes are \[0\]; give pixels"),
        (lambda: Task("a/b", "digits", 10), "task 'a/b' has no name for a folder; leave out slashes"),
        (lambda: Task("..", "digits", 10), "task '..' has no name for a folder"),
        (lambda: Task("a", "digits", 10, steps=0), "steps of task a is 0; give 1 or more"),
        (lambda: Task("a", "digits", 10, lrs=()), "task a has no learning rates"),
        (lambda: Task("a", "digits", 10, lrs=(0.0,)), "task a has the learning rate 0.0; give positive numbers"),
        (lambda: Suite("s", ()), "suite s has no tasks"),
        (lambda: Suite("s", (Task("a", "digits", 10), Task("a", "eurosat", 10))), "suite s has two tasks 'a'"),
    ],
)
def test_what_would_count_twice_or_nothing_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("text", "words"),
    [("suite = (", "cannot be run as Python"), ("suite = 3", "sets no `suite`; it must hold `suite = mixonomy.evals")],
)
def test_suite_file_that_is_none_is_one_sentence(text, words, tmp_path):
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_suite(str(tmp_path / "s.py"))
    with pytest.raises(ValueError, match="no suite file gone.py; give avg5, vtab1k, vtab-like or a Python file"):
        load_suite("gone.py")


def test_flowers_are_held_out_as_the_paper_does():
    """A tenth of train and val together, 2,040 images, chooses; Flowers' own val is half of them."""
    (task,) = (task for task in AVG5.tasks if task.name == "flowers102")
    recipe = task_recipe(task, "flowers102", 1020, "w.npz", Protocol(), None)
    assert (recipe.data.train_images, recipe.data.val_share, recipe.duration) == (2040, 0.1, "500 steps")


def test_classes_are_those_of_the_benchmarks():
    """Counts from the data sets' own papers and from VTAB's (Zhai et al. 2019)."""
    assert {task.name: task.num_classes for task in AVG5.tasks} == {
        "imagenet1k": 1000, "cifar10": 10, "cifar100": 100, "pets": 37, "flowers102": 102
    }  # fmt: skip
    assert {task.name: task.num_classes for task in VTAB1K.tasks} == {
        "caltech101": 102, "cifar100": 100, "dtd": 47, "flowers102": 102, "pets": 37, "svhn": 10, "sun397": 397,
        "patch-camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic-retinopathy": 5, "clevr-count": 8,
        "clevr-distance": 6, "dmlab": 6, "kitti-distance": 4, "dsprites-location": 16, "dsprites-orientation": 16,
        "smallnorb-azimuth": 18, "smallnorb-elevation": 9,
    }  # fmt: skip
    assert all(task.split_sizes == (800, 200) for task in VTAB1K.tasks)


def test_published_numbers_are_those_in_the_results():
    path = Path(__file__).parents[1] / "results/published.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for suite in SUITES.values():
        for metric, published in (("mean", suite.published), *((task.name, task.published) for task in suite.tasks)):
            stored = {
                row["model"]: (row["value"], f"{row['source']}, {row['note']}")
                for row in rows
                if (row["study"], row["data"], row["metric"]) == ("suite", suite.name, f"{metric}_top1")
            }
            ours = {model: (round(value / 100, 6), where) for model, (value, where) in published.items()}
            assert stored == ours


def test_published_numbers_decide_nothing_so_a_suite_goes_on_after_they_changed(tmp_path):
    def check(suite: Suite) -> None:
        transferring._check_same(tmp_path, json.loads(json.dumps({"format": 1, "suite": asdict(suite)})))

    task = SMALL.tasks[0]
    check(Suite("s", (task,)))
    check(Suite("s", (replace(task, published={"m": (50.0, "book")}),), {"m": (40.0, "book")}))
    with pytest.raises(ValueError, match="holds another transfer: the suite; give another --out"):
        check(Suite("s", (replace(task, steps=9),)))


def test_means_are_over_tasks_and_groups_their_spread_over_seeds_and_none_of_fewer_tasks_is_unnamed():
    one, two, three = (Task(name, "digits", 10, group) for name, group in (("a", "x"), ("b", "x"), ("c", "y")))
    suite = Suite("s", (one, two, three))
    few = {"1": {"mean": 0.06, "std": 0.01}, "5": {"mean": 0.1, "std": 0.01}}
    rows: list[dict[str, Any]] = [
        {"task": "a", "image_size": 32, "top1": [0.1, 0.2], "few_shot": few},
        {"task": "b", "image_size": 32, "top1": [0.3, 0.6], "few_shot": {"1": {"mean": 0.16, "std": None}}},
        {"task": "a", "image_size": 64, "top1": [0.5, 0.7], "few_shot": few},
    ]
    whole, part = means(suite, rows)
    assert (whole["name"], whole["image_size"], whole["n"]) == ("s, 2 of 3 tasks", 32, 2)
    assert whole["mean"] == pytest.approx(0.3) and whole["std"] == pytest.approx(stdev([0.2, 0.4]))
    assert whole["few_shot"] == {"1": {"mean": pytest.approx((0.06 + 0.16) / 2), "std": None}}, "shots of all tasks"
    assert (part["name"], part["image_size"], part["mean"]) == ("s, 1 of 3 tasks", 64, pytest.approx(0.6))
    groups = means(suite, rows, groups=True)
    assert [(mean["name"], mean["image_size"]) for mean in groups] == [("x", 32), ("x, 1 of 2 tasks", 64)]


def test_command_prints_a_table_and_writes_the_page(init, tmp_path, capsys):
    suite = tmp_path / "suite.py"
    suite.write_text(
        "from mixonomy.evals.suites import Suite, Task\n"
        "suite = Suite('R&D', (Task('digits', 'digits', 10), Task('gone', 'nothing', 2)), {'other': (50.0, 'book')})\n"
    )
    command = ["transfer", init, "--suite", str(suite), "--out", str(tmp_path / "out"), "--steps", "2", "--json"]
    assert main([*command, "--batch-size", "16", "--lr", "0.01"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert set(result["rows"][0]["few_shot"]) == {"1", "5", "10", "25"}
    assert "mean of R&D, 1 of 2 tasks: " in err and "gone" in err
    page = (tmp_path / "out/transfer.html").read_text()
    assert "R&amp;D, 1 of 2 tasks" in page and "R&D" not in page
    assert "Absent" in page and "25-shot" in page and "50.00" in page


def test_command_whose_tasks_all_failed_has_failed(init, tmp_path, capsys):
    suite = tmp_path / "suite.py"
    suite.write_text(
        "from mixonomy.evals.suites import Suite, Task\nsuite = Suite('mine', (Task('digits', 'digits', 10),))\n"
    )
    command = ["transfer", init, "--suite", str(suite), "--out", str(tmp_path / "out"), "--no-few-shot"]
    assert main([*command, "--steps", "8", "--batch-size", "16", "--lr", "1e38"]) == 1
    assert "every task of mine that has its data failed, so there is no mean." in capsys.readouterr().out
    assert "Failed" in (tmp_path / "out/transfer.html").read_text()


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
