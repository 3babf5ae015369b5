"""Prediction: order, kinds of images, models for several classes, what is refused, and what it imports."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mixonomy as mx
from mixonomy import predicting
from mixonomy.models import info_of, set_info
from mixonomy.predicting import MAX_BATCH, predict

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}


def classifier(*, channels: int = 3, **info) -> torch.nn.Module:
    """A Mixer with random weights for 16x16 images of five classes."""
    torch.manual_seed(0)
    model = mx.create("mixer", **SIZES, image_size=16, in_channels=channels, num_classes=5).eval()
    torch.nn.init.normal_(model.head.weight)
    set_info(model, dataclasses.replace(info_of(model), class_names=tuple("abcde"), precision="fp32", **info))
    return model


def picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def files(folder: Path, count: int) -> list[Path]:
    """Files that differ, written so that nothing is lost."""
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(i)).save(path)
    return paths


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (3, 4), (2, 100), (0, None)])
def test_order_and_numbers_do_not_depend_on_threads_and_batches(tmp_path, workers, batch_size):
    paths = files(tmp_path, 11)
    paths.insert(5, tmp_path / "missing.png")
    model = classifier()
    answers = list(predict(model, paths, workers=workers, batch_size=batch_size))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert [answer.error is None for answer in answers] == [i != 5 for i in range(12)]
    for path, answer in zip(paths, answers, strict=True):
        if answer.error is None:
            (alone,) = predict(model, [path])
            assert [name for name, _ in answer.classes] == [name for name, _ in alone.classes]
            np.testing.assert_allclose([p for _, p in answer.classes], [p for _, p in alone.classes], rtol=1e-5)
            assert answer.predicted == answer.classes[:1]


def test_many_images_take_the_fast_path_and_get_the_same_answers(tmp_path, monkeypatch):
    made = []

    def remembered(*args, **kwargs):
        made.append(mx.fast(*args, **kwargs, cache=tmp_path / "fast.json"))
        return made[-1]

    monkeypatch.setattr(predicting, "fast", remembered)
    images = [picture(i) for i in range(predicting.MANY)]
    model = classifier()
    few, many = list(predict(model, images[:20])), list(predict(model, images))
    assert len(many) == predicting.MANY and len(made) == 1 and made[0].tried
    for a, b in zip(few, many, strict=False):
        assert a.predicted[0][0] == b.predicted[0][0]
        assert b.predicted[0][1] == pytest.approx(a.predicted[0][1], abs=1e-4)


def test_arrays_and_open_images_are_what_their_files_are(tmp_path):
    (path,) = files(tmp_path, 1)
    pixels = picture(0)
    with Image.open(path) as opened:
        model = classifier()
        expected, *others = mx.predict(model, [path, opened, pixels, Image.fromarray(pixels)], top=2)
        assert opened.getpixel((0, 0)) == tuple(pixels[0, 0]), "the caller's image stays open"
    assert [answer.path for answer in others] == ["image 1", "image 2", "image 3"]
    assert all(answer.classes == expected.classes and len(answer.classes) == 2 for answer in others)


def test_grey_arrays_are_answered_by_models_for_grey_and_for_coloured_images():
    grey = picture(3)[..., 0]
    for channels in (1, 3):
        from_array, from_image = mx.predict(classifier(channels=channels), [grey, Image.fromarray(grey)])
        assert from_array.error is None and from_array.classes == from_image.classes


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((4, 4, 3), dtype=np.float32)], r"image 0 is an array float32 \[4, 4, 3\]; give uint8"),
        ([np.zeros((3, 4, 4), dtype=np.uint8)], r"image 0 is an array uint8 \[3, 4, 4\]"),
        ([np.zeros((0, 4), dtype=np.uint8)], r"image 0 is an array uint8 \[0, 4\]"),
        ([torch.zeros(3, 4, 4)], "image 0 is a Tensor; give a path, a PIL image or a uint8 array"),
        ("photo.jpg", r"images is one str; give a list, such as \[image\]"),
        (np.zeros((4, 4), dtype=np.uint8), "images is one ndarray"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        list(mx.predict(classifier(), images))


@pytest.mark.parametrize(("option", "value"), [("top", 0), ("workers", -1), ("batch_size", 0)])
def test_numbers_that_make_no_sense_are_refused_before_anything_runs(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}; give at least"):
        predict(classifier(), [], **{option: value})


def test_several_classes_of_an_image_are_those_at_their_thresholds():
    pixels = [picture(i) for i in range(6)]
    probs = [dict(answer.classes) for answer in predict(classifier(thresholds=(0.5,) * 5), pixels)]
    thresholds = tuple(sorted(row[name] for row in probs)[i % 6] for i, name in enumerate("abcde"))
    for row, answer in zip(probs, predict(classifier(thresholds=thresholds), pixels, top=2), strict=True):
        at = {name: row[name] for name, least in zip("abcde", thresholds, strict=True) if row[name] >= least}
        assert dict(answer.predicted) == at and len(answer.classes) == 2
        assert [p for _, p in answer.predicted] == sorted(at.values(), reverse=True)
    assert all(answer.predicted == () for answer in predict(classifier(thresholds=(1.0,) * 5), pixels))


def test_images_are_drawn_as_they_are_needed_and_a_reader_may_stop():
    drawn = []

    def endless():
        while True:
            drawn.append(None)
            yield picture(0)

    before = threading.active_count()
    predictions = predict(classifier(), endless(), workers=2, batch_size=4)
    for _ in range(9):
        next(predictions)
    assert len(drawn) <= 9 + 4 * 3, "two batches ahead of the one that is answered"
    predictions.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_file_that_cannot_be_read_says_why(monkeypatch, error, message):
    def fails(_):
        raise error

    monkeypatch.setattr(Path, "read_bytes", fails)
    (answer,) = predict(classifier(), ["a.jpg"])
    assert answer.error == message and not answer.classes


def test_odd_files_are_answered_or_named(tmp_path):
    pixels = picture(0)
    turned = Image.Exif()
    turned[0x0112] = 6  # the first row is at the right
    Image.fromarray(pixels).save(tmp_path / "exif.png", exif=turned)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "eight.png")
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere")
    not_utf8 = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png")
    Path(not_utf8).write_bytes((tmp_path / "whole.png").read_bytes())
    names = sorted(path.name for path in tmp_path.iterdir())
    found = {Path(a.path).name: a for a in predict(classifier(), [tmp_path / name for name in names])}
    same = [("exif.png", "upright.png"), ("rgba.png", "whole.png"), ("sixteen.png", "eight.png")]
    for one, other in (*same, (Path(not_utf8).name, "whole.png")):
        assert found[one].classes == found[other].classes and found[one].error is None
    errors = {name: answer.error for name, answer in found.items() if answer.error is not None}
    assert errors.keys() == {"cut.png", "text.jpg", "empty.jpg", "folder.jpg", "link.jpg"}
    assert "truncated" in errors["cut.png"] and "no known format" in errors["text.jpg"]
    assert "empty file" in errors["empty.jpg"] and errors["folder.jpg"] == "a folder, not an image file"
    assert errors["link.jpg"] == "a link to a file that is not there (No such file or directory)"


def test_model_whose_outputs_are_not_finite_is_refused():
    model = classifier()
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(ValueError, match="outputs are not finite"):
        list(predict(model, [picture(0)]))


def test_class_names_must_be_as_many_as_outputs():
    model = classifier()
    set_info(model, dataclasses.replace(info_of(model), class_names=("a", "b")))
    with pytest.raises(ValueError, match="the model has 5 outputs and 2 class names"):
        list(predict(model, [picture(0)]))


def test_small_images_come_in_batches_of_limited_size():
    seen = []
    model = classifier()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    small = np.zeros((16, 16), dtype=np.uint8)
    assert sum(1 for _ in predict(model, (small for _ in range(MAX_BATCH + 10)))) == MAX_BATCH + 10
    assert seen == [MAX_BATCH, 10]


@pytest.mark.slow
def test_one_image_is_answered_without_importing_what_prediction_does_not_need(tmp_path):
    (path,) = files(tmp_path, 1)
    mx.save(classifier(), tmp_path / "model.safetensors")
    code = (
        "import sys; from mixonomy.cli import main\n"
        f"assert main(['predict', {str(tmp_path / 'model.safetensors')!r}, {str(path)!r}]) == 0\n"
        "heavy = {'torchvision', 'timm', 'rich', 'pydantic', 'pyarrow', 'matplotlib', 'huggingface_hub', 'scipy',\n"
        "         'pandas', 'sklearn', 'torchmetrics', 'torch._dynamo', 'torch._inductor', 'sympy',\n"
        "         'mixonomy.training', 'mixonomy.recipe', 'mixonomy.report'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: ")
