"""The page in Chromium: drop images, look closer, shuffle; no error, and no request to anybody else."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from serving import SETTINGS, encoded, exported_model, pixels, running

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
CHROMIUM = Path("/usr/bin/chromium")
KEY = "k" * 32
WAIT_MS = 60_000
# Files as if dropped from a desktop.
DROP = """([target, files]) => {
  const data = new DataTransfer();
  for (const [name, type, content] of files) {
    data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, { type }));
  }
  target.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")]


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=WAIT_MS)
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address():
    with running() as (client, _):
        yield str(client.base_url)


class Watched:
    """A page, what its console said and what it asked for."""

    def __init__(self, browser, url: str, **options):
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(WAIT_MS)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def drop(self, *files: tuple[str, str, bytes]) -> None:
        target = self.page.locator("#drop").element_handle()
        given = [[name, kind, base64.b64encode(content).decode()] for name, kind, content in files]
        self.page.evaluate(DROP, [target, given])


@pytest.fixture
def watched(browser, address):
    found = Watched(browser, address, viewport={"width": 1200, "height": 900})
    yield found
    found.page.close()


def test_images_are_dropped_looked_at_and_shuffled(watched, address):
    page, expect = watched.page, sync_api.expect
    expect(page.locator("#model-facts")).to_contain_text("5 classes")
    expect(page.locator("#knows")).to_contain_text("It tells apart: ")
    second = encoded("JPEG", Image.fromarray(pixels(seed=1)))
    watched.drop(
        ("one.png", "image/png", encoded()), ("two.jpg", "image/jpeg", second), ("no.txt", "text/plain", b"text")
    )
    expect(page.locator(".card")).to_have_count(3)
    expect(page.locator(".card .bars li")).to_have_count(10)
    expect(page.get_by_role("alert")).to_have_text("this is not an image.")
    expect(page.locator("#status")).to_contain_text("no.txt: this is not an image.")
    expect(page.locator(".card .time").first).to_contain_text("model")
    assert "<b>cat</b>" in page.locator(".card .bars").first.inner_text()  # a name of a class, not markup

    expect(page.locator("#occlusion-note")).to_contain_text("depends")
    expect(page.locator("#units li")).to_have_count(8)
    for answered in ("#original li", "#converted li"):
        expect(page.locator(answered)).to_have_count(3)
    plain = page.locator("#original").inner_text()
    assert page.locator("#converted").inner_text() == plain
    page.get_by_label("Patches", exact=True).check(force=True)
    expect(page.locator("#shuffle-note")).to_contain_text("as for the plain")
    assert page.locator("#converted").inner_text() == plain != page.locator("#original").inner_text()
    page.get_by_label("Nothing", exact=True).check(force=True)
    expect(page.locator("#shuffle-note")).to_have_text("")
    expect(page.locator("#original")).to_have_text(page.locator("#converted").inner_text().replace("\n", ""))

    page.get_by_label("Look closer at two.jpg").click()
    expect(page.locator("#closer-title")).to_have_text("A closer look at two.jpg")
    expect(page.locator(".card.chosen .name")).to_have_text("two.jpg")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)
    assert watched.said == []
    others = [url for url in watched.asked if not url.startswith((address, "data:", "blob:"))]
    assert others == []


def test_keyboard_alone_reaches_and_moves_everything(watched):
    page, expect = watched.page, sync_api.expect
    page.set_input_files("#files", [{"name": "one.png", "mimeType": "image/png", "buffer": encoded()}])
    expect(page.locator("#closer")).to_be_visible()
    expect(page.locator("#original li")).to_have_count(3)
    expect(page.locator("#units li")).to_have_count(8)
    reached = []
    page.locator("body").press("Tab")
    for _ in range(14):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    for name in ("files", "clear", "Look closer", "show-map", "block"):
        assert name in reached, reached
    page.locator("input[value=none]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("input[value=patches]")).to_be_checked()
    page.locator("#share").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#share-text")).to_have_text("95 %")
    page.locator("#block").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#block-text")).to_have_text("2 of 2")
    unnamed = page.evaluate(
        "Array.from(document.querySelectorAll('input, button, canvas')).filter((e) => e.offsetParent && "
        "!(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    assert watched.said == []


def test_images_that_are_cleared_while_they_are_classified_do_not_come_back(watched):
    page, expect = watched.page, sync_api.expect
    held, asked = [], "**/v1/predict*"
    page.route(asked, lambda route: held.append(route))
    watched.drop(*((f"{n}.png", "image/png", encoded()) for n in range(6)))
    expect(page.locator(".card")).to_have_count(6)
    while len(held) < 4:
        page.wait_for_timeout(10)
    page.get_by_role("button", name="Clear").click()
    with page.expect_response(asked):
        for route in held[:4]:
            route.continue_()
    page.unroute(asked)
    page.wait_for_load_state("networkidle")
    expect(page.locator("#status")).to_have_text("Cleared.")
    assert not page.locator("#closer").is_visible() and len(held) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "/docs"])
def test_every_width_and_scheme_shows_it_whole(path, scheme, browser, address):
    watched = Watched(browser, address + path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = watched.page
    if not path:
        page.set_input_files("#files", [{"name": 90 * "long" + ".png", "mimeType": "image/png", "buffer": encoded()}])
        sync_api.expect(page.locator("#units li")).to_have_count(8)
    else:
        sync_api.expect(page.locator("section")).to_have_count(9)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 24)"
    assert dark == (scheme == "dark") and watched.said == []
    page.close()


def test_a_key_is_asked_for_and_used(browser):
    with running(replace(SETTINGS, api_keys=(KEY,))) as (client, _):
        watched = Watched(browser, str(client.base_url))
        page, expect = watched.page, sync_api.expect
        expect(page.locator("#key-form")).to_be_visible()
        page.get_by_label("This server asks for a key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#key-form")).to_be_hidden()
        page.set_input_files("#files", [{"name": "one.png", "mimeType": "image/png", "buffer": encoded()}])
        expect(page.locator(".card .bars li")).to_have_count(5)
        assert KEY not in page.content() and all(KEY not in url for url in watched.asked)
        page.close()


def test_an_image_that_the_server_cannot_read_shows_why(watched):
    watched.drop(("cut.png", "image/png", encoded()[:-300]))
    sync_api.expect(watched.page.get_by_role("alert")).to_contain_text("not a readable image")
    assert all("422" in text for text in watched.said)  # the browser itself notes the answer's status


def test_an_exported_mixer_is_not_said_to_know_its_neighbours(browser, tmp_path):
    with running(model=exported_model(tmp_path)) as (client, _):
        watched = Watched(browser, str(client.base_url))
        page, expect = watched.page, sync_api.expect
        page.set_input_files("#files", [{"name": "one.png", "mimeType": "image/png", "buffer": encoded()}])
        expect(page.locator("#original li")).to_have_count(3)
        page.get_by_label("Patches", exact=True).check(force=True)
        expect(page.locator("#shuffle-note")).to_contain_text("an exported file cannot be put in another order")
        expect(page.locator("#converted-box")).to_be_hidden()
        expect(page.locator("#units-panel")).to_be_hidden()
        assert watched.said == []
        page.close()
