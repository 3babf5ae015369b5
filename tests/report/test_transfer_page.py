"""The page of a transfer: what its table says, which plots it has, and that a browser shows it."""

from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from report_page import Page

from mixonomy.evals.suites import VTAB1K, Suite, Task
from mixonomy.report.transfer_page import write_transfer_page
from mixonomy.transferring import means

CHROMIUM = Path("/usr/bin/chromium")


def row_of(task: Task, size: int | None, top1: list[float], shots: tuple[int, ...] = (1, 5)) -> dict[str, Any]:
    """A line of transfer.json."""
    few = {str(n): {"mean": top1[0] / 2 + n / 100, "std": 0.01} for n in shots}
    about = {"task": task.name, "group": task.group, "image_size": size, "lr": 0.03, "n": 2000, "bad_images": 0}
    return {**about, "top1": top1, "mean": fmean(top1), "std": stdev(top1), "few_shot": few}


def result_of(suite: Suite, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of transfer.json with these rows."""
    averages = {"means": means(suite, rows), "group_means": means(suite, rows, groups=True)}
    return {"init": "w", "suite": asdict(suite), "rows": rows, "absent": [], "failed": [], **averages}


def test_page_has_published_numbers_in_columns_of_their_own_and_not_beside_a_mean_of_fewer_tasks(tmp_path):
    one = Task("a", "digits", 10, published={"big": (70.5, "book, page 3")})
    suite = Suite("s", (one, Task("b", "digits", 10)), {"big": (60.25, "book, page 4")})
    rows = [row_of(task, None, [0.5, 0.75]) for task in suite.tasks]
    for given, expected in (
        (rows, ["mean of s", "–", "as trained", "62.50 ± 17.68", "60.25"]),
        (rows[:1], ["mean of s, 1 of 2 tasks", "–", "as trained", "62.50 ± 17.68", "–"]),
    ):
        write_transfer_page(tmp_path / "t.html", result_of(suite, given))
        page = Page(tmp_path / "t.html")
        head, first, *others = page.section("tasks").rows
        assert head[3:5] == ["fine-tuned top-1, %", "published: big, %"] and "5-shot, %" in head
        assert first[:5] == ["a", "–", "as trained", "62.50 ± 17.68", "70.50"]
        assert expected in [row[:5] for row in others]
        lonely = ["mean of all 2 tasks", "–", "–", "–", "60.25"]
        assert (lonely in [row[:5] for row in others]) == (len(given) == 1)
        assert ["a", "big", "book, page 3"] in page.section("published").rows


def test_page_draws_tasks_shots_and_image_sizes_and_groups_where_tasks_are_many(tmp_path):
    few = Suite("s", (Task("a", "digits", 10), Task("b", "digits", 10)))
    rows = [row_of(task, size, [0.5, 0.75]) for task in few.tasks for size in (64, 32)]
    write_transfer_page(tmp_path / "t.html", result_of(few, rows))
    plots = Page(tmp_path / "t.html").section("plots")
    labels = [attrs["aria-label"] for tag, attrs in plots.tags if tag == "svg"]
    shots = "Few images of each class, frozen features: test top-1 by shots, {} px"
    assert labels == [
        "accuracy by task", shots.format(64), shots.format(32), "Test top-1 after fine-tuning, by image size"
    ]  # fmt: skip
    assert "a, pixels 32: 62.5 ± 17.7 %" in plots.text and "b, images of each class 5: 30 ± 1 %" in plots.text
    write_transfer_page(tmp_path / "t.html", result_of(VTAB1K, [row_of(t, None, [0.5, 0.75]) for t in VTAB1K.tasks]))
    plots = Page(tmp_path / "t.html").section("plots")
    assert "structured, images of each class 5: 30 %" in plots.text and "dmlab, images" not in plots.text


def test_page_of_many_tasks_leaves_out_groups_and_plots_without_a_task_that_has_every_score(tmp_path):
    first, *others = VTAB1K.tasks
    rows = [row_of(task, 64 if i % 2 else 32, [0.5, 0.75], (1,) if i % 3 else (5,)) for i, task in enumerate(others)]
    for more, expected in (
        ([], 1),
        ([row_of(first, size, [0.5, 0.75]) for size in (32, 64)], 4),
    ):
        write_transfer_page(tmp_path / "t.html", result_of(VTAB1K, rows + more))
        plots = Page(tmp_path / "t.html").section("plots")
        assert len([tag for tag, _ in plots.tags if tag == "svg"]) == expected
        assert ("natural, 1 of " in plots.text, "specialized, " in plots.text) == (bool(more), False)


@pytest.mark.slow
def test_page_opens_in_a_browser_and_fits_wide_and_narrow_windows(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    rows = [row_of(task, size, [0.5, 0.75]) for task in VTAB1K.tasks for size in (224, 448)]
    write_transfer_page(tmp_path / "t.html", result_of(VTAB1K, rows))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened, errors = browser.new_page(), []
        opened.on("console", lambda message: errors.append(message.text))
        opened.goto((tmp_path / "t.html").as_uri())
        for width in (1200, 380):
            opened.set_viewport_size({"width": width, "height": 900})
            assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
        assert opened.locator("#plots svg").count() == 4 and errors == []
        browser.close()
