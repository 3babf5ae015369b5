"""What `import mixonomy` offers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

import mixonomy as mx
from mixonomy.api import lr_page
from mixonomy.data import open_source, plan_splits
from mixonomy.evals import normalise
from mixonomy.models import info_of
from mixonomy.recipe import changed
from mixonomy.recipes import load_recipe

SMALL = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of forty steps on the digits."""
    recipe = changed(load_recipe("digits"), model=SMALL, duration="40 steps", precision="fp32", eval_every="20 steps")
    return mx.train(recipe, tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture
def digit(tmp_path) -> tuple[Path, torch.Tensor]:
    """The file of one test image, and its pixels."""
    encoded = open_source("digits").splits["test"].images[7]
    path = tmp_path / "digit.png"
    path.write_bytes(bytes(encoded))
    return path, torch.from_numpy(np.array(Image.open(path)))[None]


def test_import_is_light_and_names_are_there():
    code = (
        "import sys, mixonomy; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'heavy import';"
        "assert all(callable(getattr(mixonomy, name)) for name in mixonomy.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mx.nonsense


def test_evaluation_gives_the_numbers_that_training_printed(run):
    scored = dict(mx.evaluate(run.path).scores())
    assert {name: run.result[name] for name in scored} == scored


def test_evaluation_agrees_with_a_plain_loop(run):
    model = mx.load(run.path)
    test = plan_splits(open_source("digits"), 0.1).test
    pixels = torch.stack([torch.from_numpy(np.array(_png(test.images[i])))[None] for i in range(len(test))])
    with torch.inference_mode():
        logits = model(pixels.float() / 127.5 - 1)
    expected = (logits.argmax(1).numpy() == test.labels).mean()
    assert mx.evaluate(run.path).top1 == pytest.approx(expected, abs=1e-12)


def _png(encoded):
    import io

    return Image.open(io.BytesIO(encoded))


def test_prediction_is_what_the_model_says_of_the_pixels(run, digit):
    path, pixels = digit
    model = mx.load(run.path)
    (prediction,) = mx.predict(model, [path], top=10)
    with torch.inference_mode():
        logits = model(normalise(pixels[None], info_of(model).preprocessing))
        probs = (logits.double() / info_of(model).temperature).softmax(1)[0]
    assert prediction.error is None and len(prediction.classes) == 10
    for name, prob in prediction.classes:
        assert prob == pytest.approx(float(probs[int(name)]), rel=1e-5)
    assert [prob for _, prob in prediction.classes] == sorted((prob for _, prob in prediction.classes), reverse=True)


def test_prediction_reports_bad_files_and_answers_the_rest(run, digit, tmp_path):
    path, pixels = digit
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    large = tmp_path / "large.png"
    functional.to_pil_image(functional.resize(pixels, [80, 80])).convert("RGB").save(large)
    answers = list(mx.predict(run.path, [text, path, tmp_path / "missing.png", large]))
    assert [answer.error is None for answer in answers] == [False, True, False, True]
    assert "not a readable image" in str(answers[0].error) and "No such file" in str(answers[2].error)


def test_saved_model_loads_with_class_names_and_preprocessing(run, tmp_path):
    model = mx.load(run.path)
    mx.save(model, tmp_path / "model.safetensors")
    again = mx.load(tmp_path / "model.safetensors")
    assert info_of(again) == info_of(model) and info_of(again).class_names == tuple("0123456789")
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    assert torch.equal(again(images), model(images)) and not again.training


def test_loading_refuses_what_is_no_model(tmp_path, run):
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04")
    for where, message in (
        (tmp_path / "nothing", "no file or run folder"),
        (tmp_path, "no run folder: it has no run.json"),
        (tmp_path / "weights.pt", "neither a run folder nor .safetensors nor .npz"),
    ):
        with pytest.raises(ValueError, match=message):
            mx.load(where)


def test_data_with_classes_that_the_model_does_not_know_is_refused(run, shared):
    with pytest.raises(ValueError, match="classes that the model does not know: airplane, automobile"):
        mx.evaluate(run.path, "cifar10", runtime=_runtime(shared))


def test_data_with_classes_in_another_order_is_scored_by_name(run, tmp_path):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    test = open_source("digits").splits["test"]
    order = list("9876543210")
    labels = [order.index(str(label)) for label in test.labels]
    schema = pa.schema(
        [("image", pa.binary()), ("label", pa.int64())],
        metadata={"class_names": json.dumps(order), "channels": "1"},
    )
    table = pa.table({"image": [bytes(test.images[i]) for i in range(len(test))], "label": labels}, schema=schema)
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"turned_{split}.parquet")
    assert mx.evaluate(run.path, str(tmp_path / "turned")).top1 == mx.evaluate(run.path).top1


def test_model_without_data_asks_for_a_source(run):
    with pytest.raises(ValueError, match="name no data"):
        mx.evaluate(mx.create("mixer", **SMALL, patch_size=2, image_size=8, in_channels=1, num_classes=10))


def test_loaded_model_knows_which_images_it_was_trained_on(run):
    for model in (run.path, run.path / "model.safetensors", mx.load(run.path)):
        assert mx.evaluate(model).top1 == run.result["top1"]
        assert [mx.evaluate(model, "digits", split=split).n for split in ("train", "val", "test")] == [1295, 143, 359]


def test_data_that_changed_after_training_is_not_scored_as_if_it_were_new(run, tmp_path):
    digits = open_source("digits").splits["train"]
    for i in range(40):
        path = tmp_path / "images" / str(digits.labels[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(digits.images[i]))
    recipe = changed(
        load_recipe("digits"), data={"source": str(tmp_path / "images")}, model=SMALL, duration="2 steps", batch_size=8
    )
    trained = mx.train(recipe, tmp_path / "run")
    mx.evaluate(trained.path)
    (tmp_path / "images" / "0" / "new.png").write_bytes(bytes(digits.images[41]))
    with pytest.raises(ValueError, match="has other images or labels than when the model was trained"):
        mx.evaluate(trained.path)
    assert mx.evaluate(trained.path, str(tmp_path / "images")).n == 41


def _runtime(shared: Path):
    from mixonomy.experiment import Runtime

    return Runtime(data_root=str(shared / "data"))


def test_data_of_one_file_is_scored_whole(run, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    test = open_source("digits").splits["test"]
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={"channels": "1"})
    images = [bytes(test.images[i]) for i in range(len(test))]
    pq.write_table(pa.table({"image": images, "label": test.labels}, schema=schema), tmp_path / "holdout.parquet")
    scored = mx.evaluate(run.path, str(tmp_path / "holdout.parquet"))
    assert scored.n == 359 and scored.top1 == run.result["top1"]


@pytest.mark.parametrize("num_classes", [5, 12])
def test_model_with_another_number_of_outputs_is_refused(num_classes):
    model = mx.create("mixer", **SMALL, patch_size=2, image_size=8, in_channels=1, num_classes=num_classes)
    with pytest.raises(ValueError, match=f"the model has {num_classes} outputs and the data 10 classes"):
        mx.evaluate(model, "digits")


def test_model_whose_outputs_are_not_finite_is_refused(run):
    model = mx.load(run.path)
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(ValueError, match="outputs are not finite"):
        mx.evaluate(model, "digits")


def test_range_test_writes_its_page_only_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = changed(load_recipe("digits"), model=SMALL, batch_size=16)
    silent = mx.find_lr(recipe)
    assert list(tmp_path.iterdir()) == []
    assert mx.find_lr(recipe, tmp_path / "run") == silent
    assert [path.name for path in tmp_path.iterdir()] == ["run.find-lr.html"]


@pytest.mark.parametrize(
    ("out", "page"),
    [("runs/x", "runs/x.find-lr.html"), ("runs/x.1/", "runs/x.1.find-lr.html"), (".", "here.find-lr.html")],
)
def test_page_of_a_range_test_stands_beside_the_run_folder(out, page, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert lr_page(out) == (tmp_path / page if out == "." else Path(page))


def test_run_does_not_begin_among_the_images_of_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where `--data .` without --out would make runs/, which looks like a class
    recipe = changed(load_recipe("folder"), data={"source": "."})
    for out in (None, "runs/x", tmp_path, "a/../b"):
        with pytest.raises(
            ValueError, match=r"the run folder .* would lie in the data \., .*give an --out that is not"
        ):
            mx.train(recipe, out)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="the run folder .* would lie in the data ~, "):
        mx.train(changed(recipe, data={"source": "~"}), "runs/x")


def test_run_does_not_begin_in_a_folder_of_other_images(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a folder of images \(cat/1.jpg\) and not of a run; give a new folder"):
        mx.train(load_recipe("digits"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cat"]


def test_run_may_lie_in_a_folder_that_is_called_like_a_known_data_set(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = changed(load_recipe("digits"), model=SMALL, duration="2 steps")
    assert mx.train(recipe, "digits/r1").result["steps"] == 2
