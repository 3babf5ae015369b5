"""The page of a range test says what the test found, and needs nothing from outside."""

import re
from pathlib import Path

import numpy as np
import pytest

from mixonomy.lr_range import LrTest
from mixonomy.recipe import Recipe, changed
from mixonomy.report import write_lr_page

RATES = tuple(np.geomspace(1e-7, 0.1, 100).tolist())
LOSSES = tuple((2.3 - 1.5 * np.linspace(0, 1, 100) ** 3).tolist())
TEST = LrTest(0.0042, None, RATES, LOSSES, LOSSES, is_diverged=False)
CHROMIUM = Path("/usr/bin/chromium")


def written(folder: Path, test: LrTest, recipe: Recipe) -> str:
    write_lr_page(folder / "a/b.html", test, recipe)
    return (folder / "a/b.html").read_text(encoding="utf-8")


def test_page_has_the_suggestion_as_options_and_where_the_range_ended(tmp_path):
    page = written(tmp_path, TEST, Recipe())
    assert "<strong>0.0042</strong>" in page and "--lr 0.0042</p>" in page
    assert "The loss did not diverge." in page and "learning rates from 1e-07 to 0.1" in page
    muon = written(tmp_path, LrTest(0.1, 0.005, RATES, LOSSES, LOSSES, is_diverged=True), Recipe())
    assert "--lr 0.1 --optim.rest-lr 0.005</p>" in muon and "The loss diverged there" in muon


def test_page_loads_and_runs_nothing_and_escapes_what_comes_in(tmp_path):
    page = written(tmp_path, TEST, changed(Recipe(), data={"source": "<script>alert(1)</script>"}))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert page.count("<svg") == 1 and page.count('aria-label="training loss over learning rate"') == 1


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write .*b\.html .*; give another --out"):
        written(tmp_path, TEST, Recipe())


@pytest.mark.slow
def test_page_opens_in_a_browser_without_errors(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    written(tmp_path, TEST, Recipe())
    uri = (tmp_path / "a/b.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 420, "height": 900})
        problems: list[str] = []
        requests: list[str] = []
        opened.on("console", lambda message: problems.append(message.text))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(uri)
        needed = opened.evaluate("document.scrollingElement.scrollWidth")
        height = opened.evaluate("document.querySelector('svg').clientHeight")
        browser.close()
    assert problems == [] and needed <= 420 and height > 100
    assert [url for url in requests if not url.startswith("data:")] == [uri]
