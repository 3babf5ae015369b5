"""Pieces of HTML for the report. Every text that comes in is escaped here, and nowhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from numpy.typing import NDArray

NUMBERED_CELLS = 12  # up to here the cells of a confusion matrix have room for their counts


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Args:
      uri: a data URI.
      alt: what it shows, for those who do not see it.
      is_tiny: enlarged with hard pixel edges, where smoothing would invent detail.
    """

    uri: str
    alt: str
    is_tiny: bool


Card = tuple[Picture, Sequence[tuple[str, str, str]]]
"""A picture and lines of text; a line is what comes before, the word that counts, what comes after."""


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page with a heading; the parts are HTML."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def subheading(text: str) -> str:
    """A heading inside of a section."""
    return f"<h3>{escape(text)}</h3>"


def bullets(texts: Iterable[str]) -> str:
    """Sentences one below the other, each with a mark."""
    return f'<ul class="advice">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """(name, value) pairs side by side."""
    cells = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def figure(svg: str, caption: str, *, is_beside: bool = False) -> str:
    """A plot with its caption below, or beside it where there is room."""
    return (
        f'<figure class="plot{" beside" if is_beside else ""}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    num_texts: int,
    num_last_texts: int = 0,
    bar: int | None = None,
) -> str:
    """A table that scrolls in its own box.

    Args:
      rows: one text for each heading.
      num_texts, num_last_texts: the first and the last columns are text, those between numbers and aligned right.
      bar: a column of shares in [0, 1] that is drawn as bars too; a dash stands for no value.
    """

    def cell(column: int, text: str, tag: str) -> str:
        is_text = column < num_texts or column >= len(head) - num_last_texts
        kind = "" if is_text else ' class="number"'
        share = "" if column != bar or tag == "th" or text == "–" else f' style="--share:{float(text):.3f}"'
        return f"<{tag}{kind}{share}>{escape(text)}</{tag}>"

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(cell(i, text, tag) for i, text in enumerate(cells))}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="box" tabindex="0"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def heat_map(names: Sequence[str], confusion: NDArray) -> str:
    """A confusion matrix as a table whose cells are shaded by their share of the row.

    The diagonal and the mistakes have a colour and a scale each: on one scale, mistakes of a good model would vanish.

    Args:
      names: of the K classes.
      confusion: int64 [K, K], rows are labels, columns predictions.
    """
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    mistakes = shares.copy()
    mistakes[range(len(names)), range(len(names))] = 0
    darkest = max(float(mistakes.max()), 1e-9)
    has_numbers = len(names) <= NUMBERED_CELLS
    kind = f"{'' if has_numbers else ' dense'}{' upright' if max(map(len, names)) <= 2 else ''}"

    def cell(i: int, j: int) -> str:
        count = int(confusion[i, j])
        if not count:
            return "<td></td>"
        shade = shares[i, j] if i == j else shares[i, j] / darkest
        kinds = [*(["hit"] if i == j else []), *(["dark"] if shade > (0.5 if i == j else 0.85) else [])]
        title = f"{names[i]} seen as {names[j]}: {count:,} of {int(confusion[i].sum()):,} ({shares[i, j]:.1%})"
        text = f"{count:,}" if has_numbers else ""
        return f'<td class="{" ".join(kinds)}" style="--shade:{shade:.3f}" title="{escape(title)}">{text}</td>'

    head = "".join(f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names)
    rows = (
        f'<tr><th scope="row" title="{escape(name)}"><span>{escape(name)}</span></th>'
        f"{''.join(cell(i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    )
    return (
        f'<div class="box heat{kind}" tabindex="0"><table>'
        f"<caption>columns: predicted · rows: true</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def gallery(cards: Iterable[Card]) -> str:
    """Pictures side by side, with their lines of text below."""
    items = (
        f"<figure>{image(picture)}<figcaption>"
        + "<br>".join(f"{escape(before)} <b>{escape(word)}</b> {escape(after)}" for before, word, after in lines)
        + "</figcaption></figure>"
        for picture, lines in cards
    )
    return f'<div class="gallery">{"".join(items)}</div>'


def groups(items: Iterable[tuple[str, Sequence[Card]]]) -> str:
    """Galleries that belong together, each with what its pictures have in common above."""
    parts = (f"<div><h3>{escape(name)}</h3>{gallery(cards)}</div>" for name, cards in items)
    return f'<div class="groups">{"".join(parts)}</div>'


def advice_list(items: Iterable[tuple[str, str]]) -> str:
    """A numbered list; each item is a text and the anchor of the section that shows its evidence."""
    lines = "".join(f'<li>{escape(text)} <a href="#{anchor}">Show</a></li>' for text, anchor in items)
    return f'<ol class="advice">{lines}</ol>'


def pair_table(rows: Iterable[tuple[str, str, Sequence[tuple[str, str, Picture | None]]]]) -> str:
    """Pairs of classes that are confused, both directions of a pair in one row.

    Args:
      rows: images in all, their share, and for each direction what it is, its number of images and an example.
    """

    def side(text: str, count: str, picture: Picture | None) -> str:
        shown = "" if picture is None else image(picture)
        return f'<td><div class="side">{shown}<span>{escape(text)}<br><b>{escape(count)}</b></span></div></td>'

    body = "".join(
        f'<tr>{"".join(side(*each) for each in sides)}<td class="number">{escape(total)}</td>'
        f'<td class="number">{escape(share)}</td></tr>'
        for total, share, sides in rows
    )
    head = (
        '<th colspan="2">true and predicted</th><th class="number">images</th><th class="number">of both classes</th>'
    )
    return (
        f'<div class="box pairs" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def picture_grid(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Picture]]]) -> str:
    """A table of pictures; each row has a name."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = (
        f'<tr><th scope="row"><span>{escape(name)}</span></th>{"".join(f"<td>{image(p)}</td>" for p in pictures)}</tr>'
        for name, pictures in rows
    )
    return (
        f'<div class="box samples" tabindex="0"><table><thead><tr><td></td>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def image(picture: Picture) -> str:
    """The picture alone."""
    kind = ' class="tiny"' if picture.is_tiny else ""
    return f'<img src="{picture.uri}" alt="{escape(picture.alt)}"{kind}>'
