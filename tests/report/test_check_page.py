"""The page of a data check shows the pictures that are meant, and needs nothing from outside."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixonomy.data import Source, Split
from mixonomy.data.check import check_source
from mixonomy.report.check_page import MAX_CASES, write_check_page

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<script>alert(1)</script>"


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((40, 40), Image.Resampling.BICUBIC))


class Images(list):
    """Pixels, and files that cannot be read."""


def source(*extra: tuple[object, int]) -> Source:
    train = [(picture(seed), seed % 2) for seed in range(20)] + list(extra)
    test = [(picture(40), 0), (picture(3), 1)]
    splits = {
        name: Split(Images(image for image, _ in rows), np.array([label for _, label in rows]),
                    [f"{HOSTILE}{name}{i}" for i in range(len(rows))])
        for name, rows in (("train", train), ("test", test))
    }  # fmt: skip
    return Source("pets", ("cat", HOSTILE), splits)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    repeated = [(picture(seed), seed % 2) for seed in range(4, 4 + MAX_CASES + 2)]
    check = check_source(source((b"broken", 0), *repeated))
    return write_check_page(check, tmp_path_factory.mktemp("check") / "page.html")


def shown(page: str) -> list[np.ndarray]:
    uris = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def test_leaking_pictures_stand_side_by_side(page):
    leak = page.read_text().split('<section id="leak">')[1].split("</section>")[0]
    first, second = shown(leak)
    np.testing.assert_array_equal(first, picture(3))
    np.testing.assert_array_equal(second, picture(3))
    assert "the same file" in leak and "train" in leak and "test" in leak


def test_only_some_cases_have_pictures_but_all_are_listed(page):
    duplicate = page.read_text().split('<section id="duplicate">')[1].split("</section>")[0]
    assert len(shown(duplicate)) == 2 * MAX_CASES
    assert f"All {MAX_CASES + 2}" in duplicate and duplicate.count("<tr>") == 1 + MAX_CASES + 2


def test_unreadable_images_are_listed_without_pictures(page):
    unreadable = page.read_text().split('<section id="unreadable">')[1].split("</section>")[0]
    assert shown(unreadable) == [] and "not a readable image" in unreadable and "train20" in unreadable


def test_hostile_names_are_text_and_nothing_is_loaded_from_outside(page):
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert links and all(link.startswith(("#", "data:")) for link in links)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert "default-src 'none'" in text


def test_pictures_of_the_other_source_say_whose_they_are(tmp_path):
    other = replace(source(), name="downstream")
    del other.splits["test"]
    page = write_check_page(check_source(source(), other), tmp_path / "page.html").read_text()
    assert "Compared with downstream: train 20." in page
    leak = page.split('<section id="leak-against">')[1].split("</section>")[0]
    assert leak.count("train of downstream") == MAX_CASES
    assert f"train0, train/{HOSTILE}train0 of downstream".replace("<", "&lt;").replace(">", "&gt;") in leak


def test_page_without_findings_says_so(tmp_path):
    clean = source()
    del clean.splits["test"]
    text = write_check_page(check_source(clean), tmp_path / "page.html").read_text()
    assert "Nothing was found" in text and shown(text) == []


def test_what_a_source_left_out_is_said(tmp_path):
    noted = replace(source(), notes=("train of pets has no images of <b>emu</b>, left out.",))
    text = write_check_page(check_source(noted), tmp_path / "page.html").read_text()
    assert "train of pets has no images of &lt;b&gt;emu&lt;/b&gt;, left out." in text


@pytest.mark.slow
def test_page_opens_in_a_browser_without_errors_and_fits_wide_and_narrow_windows(page):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        opened.on("console", lambda message: errors.append(message.text))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(page.as_uri())
        widths = opened.evaluate("Array.from(document.images, image => image.naturalWidth)")
        needed = {}
        for width in (1200, 420):
            opened.set_viewport_size({"width": width, "height": 900})
            needed[width] = opened.evaluate("document.scrollingElement.scrollWidth")
        browser.close()
    assert errors == []
    assert len(widths) == 2 + 2 * MAX_CASES and set(widths) == {40}
    assert all(pixels <= width for width, pixels in needed.items())
