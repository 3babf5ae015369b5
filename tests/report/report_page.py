"""A report as the tests read it."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image


class Page(HTMLParser):
    """What is on a page: tags with attributes, the text, and the rows of the tables."""

    def __init__(self, path: Path, source: str = ""):
        super().__init__()
        self.path = path
        self.source = source or path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(self.source)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data.strip())
        if self.in_cell:
            self.rows[-1][-1] += data

    def section(self, anchor: str) -> "Page":
        """One of the sections."""
        found = re.search(f'<section id="{anchor}">.*?</section>', self.source, re.DOTALL)
        assert found is not None, anchor
        return Page(self.path, found[0])

    def pixels(self) -> list[np.ndarray]:
        """The images of the page, decoded by Pillow."""
        return [decoded(attrs["src"] or "") for tag, attrs in self.tags if tag == "img"]


def decoded(uri: str) -> np.ndarray:
    """The pixels of a data URI of a PNG."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
