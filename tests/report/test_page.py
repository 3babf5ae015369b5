"""The report says what the run's files say, needs nothing from outside, and shows the right pictures."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_page import Page, decoded
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import binomtest

import mixonomy as mx
from mixonomy.data import open_source, plan_splits
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment, changed
from mixonomy.recipes import load_recipe
from mixonomy.report import advise, plots, read_finished, write_report
from mixonomy.report.intervals import wilson_interval
from mixonomy.report.pictures import training_pictures
from mixonomy.runs import RunFolder

CHROMIUM = Path("/usr/bin/chromium")
SMALL = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
RECIPE = changed(load_recipe("digits"), model=SMALL, duration="40 steps", eval_every="20 steps")
DIGITS = Preprocessing((8, 8), channels=1, crop="squash", mean=(0.5,), std=(0.5,))
HOSTILE = [
    "<script>alert(1)</script>",
    "a\" onmouseover='x'",
    "猫",
    "🙂 & co",
    "مرحبا",
    "$\\alpha$",
    "]]>",
    "7",
    "8",
    "9",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of forty steps on the digits."""
    return mx.train(RECIPE, tmp_path_factory.mktemp("runs") / "digits").path


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy of it, to change and to report on."""
    return RunFolder(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(finished) -> Page:
    """The page that training wrote."""
    return Page(finished / "report.html")


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _rename_classes(run: RunFolder, names: list[str]) -> None:
    with safe_open(run.model, "pt") as file:
        metadata = json.loads(file.metadata()["mixonomy"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    save_file(tensors, run.model, {"mixonomy": json.dumps({**metadata, "class_names": names})})


def test_headline_has_the_numbers_of_the_result(finished, page):
    result = json.loads((finished / "result.json").read_text())
    for number in (
        f"{100 * result['top1']:.2f}%",
        f"{100 * result['top5']:.2f}%",
        f"{100 * result['ece']:.2f}%",
        f"{result['nll']:.4f}",
        f"{result['macro_f1']:.4f}",
        f"{result['params']:,}",
        f"{result['images_per_s']:,.0f}",
        f"{result['seconds']:.1f} s",
    ):
        assert number in page.words
    assert f"top-1 on {result['n']} images (test)" in page.text


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 2), (9876, 10000)])
def test_wilson_interval_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx(tuple(expected), abs=1e-9)


def test_classes_stand_worst_first_with_the_scores_of_the_confusion_matrix(finished, page):
    confusion = np.array(json.loads((finished / "test.json").read_text())["confusion"])
    start = page.rows.index(["class", "F1", "precision", "recall", "images"]) + 1
    rows = page.rows[start : start + 10]
    assert {row[0] for row in rows} == set("0123456789")
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    for name, f1, precision, recall, n in rows:
        hits, labelled, predicted = (v[int(name)] for v in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
        assert (int(n), recall) == (labelled, f"{hits / labelled:.3f}")
        assert precision == (f"{hits / predicted:.3f}" if predicted else "–")
        assert f1 == f"{2 * hits / (labelled + predicted):.3f}"


def test_heat_map_holds_the_counts_of_the_confusion_matrix(finished, page):
    confusion = json.loads((finished / "test.json").read_text())["confusion"]
    start = page.rows.index(["", *"0123456789"]) + 1
    shown = [[int(cell or 0) for cell in row[1:]] for row in page.rows[start : start + 10]]
    assert shown == confusion


def test_confused_pairs_show_both_directions_by_the_counts_of_the_confusion_matrix(finished, page):
    confusion = np.array(json.loads((finished / "test.json").read_text())["confusion"])
    start = page.rows.index(["true and predicted", "images", "of both classes"]) + 1
    both = sorted(np.triu(confusion + confusion.T, 1).ravel().tolist(), reverse=True)[:10]
    rows = page.rows[start : start + len([total for total in both if total])]
    assert [int(row[2]) for row in rows] == [total for total in both if total]
    for forth, back, total, share in rows:
        i, j = int(forth[0]), int(forth[len("0 seen as ")])
        for side, first, second in ((forth, i, j), (back, j, i)):
            count = confusion[first, second]
            assert side == f"{first} seen as {second}" + ("1 image" if count == 1 else f"{count} images")
        assert share == f"{int(total) / (confusion[i].sum() + confusion[j].sum()):.1%}"


def test_every_field_of_the_recipe_is_listed(page):
    rows = {row[0]: row[1] for row in page.rows if len(row) == 3}
    assert rows["optim.lr"] == "0.003"
    assert rows["model.hidden_dim"] == "16"
    assert rows["optim.momentum"] == "–"
    assert set(RECIPE.model_dump()) - {"data", "model", "augment", "optim", "probe"} <= set(rows)
    assert rows["probe.every"]


def test_nothing_is_loaded_from_outside(page):
    links = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    links += [value or "" for _, attrs in page.tags for name, value in attrs.items() if name == "xlink:href"]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"https?://|@import|url\((?!#)", page.source)
    assert "script" not in {tag for tag, _ in page.tags}


def test_ids_are_unique_and_every_link_has_its_target(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    anchors = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert {anchor.removeprefix("#") for anchor in anchors} <= set(ids)


def test_same_run_gives_the_same_page(finished, run, page):
    assert write_report(run).read_bytes() == (finished / "report.html").read_bytes()


def test_hostile_class_names_are_text_and_nothing_else(run, page):
    _rename_classes(run, HOSTILE)
    renamed = Page(write_report(run))
    cells = {cell for row in renamed.rows for cell in row}
    assert set(HOSTILE) <= cells
    assert [tag for tag, _ in renamed.tags] == [tag for tag, _ in page.tags]
    allowed = {name for _, attrs in page.tags for name in attrs}
    assert {name for _, attrs in renamed.tags for name in attrs} == allowed


def test_mistakes_are_shown_by_their_own_pixels(finished, page):
    worst = json.loads((finished / "test.json").read_text())["worst"]
    images = open_source("digits").splits["test"].images
    expected = [np.array(Image.open(io.BytesIO(bytes(images[mistake["index"]])))) for mistake in worst]
    shown = page.section("mistakes").pixels()
    assert len(shown) == len(worst) > 0
    for picture, pixels in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(picture, pixels)


def test_every_kind_of_picture_is_there(finished, page):
    test = json.loads((finished / "test.json").read_text())
    examples = [one for pair in test["confused_pairs"] for one in pair["examples"] if one]
    listed = test["label_errors"]["listed"] + test["val_label_errors"]["listed"]
    assert examples and listed
    assert len(page.pixels()) == len(test["worst"]) + len(examples) + len(listed) + 6 * 7


@pytest.mark.parametrize(
    ("augment", "explains"),
    [
        (Augment(), lambda shown, plain, _: np.array_equal(shown, plain)),
        (
            Augment(flip=True),
            lambda shown, plain, _: np.array_equal(shown, plain) or np.array_equal(shown, plain[:, ::-1]),
        ),
        (
            Augment(mixup=1.0),
            lambda shown, plain, others: any(_is_mixture(shown, plain, other) for other in others),
        ),
        (
            Augment(cutmix_prob=1.0),
            lambda shown, plain, others: any(((shown == plain) | (shown == other)).all() for other in others),
        ),
    ],
)
def test_training_pictures_are_what_the_recipe_makes_of_the_plain_image(augment, explains):
    train = plan_splits(open_source("digits"), 0.1).train
    rows = training_pictures(train, changed(RECIPE, augment=augment.model_dump()), DIGITS)
    plain = [decoded(pictures[0].uri) for _, pictures in rows]
    assert len(rows) == 6
    for own, (_, pictures) in zip(plain, rows, strict=True):
        assert len(pictures) == 7
        assert all(explains(decoded(picture.uri), own, plain) for picture in pictures[1:])


def _is_mixture(shown: np.ndarray, plain: np.ndarray, other: np.ndarray) -> bool:
    """Whether one weight of at least a half for `plain` gives the shown image, to within rounding."""
    gap = plain.astype(float) - other
    if not gap.any():
        return np.array_equal(shown, plain)
    weight = float((gap * (shown - other.astype(float))).sum() / (gap**2).sum())
    return weight > 0.49 and bool((np.abs(other + weight * gap - shown) <= 1).all())


def test_a_run_without_mistakes_or_validation_data_says_so(run):
    def perfect(test):
        n = sum(map(sum, test["confusion"]))
        test.update(top1=1.0, worst=[], confused_pairs=[], confusion=np.diag([n // 10] * 10).tolist())
        for key in ("calibration_before", "calibration_after", "val_label_errors"):
            del test[key]

    _edit(run.test, perfect)
    rows = [line for line in run.metrics.read_text().splitlines() if "val/top1" not in line]
    run.metrics.write_text("\n".join(rows))
    page = Page(write_report(run))
    assert page.text.count("No image was classified wrongly.") == 2
    assert "Nothing was held out for validation" in page.section("curves").text
    assert "the probabilities are as the model gave them" in page.section("calibration").text
    assert "Nothing was held out for validation" in page.section("next").text


def test_unfinished_run_is_refused_in_one_sentence(run):
    (run.path / "result.json").unlink()
    with pytest.raises(ValueError, match=r"is not finished; run the same `mixonomy train` command again\.$"):
        write_report(run)


@pytest.mark.parametrize("name", ["test.json", "model.safetensors"])
def test_a_damaged_file_is_named(run, name):
    (run.path / name).write_bytes(b"{")
    with pytest.raises(ValueError, match="lacks a file or has a damaged one"):
        write_report(run)


def test_missing_data_costs_the_pictures_only(run, page):
    _edit(run.path / "run.json", lambda info: info["recipe"]["data"].update(source="/nowhere/at_all"))
    poorer = Page(write_report(run))
    assert "No pictures: no data set '/nowhere/at_all'" in poorer.text
    assert poorer.pixels() == []
    assert len(poorer.rows) == len(page.rows) - 7
    assert len(re.findall("No pictures: ", poorer.source)) == 4  # mistakes, label errors of two splits, samples


def test_pictures_of_other_data_are_not_shown(run):
    _edit(run.test, lambda test: test["worst"][0].update(name="another.png"))
    page = Page(write_report(run))
    assert "image 'another.png' is not where it was" in page.text
    assert page.pixels() == []


def test_long_curves_are_thinned_to_means_of_equal_parts():
    assert plots.thinned([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert plots.thinned([float(i // 10) for i in range(4000)]) == [float(i) for i in range(400)]


def test_reliability_plot_draws_a_dot_for_each_bin_that_has_images():
    few = plots.reliability_plot([0, 4, 0], [0, 3, 0], [0.0, 2.0, 0.0])
    more = plots.reliability_plot([2, 4, 9], [1, 3, 9], [0.4, 2.0, 8.5])
    dot = r'<use xlink:href="#\w+" [^>]*style="fill: var\(--accent\); stroke: var\(--accent\)"'
    assert [len(re.findall(dot, svg)) for svg in (few, more)] == [1, 3]


def test_calibration_says_what_the_temperature_did_on_validation_images(finished, page):
    test, result = (json.loads((finished / f"{name}.json").read_text()) for name in ("test", "result"))
    before, after = test["calibration_before"], test["calibration_after"]
    assert before["n"] == after["n"] == 143 and after["nll"] < before["nll"]
    section = page.section("calibration")
    assert f"A temperature of {result['temperature']:.3f} is built in" in section.text
    assert section.rows[1:] == [
        ["negative log-likelihood (NLL)", f"{before['nll']:.4f}", f"{after['nll']:.4f}"],
        ["expected calibration error", f"{before['ece']:.2%}", f"{after['ece']:.2%}"],
    ]


def test_likely_label_errors_are_listed_split_by_split_with_their_file(finished, page):
    test = json.loads((finished / "test.json").read_text())
    section = page.section("labels")
    for name, key, n in (("Test", "label_errors", 359), ("Validation", "val_label_errors", 143)):
        found, listed = test[key]["found"], test[key]["listed"]
        assert f"{name}: {found} labels of {n} images" in section.text
        assert listed and all(one["name"] in section.text for one in listed)
    plan = plan_splits(open_source("digits"), 0.1)
    assert plan.val is not None
    for split, key in ((plan.test, "label_errors"), (plan.val, "val_label_errors")):
        assert all(split.names[one["index"]] == one["name"] for one in test[key]["listed"])
    assert "not good enough to be trusted here" in section.text


def test_the_page_begins_with_what_to_do_next(run, page):
    texts = [advice.text for advice in advise(read_finished(run))]
    section = page.section("next")
    assert texts and all(text in section.text for text in texts)
    assert page.source.index('id="next"') < page.source.index('id="curves"')


def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(run):
    _edit(run.test, lambda test: test.pop("train_counts"))
    with pytest.raises(ValueError, match="was written by an earlier version"):
        write_report(run)


def test_images_that_could_not_be_read_are_no_training_pictures(run, page):
    first = plan_splits(open_source("digits"), 0.1).train.names[0]  # the first image of its class, so it is shown
    bad = [{"name": first, "error": "no image"}]
    _edit(run.path / "result.json", lambda result: result.update(bad_images=bad))
    shown = Page(write_report(run))
    assert "1 image could not be read" in shown.section("next").text
    assert ["images left out", f"{first}: no image"] in shown.section("environment").rows
    assert len(shown.pixels()) == len(page.pixels()) and shown.source != page.source


def test_few_shot_scores_on_other_data_are_drawn_by_step_and_shots(run):
    _edit(run.path / "run.json", lambda info: info["recipe"]["probe"].update(source="flowers102"))
    with run.metrics.open("a") as file:
        for step, value in ((20, 0.25), (40, 0.5)):
            scores = {"ridge_10shot": value, "ridge_10shot_std": 0.01, "ridge_1shot": value / 2, "n": 6149}
            file.write(json.dumps({"step": step} | {f"probe/{name}": each for name, each in scores.items()}) + "\n")
    write_report(run)
    curves = Page(run.report).section("curves")
    assert "1-shot, step 20: 12.5 %" in curves.text and "10-shot, step 40: 50 ± 1 %" in curves.text
    assert "6,149 test images of flowers102" in curves.text
    assert [tag for tag, _ in curves.tags].count("svg") == 4


@pytest.mark.slow
def test_page_opens_in_a_browser_without_errors_and_fits_wide_and_narrow_windows(finished):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        requests: list[str] = []
        opened.on("console", lambda message: errors.append(message.text))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto((finished / "report.html").as_uri())
        widths = opened.evaluate("Array.from(document.images, image => image.naturalWidth)")
        plots_shown = opened.evaluate("Array.from(document.querySelectorAll('svg'), svg => svg.clientHeight)")
        needed = {}
        for width in (1200, 420):
            opened.set_viewport_size({"width": width, "height": 900})
            needed[width] = opened.evaluate("document.scrollingElement.scrollWidth")
        browser.close()
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [(finished / "report.html").as_uri()]
    assert len(widths) > 42 and set(widths) == {8}
    assert all(pixels <= width for width, pixels in needed.items())
    assert len(plots_shown) == 4 and min(plots_shown) > 100
