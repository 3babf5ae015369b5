"""A page that needs nothing but itself: one HTML file with its style inside, which loads and runs nothing."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

# The browser itself refuses anything from outside, and scripts.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, headline: str, contents: Iterable[tuple[str, str]], *sections: str) -> bytes:
    """The whole file, in UTF-8; names on disk that are no valid Unicode are shown with escapes.

    Args:
      title: text.
      headline, sections: HTML.
      contents: (anchor, name) of the sections, for the links at the top.
    """
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in contents)
    nav = f"<nav>{links}</nav>" if links else ""
    style = Path(__file__).with_name("page.css").read_text()
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>{headline}{nav}</header>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
    return page.encode("utf-8", "backslashreplace")
