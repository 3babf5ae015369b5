"""The report of a run whose images have several labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_page import Page

import mixonomy as mx
from mixonomy.data import open_source, plan_splits
from mixonomy.recipe import changed
from mixonomy.recipes import load_recipe
from mixonomy.report import advise, read_finished, write_report
from mixonomy.runs import RunFolder

SMALL = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
PRIMES = (2, 3, 5, 7)


def write_digits(folder: Path, *, num_images: int = 400) -> Path:
    """A CSV of digits that are odd, prime, both or neither, and their images."""
    train = open_source("digits").splits["train"]
    lines = ["path,label"]
    for i in range(num_images):
        digit = int(train.labels[i])
        (folder / f"{i:04d}.png").write_bytes(bytes(train.images[i]))
        labels = [name for name, is_so in (("odd", digit % 2), ("prime", digit in PRIMES)) if is_so]
        lines.append(f"{i:04d}.png,{';'.join(labels)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A finished run of eighty steps, long enough for mistakes of both kinds."""
    folder = tmp_path_factory.mktemp("digits")
    changes = {
        "model": SMALL,
        "duration": "80 steps",
        "eval_every": "8 steps",
        "label_smoothing": 0.0,
        "precision": "fp32",
    }
    recipe = changed(load_recipe("digits"), data={"source": str(write_digits(folder))}, **changes)
    return RunFolder(mx.train(recipe, folder / "run").path)


@pytest.fixture(scope="module")
def page(finished) -> Page:
    return Page(finished.report)


def test_headline_and_tiles_have_the_numbers_of_the_result(finished, page):
    result = finished.result()
    assert f"mean average precision (mAP) on {result['n']} images (a tenth of labels)" in page.text
    for number in (
        f"{result['map']:.2%}",
        f"{result['micro_f1']:.4f}",
        f"{result['macro_f1']:.4f}",
        f"{result['exact']:.2%}",
        f"{result['nll']:.4f}",
    ):
        assert number in page.words


def test_only_sections_that_make_sense_are_there_and_linked(page):
    anchors = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert {"#next", "#curves", "#classes", "#mistakes", "#labels", "#samples"} <= set(anchors)
    assert 'id="confusion"' not in page.source and "#calibration" not in anchors


def test_classes_have_average_precision_and_threshold(finished, page):
    per_class = json.loads(finished.test.read_text())["per_class"]
    head, *rows = page.section("classes").rows
    assert head == ["class", "AP", "F1", "precision", "recall", "threshold", "images"]
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    for name, ap, f1, *_, threshold, n in rows:
        row = per_class[["odd", "prime"].index(name)]
        assert (ap, threshold, int(n)) == (f"{row['ap']:.3f}", f"{row['threshold']:.3f}", row["n"])
        assert f1 == f"{row['f1']:.3f}"


def test_curve_shows_validation_map_and_the_weights_that_were_kept(finished, page):
    result = finished.result()
    text = page.section("curves").text
    assert f"{result['val_map']:.2%} at step {result['best_step']}" in text
    assert "Mean average precision on 36 validation images" in text


def test_mistakes_say_what_was_seen_and_what_the_label_says(finished, page):
    worst = json.loads(finished.test.read_text())["worst"]
    section = page.section("mistakes")
    names = ["odd", "prime"]
    assert {mistake["is_label"] for mistake in worst} == {True, False}
    for mistake in worst:
        name, prob = names[mistake["class"]], f"{mistake['prob']:.1%}"
        assert (f"missed {name} ({prob})" if mistake["is_label"] else f"model: {name} {prob}") in section.text
    assert section.text.count("not ") >= sum(not mistake["is_label"] for mistake in worst)


def test_mistakes_and_label_errors_show_their_own_pixels(finished, page):
    test = json.loads(finished.test.read_text())
    plan = plan_splits(open_source(finished.recipe().data.source), 0.1)
    assert plan.val is not None
    records = [(plan.test, one) for one in test["label_errors"]["listed"]]
    records += [(plan.val, one) for one in test["val_label_errors"]["listed"]]
    folder = Path(finished.recipe().data.source).parent
    assert records and len(page.section("labels").pixels()) == len(records)
    for shown, (split, one) in zip(page.section("labels").pixels(), records, strict=True):
        assert split.names[one["index"]] == one["name"]
        assert np.flatnonzero(split.labels[one["index"]]).tolist() == one["label"]
        np.testing.assert_array_equal(shown, np.array(Image.open(folder / one["name"]).convert("RGB")))


def test_training_pictures_name_all_labels_of_an_image(page):
    rows = page.section("samples").rows[1:]
    assert len(rows) == 6 and {row[0] for row in rows} & {"odd", "prime", "odd, prime"}


def test_advice_and_report_are_written_again_alike(finished, page):
    assert "Validation has 36 images: its scores are rough" in advise(read_finished(finished))[-1].text
    assert write_report(finished).read_text() == page.source


def test_changed_labels_cost_the_pictures_only(finished):
    source = Path(finished.recipe().data.source)
    before = source.read_text()
    lines = [line.split(",")[0] + ",odd;prime" for line in before.splitlines()[1:]]
    source.write_text("\n".join(["path,label", *lines]))
    changed_page = Page(write_report(finished))
    source.write_text(before)
    assert "the data changed after the run" in changed_page.text and changed_page.pixels() == []
