"""`mixonomy study`, run as a person runs it."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mixonomy.cli import main, study_training
from mixonomy.cli.study_training import StudyOptions, few_images, num_images
from mixonomy.data import open_source, plan_splits


@pytest.mark.slow
def test_taxonomy_prints_a_table_and_its_json(capsys):
    assert main(["study", "taxonomy", "mixer-s/32", "--image-size", "64", "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out.splitlines()[-1])["taxonomy"]
    assert found["model"] == "mixer-s/32" and found["image_size"] == [64, 64]
    assert found["roles"]["channels"]["parameters"] > found["roles"]["locations"]["parameters"] > 0
    assert sum(role["macs"] for role in found["roles"].values()) == found["total"]["macs"]
    assert re.search(r"^blocks\.\*\.token_mixer x 8 +TokenMLP +locations ", err, re.MULTILINE)
    assert re.search(rf"^mixes locations +{found['roles']['locations']['parameters']:,} ", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["taxonomy", "mixer-b16"], 1, "did you mean 'mixer-b/16'?"),
        (["taxonomy", "mixer-s/32", "--image-size", "100"], 1, "not divisible by patch size 32"),
        (["taxonomi"], 2, "unknown command 'taxonomi'; did you mean 'taxonomy'?"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, status, complaint, capsys):
    assert main(["study", *arguments]) == status
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err


def test_help_names_the_studies(capsys):
    assert main(["study"]) == 2 and main(["study", "--help"]) == 0
    assert re.search(r"^  taxonomy +what each layer", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_a_study_trains_then_makes_the_same_page_from_its_rows(tmp_path, capsys):
    out, again = tmp_path / "ablate", tmp_path / "again"
    command = ["study", "ablate", "--data", "digits", "--quick", "--epochs", "0.1", "--factors", "erf", "--json"]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["differences"]) == {"GELU by erf"} and printed["summary"]
    command_line = "mixonomy study ablate --data digits --quick --epochs 0.1 --factors erf --device cpu"
    assert {row["command"] for row in printed["rows"]} == {command_line}
    assert main(["study", "ablate", "--rows", str(out / "rows.jsonl"), "--out", str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == printed["rows"]
    assert (again / "ablate.html").read_bytes() == (out / "ablate.html").read_bytes()
    assert main(["study", "scale", "--rows", str(out / "rows.jsonl"), "--out", str(again)]) == 1
    assert "has no rows of the study scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["permutation", "--models", "mixer"], "unknown model 'mixer'; use Mixer, ResNet, ViT, ConvMixer."),
        (["ablate", "--factors", "SMA"], "no factor has 'SMA' in its name"),
        (["scale", "--quick", "--fractions", "0"], "a fraction is 0 %"),
        (["ablate", "--quick", "--seeds", "0", "0"], "twice"),
        (["ablate", "--quick", "--train-images", "0"], "train_images"),
        (["scale", "--quick", "--steps", "0"], "0 steps"),
        (
            ["scale", "--rows", "x", "--steps", "0"],
            "--rows writes page and tables and trains nothing; leave --steps out",
        ),
        (["ablate", "--rows", "x", "--data", "digits", "--epochs", "3"], "leave --data and --epochs out"),
        (["compare", "--rows", "x", "--budget", "3s"], "leave --budget out"),
        (["scale", "--rows", "nofile"], "there is no file nofile"),
        (["weights", "--rows", "nofile"], "there is no file nofile"),
        (["compare", "--quick", "--seeds", "1", "1"], "the seed 1 is given twice"),
        (["scale", "--quick", "--fractions", "50", "50"], "the fraction 50 % is given twice"),
        (["permutation", "--quick", "--probe", "nosuch"], "nosuch"),
        (["weights", "x", "--image", "nosuch.png"], "cannot read nosuch.png"),
        (["weights", "x", "--image", __file__], "test_study.py: not a readable image"),
    ],
)
def test_wrong_options_of_a_study_are_one_sentence(arguments, complaint, tmp_path, capsys):
    assert main(["study", *arguments, "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err and not list(tmp_path.iterdir())


def test_quick_takes_some_images_of_a_large_source(monkeypatch):
    assert few_images("digits", StudyOptions(quick=True)) is None, "there are fewer"
    monkeypatch.setattr(study_training, "QUICK_IMAGES", 100)
    assert few_images("digits", StudyOptions(quick=True)) == 100 and few_images("digits", StudyOptions()) is None
    digits = open_source("digits")
    only_train = replace(digits, splits={"train": digits.splits["train"]})  # a tenth of it will be the test images
    monkeypatch.setattr(study_training, "QUICK_IMAGES", len(digits.splits["train"]) - 1)
    monkeypatch.setattr("mixonomy.data.open_source", lambda source, root: only_train)
    assert few_images("digits", StudyOptions(quick=True)) is None


def test_a_share_of_the_images_is_of_those_that_train_once_test_images_are_held_out(monkeypatch):
    digits = open_source("digits")
    only_train = replace(digits, splits={"train": digits.splits["train"]})
    with_test = num_images("digits", StudyOptions())
    assert with_test == len(digits.splits["train"])
    monkeypatch.setattr("mixonomy.data.open_source", lambda source, root: only_train)
    held_out = plan_splits(only_train, 0.0)
    assert num_images("digits", StudyOptions()) == len(held_out.train) < with_test
    asked = []
    monkeypatch.setattr("mixonomy.studies.study.run", lambda study, *others, **options: asked.append(study) or [])
    assert main(["study", "scale", "--quick", "--fractions", "50"]) == 1, "no rows"
    counts = {each.recipe.data.train_images for each in asked[0].planned}
    assert counts == {round(len(held_out.train) / 2)}


QUICK_S = 240  # "about two minutes on two cores", and as much again for a slower or busy machine


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"[1, 2]\n", "line 1: a row is '[1, 2]'"), (b"\x9d\x9e", "is no text; give a .jsonl file")],
)
def test_files_that_hold_no_rows_are_refused_by_name(content, complaint, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert main(["study", "ablate", "--rows", str(path), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err.strip()
    assert f"{path}" in err and complaint in err and "\n" not in err


@pytest.mark.very_slow
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("permutation", {"conversion_max_difference", "converted_curve_max_difference", "curves"}),
        ("ablate", {"differences"}),
        ("scale", {"fits"}),
        ("compare", {"recommended"}),
        ("weights", {"models"}),
    ],
)
def test_quick_studies_run_to_their_end_in_about_two_minutes(name, keys, tmp_path):
    command = [sys.executable, "-m", "mixonomy", "study", name, "--quick", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK_S)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert keys <= set(printed) and all(row["value"] is not None for row in printed["rows"])
    if name == "permutation":
        assert printed["conversion_max_difference"] <= 1e-10
        assert len({(curve["model"], curve["pipeline"]) for curve in printed["curves"]}) == 12
