"""`mixonomy data check`, run as a person runs it."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixonomy.cli import main


def png(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def write(prefix, **splits: list[bytes]) -> str:
    """PREFIX_train.parquet and so on; labels alternate."""
    for split, images in splits.items():
        labels = ["cat" if i % 2 else "dog" for i in range(len(images))]
        names = [f"{i}.png" for i in range(len(images))]
        table = pa.table({"image": images, "label": labels, "filename": names})
        pq.write_table(table, f"{prefix}_{split}.parquet")
    return str(prefix)


@pytest.fixture
def leaky(tmp_path) -> str:
    train = [png(seed) for seed in range(12)]
    return write(tmp_path / "pets", train=train, test=[png(30), png(31), png(4, (30, 30))])


def test_what_was_found_is_said_and_the_status_is_one(leaky, capsys):
    assert main(["data", "check", leaky]) == 1
    out, _ = capsys.readouterr()
    assert "pets: 15 images (train 12, test 3)" in out
    assert "PROBLEM  1 picture is in more than one split" in out
    assert "train/4.png = test/2.png: nearly the same" in out
    assert "a model is scored on pictures that it was trained on" in out


def test_notes_alone_are_no_failure_and_only_a_few_cases_are_printed(tmp_path, capsys):
    images = [png(seed) for seed in range(16)]
    source = write(tmp_path / "pets", train=images + images[:8])
    assert main(["data", "check", source]) == 0
    out, _ = capsys.readouterr()
    assert "note     8 pictures are there more than once in a split" in out
    assert out.count("the same file") == 5 and "and 3 more; --json has all" in out


def test_json_is_the_last_line_and_people_read_standard_error(leaky, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["data", "check", leaky, "--json", "--out", str(page)]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert len(out.splitlines()) == 1 and "PROBLEM" in err
    assert [finding["kind"] for finding in result["findings"]] == ["leak"]
    assert result["page"] == str(page) and page.is_file()


def test_without_out_nothing_is_written(leaky, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    main(["data", "check", leaky])
    assert sorted(tmp_path.iterdir()) == before


def test_against_names_the_pictures_of_the_other_source(leaky, tmp_path, capsys):
    other = write(tmp_path / "downstream", test=[png(7), png(50)])
    clean = write(tmp_path / "clean", train=[png(seed) for seed in range(60, 70)])
    assert main(["data", "check", leaky, "--against", other, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["splits"]) == (15, {"train": 12, "test": 3})
    assert (result["against"], result["against_splits"]) == ("downstream", {"test": 2})
    findings = {finding["kind"]: finding for finding in result["findings"]}
    cases = findings["leak-against"]["cases"]
    assert [(image["source"], image["split"], image["name"]) for case in cases for image in case["images"]] == [
        ("pets", "train", "7.png"),
        ("downstream", "test", "0.png"),
    ]
    assert main(["data", "check", clean, "--against", other]) == 0


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path, capsys):
    for folder, first in (("mine", 0), ("theirs", 3)):
        for i in range(6):
            path = tmp_path / folder / "photos" / "train" / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(first + i))
    mine, theirs = str(tmp_path / "mine/photos"), str(tmp_path / "theirs/photos")
    assert main(["data", "check", mine, "--against", theirs]) == 1
    out, _ = capsys.readouterr()
    assert f"{mine}: 6 images (train 6), compared with {theirs}, 6 images (train 6)," in out
    assert f"3 pictures are also in {theirs}" in out
    assert f"train/cat/4.png = train/dog/1.png of {theirs}: the same file" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["data", "chekc"], 2, "unknown command 'chekc'; did you mean 'check'?"),
        (["data", "check", "cifr10"], 1, "did you mean 'cifar10'?"),
        (["data", "check", "digits", "--against", "/no/where"], 1, "no data set '/no/where'"),
        (["data", "check", "digits", "--against", "digits"], 1, "--against is 'digits', the source itself"),
        (["data", "check", "digits", "--workers", "-1"], 1, "--workers is -1; give 0"),
        (["data", "check", "digits", "--out", "labels.csv"], 1, "--out is labels.csv; give a name that ends in .html."),
        (["data", "check", "digits", "--page", "x"], 2, "unrecognized options: --page"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence_and_a_status(arguments, status, message, capsys):
    try:
        found = main(arguments)
    except SystemExit as stop:
        found = stop.code
    out, err = capsys.readouterr()
    assert (found, out) == (status, "") and message in err and len(err.strip().splitlines()) == 1


def test_page_that_cannot_be_written_is_named(leaky, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["data", "check", leaky, "--out", str(tmp_path / "file/page.html")]) == 1
    assert f"cannot write to {tmp_path / 'file/page.html'}" in capsys.readouterr().err


def test_folder_says_what_it_left_out_and_names_its_files_once(tmp_path, capsys):
    for i, name in enumerate(("train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/dog/0.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(i))
    (tmp_path / "test/dog/0.png").write_bytes(png(1))
    (tmp_path / "train/owl").mkdir()
    assert main(["data", "check", str(tmp_path)]) == 1
    out, _ = capsys.readouterr()
    assert f"train of {tmp_path.name} has no images of owl, left out." in out
    assert "train/dog/0.png = test/dog/0.png: the same file" in out and "train/train" not in out


@pytest.mark.parametrize(
    ("command", "missing"),
    [("data check", "SOURCE"), ("data pack", "SOURCE"), ("eval", "RUN"), ("report", "RUN"), ("predict", "RUN")],
)
def test_word_that_is_missing_is_named(command, missing, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"mixonomy {command}: {missing} is missing; `mixonomy {command} --help` shows all options.\n"
    )
