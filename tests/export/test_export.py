"""Exported files: they answer as the model does, from the same bytes, or they are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exports import NAMES, SIZES, folder_of_images, odd_images, small

import mixonomy as mx
from mixonomy import export
from mixonomy.cli import main
from mixonomy.evals import normalise
from mixonomy.export import agreement, export_model, graph
from mixonomy.export import files as files_of_export
from mixonomy.inference.exported import ExportedModel
from mixonomy.inference.runtimes import write_onnx
from mixonomy.models import info_of
from mixonomy.predicting import predictor_of

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return folder_of_images(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def files(tmp_path_factory, photos) -> dict[str, Path]:
    """One Mixer as the weights themselves, and as exported files."""
    root = tmp_path_factory.mktemp("files")
    mx.save(small("mixer"), root / "weights.safetensors")
    made = {"weights": root / "weights.safetensors"}
    for to, ending in ENDINGS.items():
        made[to] = root / f"model{ending}"
        export_model(made["weights"], to, made[to], source=str(photos), licence="apache-2.0")
    return made


def random_pixels(count: int, size: tuple[int, int] = (12, 16)) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def logits_of(model, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(normalise(images, info_of(model).preprocessing))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_family_answers_the_same_for_any_number_of_images(tmp_path, photos, name):
    size = (64, 96) if name.startswith("timm") else (12, 16)
    model = small(name, size)
    made = export_model(model, "openvino", tmp_path / "model.xml", source=str(photos))
    again = mx.load(made.path)
    assert isinstance(again, ExportedModel) and info_of(again) == info_of(model)
    for count in (1, 2, 5):
        images = random_pixels(count, size)
        torch.testing.assert_close(again(images), logits_of(model, images), atol=1e-4, rtol=0)
    assert again(images[:0]).shape == (0, 3)
    assert made.agreement.max_difference <= 1e-4 and made.agreement.top1_agreement == 1
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]


def test_files_answer_as_the_weights_do_from_the_same_bytes(tmp_path, files):
    paths = odd_images(tmp_path / "odd")
    answers = {kind: list(mx.predict(file, paths, top=3)) for kind, file in files.items()}
    assert all(answer.error is None for answer in answers["weights"])
    assert len({tuple(round(p, 3) for _, p in answer.classes) for answer in answers["weights"]}) == len(paths)
    for kind in ENDINGS:
        for found, expected in zip(answers[kind], answers["weights"], strict=True):
            assert (found.path, [name for name, _ in found.classes]) == (
                expected.path,
                [name for name, _ in expected.classes],
            )
            for (_, prob), (_, wanted) in zip(found.classes, expected.classes, strict=True):
                assert prob == pytest.approx(wanted, abs=1e-5)


def test_commands_run_the_files(tmp_path, files, photos, capsys):
    picture = str(next(photos.rglob("*.png")))
    lines, scores = {}, {}
    for kind, file in files.items():
        assert main(["predict", str(file), picture, "--json"]) == 0
        lines[kind] = json.loads(capsys.readouterr().out)
        assert main(["eval", str(file), "--data", str(photos), "--json"]) == 0
        scores[kind] = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ENDINGS:
        assert lines[kind]["classes"][0]["name"] == lines["weights"]["classes"][0]["name"]
        assert scores[kind]["top1"] == scores["weights"]["top1"]
        assert scores[kind]["nll"] == pytest.approx(scores["weights"]["nll"], abs=1e-5)
        assert scores[kind]["classes"] == list(NAMES)


def test_the_graph_gives_probabilities_with_the_temperature_in_them(files):
    images = random_pixels(4)
    expected = (logits_of(small("mixer"), images) / 0.7).softmax(1)
    for kind in ENDINGS:
        torch.testing.assert_close(mx.load(files[kind]).outputs(images)[1], expected, atol=1e-5, rtol=0)


def test_a_fixed_number_of_images_is_padded(tmp_path, photos):
    made = export_model(small("mixer"), "onnx", tmp_path / "four.onnx", source=str(photos), num_images=4)
    again = mx.load(made.path)
    assert again.num_images == 4 and made.batch == 4
    for count in (0, 1, 4, 6):
        images = random_pixels(count)
        torch.testing.assert_close(again(images), logits_of(small("mixer"), images), atol=1e-4, rtol=0)


def test_description_holds_what_a_program_needs_and_no_path_of_this_machine(files):
    about = mx.load(files["onnx"]).about
    assert about["class_names"] == list(NAMES) and about["licence"] == "apache-2.0"
    assert about["preprocessing"]["image_size"] == [12, 16] and about["exported"]["precision"] == "fp32"
    assert "uint8 [B, 3, 12, 16]" in about["inputs"]["images"]
    for part in (files["onnx"], files["openvino"], files["openvino"].with_suffix(".bin")):
        assert str(Path(export.__file__).parents[2]).encode() not in part.read_bytes()
        assert b"stack_trace" not in part.read_bytes()


def test_the_example_needs_no_mixonomy_and_agrees(tmp_path, files):
    paths = odd_images(tmp_path / "odd")
    code = f"import sys, runpy; sys.modules['mixonomy'] = None; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    found = subprocess.run(
        [sys.executable, "-c", code, str(files["onnx"]), *map(str, paths)], capture_output=True, text=True, check=True
    )
    assert len(EXAMPLE.read_text().splitlines()) <= 32
    lines = [line.rsplit(" ", 2) for line in found.stdout.splitlines()]
    for (path, name, prob), expected in zip(lines, mx.predict(files["onnx"], paths), strict=True):
        assert (path, name) == (expected.path, expected.classes[0][0])
        assert float(prob) == pytest.approx(expected.classes[0][1], abs=0.02)  # Pillow resizes with other rounding


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(graph, "normalise", lambda images, _: images.float() / 255.0)  # the classic mistake
    with pytest.raises(ValueError, match=r"onnx file answers otherwise than the model: its logits differ by up to"):
        export_model(small("mixer"), "onnx", tmp_path / "model.onnx", source=str(photos))
    assert os.listdir(tmp_path) == []


def test_only_close_calls_may_change_the_answer():
    logits = torch.tensor([[1.0, 1.00005, 0.0], [2.0, 1.0, 0.0]])
    probs = logits.softmax(1)
    moved = logits + torch.tensor([[6e-5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = agreement(logits, probs, moved, probs)
    assert (found.changed, found.near_ties, found.top1_agreement) == (1, 1, 0.5) and found.problem() is None
    swapped = logits.flip(1)
    assert "logits differ" in (agreement(logits, probs, swapped, probs).problem() or "")
    assert "probabilities differ" in (agreement(logits, probs, logits, probs.flip(1)).problem() or "")
    assert "logits differ" in (agreement(logits, probs, logits * torch.nan, probs).problem() or "")


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_changed_file_is_refused(tmp_path, files, kind):
    copy = tmp_path / files[kind].name
    copy.write_bytes(files[kind].read_bytes().replace(b"bee", b"ape"))
    weights = files[kind].with_suffix(".bin")
    if kind == "openvino":
        (tmp_path / weights.name).write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match="does not match its own checksum"):
        mx.load(copy)
    if kind == "openvino":
        copy.write_bytes(files[kind].read_bytes())
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / weights.name).write_bytes(content)
        with pytest.raises(ValueError, match="does not match its own checksum"):
            mx.load(copy)
    copy.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read"):
        mx.load(copy)


def test_an_onnx_file_of_others_is_refused(tmp_path):
    write_onnx(torch.nn.Flatten(), torch.zeros(2, 3, 4, 4), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by `mixonomy export`"):
        mx.load(tmp_path / "other.onnx")


def test_what_an_exported_file_cannot_do_is_said(files, tmp_path):
    model = mx.load(files["onnx"])
    with pytest.raises(ValueError, match=r"takes pixels, uint8 \[B, 3, 12, 16\].* given float32 \[2, 3, 12, 16\]"):
        model(torch.zeros(2, 3, 12, 16))
    with pytest.raises(ValueError, match="cannot be changed any more"):
        mx.load(files["onnx"], image_size=32)
    with pytest.raises(ValueError, match="is exported already"):
        export_model(files["onnx"], "openvino", tmp_path / "x.xml")
    with pytest.raises(ValueError, match="is exported and its weights are no more"):
        mx.save(model, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="runs on the CPU here, not on 'cuda'"):
        predictor_of(model, "cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tflite"}, "unknown target 'tflite'; use onnx"),
        ({"int8": True}, "int8 is for openvino, not for onnx"),
        ({"to": "timm", "out": "t", "num_images": 2}, "has no effect on timm"),
        ({"out": "model.xml"}, "for onnx give a name that ends in .onnx"),
        ({"out": None}, "is in no run folder; say by --out"),
        ({"out": "nowhere/model.onnx"}, "its folder does not exist"),
        ({"out": "there.onnx"}, "exists; give another --out, or --overwrite"),
        ({"licence": "My Licence"}, "give the hub's short name"),
        ({"source": None}, "name no data to check the file on"),
        ({"to": "openvino", "out": "m.xml", "int8": True, "max_drop": 0.0}, "max_drop is 0"),
    ],
)
def test_options_that_do_not_suit_are_one_sentence(tmp_path, photos, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").touch()
    given = {"to": "onnx", "out": "model.onnx", "source": str(photos), **options}
    with pytest.raises(ValueError, match=message):
        export_model(small("mixer"), **given)
    assert os.listdir() == ["there.onnx"]


def test_weights_of_a_stranger_beside_the_file_are_not_replaced(tmp_path, photos):
    for to, part in (("openvino", "model.bin"), ("onnx", "model.onnx.data")):
        (tmp_path / part).write_text("of somebody")
        given = {"out": tmp_path / f"model{ENDINGS[to]}", "source": str(photos)}
        with pytest.raises(ValueError, match=rf"{part} exists; give another --out, or --overwrite"):
            export_model(small("mixer"), to, **given)
        assert (tmp_path / part).read_text() == "of somebody"
    files_of_export.remove(tmp_path / "model.xml")  # there is none, so the .bin does not belong to it
    assert (tmp_path / "model.bin").exists()


def test_weights_beside_a_replaced_file_do_not_stay(tmp_path, photos):
    (tmp_path / "model.onnx").write_text("old")
    (tmp_path / "model.onnx.data").write_text("old weights")
    export_model(small("mixer"), "onnx", tmp_path / "model.onnx", source=str(photos), overwrite=True)
    assert isinstance(mx.load(tmp_path / "model.onnx"), ExportedModel) and not (tmp_path / "model.onnx.data").exists()


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_extra_is_named(tmp_path, monkeypatch, to, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs {package}, .*pip install 'mixonomy\[export\]'"):
        export_model(small("mixer"), to, tmp_path / f"model{ENDINGS[to]}")
    assert os.listdir(tmp_path) == []


def test_weights_alone_come_with_scores_and_licence(tmp_path, photos):
    made = export_model(small("mixer"), "safetensors", tmp_path / "w.safetensors", source=str(photos), licence="mit")
    assert made.agreement.max_difference <= 1e-6 and made.images_per_s is None
    assert info_of(mx.load(made.path)) == info_of(small("mixer"))
    with pytest.raises(ValueError, match="timm cannot read this model"):  # timm has no Mixer of this shape
        export_model(small("mixer"), "timm", tmp_path / "folder", source=str(photos))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors"]


@pytest.mark.slow
def test_timm_reads_its_folder(tmp_path, photos):
    made = export_model(small("timm:resnet10t", (64, 96)), "timm", tmp_path / "folder", source=str(photos))
    assert {path.name for path in made.path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert made.agreement.max_difference <= 1e-5


@pytest.mark.slow
def test_nothing_connects_out_and_nothing_is_left_at_home(tmp_path, photos):
    mx.save(small("mixer"), tmp_path / "w.safetensors")
    code = f"""
import socket, sys
def refuse(*arguments):
    raise AssertionError(f"connects to {{arguments}}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from mixonomy.cli import main
data = ["--data", {str(photos)!r}]
main(["export", "w.safetensors", "--to", "openvino", "--out", "m.xml", "--int8", "--max-drop", "99", *data])
main(["predict", "m.xml", {str(next(photos.rglob("*.png")))!r}])
assert sys.modules["openvino_telemetry"] is None and "nncf" in sys.modules, "telemetry is on"
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stdout and (tmp_path / "m.xml").is_file()
    assert not [path for path in home.rglob("*") if "intel" in str(path) or "telemetry" in str(path)]
