"""`mixonomy predict` as a person runs it: table, JSON lines, CSV, lists on standard input, and exit statuses."""

import csv
import dataclasses
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mixonomy as mx
from mixonomy.cli import main
from mixonomy.cli.predictions import Table, display_width, printable
from mixonomy.models import info_of, set_info
from mixonomy.predicting import Prediction

NAMES = ("ant", "bee", "cat")


def save_model(path: Path, **info) -> Path:
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    model = mx.create("mixer", **sizes, image_size=8, num_classes=len(NAMES))
    torch.nn.init.normal_(model.head.weight)
    set_info(model, dataclasses.replace(info_of(model), class_names=NAMES, precision="fp32", **info))
    mx.save(model, path)
    return path


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder with a model, model.safetensors, and two images, photos/a.png and photos/b.png."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("model.safetensors"))
    Path("photos").mkdir()
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    return tmp_path


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of `mixonomy predict model.safetensors ...`."""
    status = main(["predict", "model.safetensors", *arguments])
    return status, *capsys.readouterr()


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_plain_lines_where_there_is_no_terminal(work, capsys):
    status, out, err = call(capsys, "photos")
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["photos/a.png", "photos/b.png"]
    assert all(re.fullmatch(r"\S+: (\w{3} \d+\.\d%, ){2}\w{3} \d+\.\d%", line) for line in lines)


def test_json_lines_have_a_row_for_every_path(work, capsys):
    Path("photos/text.jpg").write_text("no image")
    status, out, err = call(capsys, "photos/*", "missing.png", "*.gif", "--json", "--top", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and "3 of 5 could not be read" in err
    assert [row["path"] for row in rows] == ["photos/a.png", "photos/b.png", "photos/text.jpg", "missing.png", "*.gif"]
    assert [set(row) for row in rows] == 2 * [{"path", "classes"}] + 3 * [{"path", "error"}]
    assert rows[4]["error"] == "no image matches this pattern" and "No such file" in rows[3]["error"]
    assert all(len(row["classes"]) == 2 and set(row["classes"][0]) == {"name", "prob"} for row in rows[:2])


def test_single_bad_file_is_its_own_row_and_nothing_more(work, capsys):
    status, out, err = call(capsys, "missing.png")
    assert (status, out, err) == (1, "missing.png: error: No such file or directory\n", "")


def test_csv_has_labels_probabilities_and_errors(work, capsys):
    status, out, err = call(capsys, "photos", "missing.png", "--out", "answers.csv", "--top", "2")
    assert status == 1 and out == "3 rows in answers.csv\n" and "1 of 3 could not be read" in err
    with open("answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prob", "class_1", "prob_1", "class_2", "prob_2", "error"]
    _, out, _ = call(capsys, "photos", "--json", "--top", "2")
    for row, line in zip(rows, out.splitlines(), strict=False):
        (first, second) = json.loads(line)["classes"]
        assert (row["label"], row["class_1"], row["class_2"]) == (first["name"], first["name"], second["name"])
        assert float(row["prob"]) == float(row["prob_1"]) == pytest.approx(first["prob"], rel=1e-5)
    assert rows[2] == {**dict.fromkeys(rows[0], ""), "path": "missing.png", "error": "No such file or directory"}
    assert [path.name for path in work.iterdir() if "answers" in path.name] == ["answers.csv"]


def test_csv_is_replaced_only_when_told_and_kept_when_the_command_fails(work, capsys):
    Path("answers.csv").write_text("mine")
    status, out, err = call(capsys, "photos", "--out", "answers.csv")
    assert status == 1 and "answers.csv exists; give another --out, or --overwrite" in err and out == ""
    status = main(["predict", "photos/a.png", "photos", "--out", "answers.csv", "--overwrite"])  # no model
    assert status == 1 and Path("answers.csv").read_text() == "mine"
    assert call(capsys, "photos", "--out", "answers.csv", "--overwrite")[0] == 0
    assert Path("answers.csv").read_text().startswith("path,label,prob,")


def test_interrupted_command_leaves_no_file(work, capsys, monkeypatch):
    def stop(*_, **__):
        yield Prediction("a.png", (("ant", 1.0),), predicted=(("ant", 1.0),))
        raise KeyboardInterrupt

    monkeypatch.setattr("mixonomy.predicting.predict", stop)
    before = sorted(work.iterdir())
    assert call(capsys, "photos", "--out", "answers.csv")[0] == 130
    assert sorted(work.iterdir()) == before


def test_list_on_standard_input(work, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/b.png\0photos/a.png\0")))
    status, out, _ = call(capsys, "-")
    assert status == 0 and [line.split(":")[0] for line in out.splitlines()] == ["photos/b.png", "photos/a.png"]


def test_names_that_are_no_text_break_no_output(work, capsys):
    name = os.fsdecode(b"photos/\xff\n\x1b[31m.png")
    os.rename("photos/a.png", name)
    status, out, err = call(capsys, name)
    assert status == 0 and out.startswith(r"photos/\xff\n\x1b[31m.png: ") and len(out.splitlines()) == 1
    status, out, _ = call(capsys, name, "--json")
    assert status == 0 and os.fsencode(json.loads(out)["path"]) == os.fsencode(name)
    assert call(capsys, name, "--out", "answers.csv")[0] == 0
    with open("answers.csv", newline="", errors="surrogateescape") as file:
        assert next(csv.DictReader(file))["path"] == name


def test_csv_has_no_path_that_a_spreadsheet_takes_for_a_formula(work, capsys, monkeypatch):
    monkeypatch.chdir("photos")
    os.rename("a.png", "=1+1.png")
    os.rename("b.png", "-b=.png")
    status = main(["predict", "../model.safetensors", "--out", "a.csv", "--", "=1+1.png", "-b=.png", "@none.png"])
    assert status == 1
    with open("a.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == ["./=1+1.png", "./-b=.png", "./@none.png"]
    assert [os.path.exists(path) for path in paths] == [True, True, False]


def test_stream_that_knows_no_unicode_gets_escapes(work, capsys, monkeypatch):
    os.rename("photos/a.png", "photos/é.png")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(["predict", "model.safetensors", "photos/é.png"]) == 0
    assert ascii_only.buffer.getvalue().startswith(rb"photos/\xe9.png: ")


def test_several_classes_of_an_image(work, capsys):
    def lines(threshold: float, *arguments: str) -> list[str]:
        save_model(Path("model.safetensors"), thresholds=(threshold,) * 3)
        status, out, _ = call(capsys, "photos/a.png", *arguments)
        assert status == 0
        return out.splitlines()

    (line,) = lines(0.0)
    assert len(re.findall(r"\w{3} \d+\.\d%", line)) == 3
    assert lines(1.0) == ["photos/a.png: none of the classes"]
    (line,) = lines(1.0, "--top", "2")
    assert re.fullmatch(r"photos/a.png: \(\w{3} \d+\.\d%\), \(\w{3} \d+\.\d%\)", line)
    (row,) = (json.loads(line) for line in lines(1.0, "--json", "--top", "9"))
    assert row["predicted"] == [] and {one["name"] for one in row["classes"]} == set(NAMES)
    (row,) = (json.loads(line) for line in lines(0.0, "--json", "--top", "1"))
    assert row["classes"] == row["predicted"][:1] and len(row["predicted"]) == 3
    lines(0.0, "--out", "answers.csv")
    assert set(Path("answers.csv").read_text().splitlines()[1].split(",")[1].split(";")) == set(NAMES)


def test_table_on_a_terminal_is_aligned_and_fits(work, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "46")
    os.rename("photos/a.png", "photos/a photo with a rather long name.png")
    assert main(["predict", "model.safetensors", "photos", "missing.png"]) == 1
    long, short, missing = terminal.getvalue().splitlines()
    assert long.startswith("…") and ".png  " in long and short.startswith("photos/b.png   ")
    assert len(long) == len(short) <= 46 and long.index("%") == short.index("%")
    assert missing.split() == ["missing.png", *"error: No such file or directory".split()]


def test_table_shows_as_many_classes_as_there_is_room_for():
    answer = Prediction("日本.png", tuple((name, 0.25) for name in ("ant", "蜂", "a class with a very long name")))
    names = tuple(name for name, _ in answer.classes)
    for width, shown in ((200, 3), (80, 2), (10, 1)):
        table = Table(8, names, top=3, width=width)
        line = table.row(answer, is_multilabel=False, top=None)
        assert line.count("%") == shown and display_width(line) <= max(width, 8 + 33)
    assert "a class with a very lon…" in Table(8, names, top=3, width=200).row(answer, is_multilabel=False, top=None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b é 日.png", "a b é 日.png"), ("a\nb\t\x1b[2J", r"a\nb\t\x1b[2J"), (os.fsdecode(b"\xff"), r"\xff")],
)
def test_what_cannot_be_printed_is_escaped(text, shown):
    assert printable(text) == shown


def test_progress_is_shown_for_many_images_whose_rows_go_elsewhere(work, capsys, monkeypatch):
    monkeypatch.setattr("mixonomy.cli.predict.MANY", 2)
    monkeypatch.setattr("mixonomy.progress.PLAIN_SECONDS", 0.0)
    assert "image 2/2" in call(capsys, "photos")[2]
    assert call(capsys, "photos/a.png")[2] == ""
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert call(capsys, "photos")[2] == ""


def test_time_left_is_told_by_whole_batches(work, capsys, monkeypatch):
    now = 0.0

    def predict(model, paths, **options):
        nonlocal now
        for path in paths:
            now += 20.0 if path.endswith(("0.png", "2.png")) else 0.0  # two images at a time, in 20 seconds
            yield Prediction(path, (("ant", 1.0),))

    for name in "0123":
        Path(f"photos/{name}.png").write_bytes(Path("photos/a.png").read_bytes())
    monkeypatch.setattr("mixonomy.predicting.predict", predict)
    monkeypatch.setattr("mixonomy.cli.predict.MANY", 2)
    monkeypatch.setattr("time.monotonic", lambda: now)
    _, _, error = call(capsys, *(f"photos/{name}.png" for name in "0123"), "--out", "x.csv")
    assert error.splitlines() == ["image 2/4  0 images/s  0 min 40 s left"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no image files given"),
        (["*.gif"], "no images to classify ('*.gif': no image matches this pattern)"),
        (["empty"], "no images to classify ('empty': a folder without images)"),
        (["a.png", "--top", "0"], "--top is 0; give at least 1"),
        (["a.png", "--batch-size", "0"], "--batch-size is 0; give at least 1"),
        (["a.png", "--overwrite"], "--overwrite has no effect without --out"),
        (["a.png", "--out", "answers.json"], "give a name that ends in .csv"),
        (["a.png", "--out", "nowhere/answers.csv"], "cannot write to nowhere/answers.csv"),
        (["a.png", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_model(Path("model.safetensors"))
    Path("empty").mkdir()
    status, out, err = call(capsys, *arguments)
    assert status == 1 and message in err and len(err.splitlines()) == 1 and out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model.safetensors"]
