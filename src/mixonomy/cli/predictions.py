"""How predictions look: a table on a terminal, plain lines elsewhere, JSON lines, a CSV."""

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # torch
    from mixonomy.predicting import Classes, Prediction

NONE = "none of the classes"
LABEL_SEPARATOR = ";"  # as in a CSV of labels
MAX_NAME_WIDTH = 24  # of a class in the table, in columns of the terminal
MIN_PATH_WIDTH = 20
PERCENT_WIDTH = len("100.0%")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula. Source: OWASP, "CSV Injection"."""


def json_line(prediction: "Prediction", *, is_multilabel: bool) -> str:
    """One JSON object: path, and classes (name, prob) or error; `predicted` too if there may be several classes."""
    row: dict[str, object] = {"path": prediction.path}
    if prediction.error is not None:
        row["error"] = prediction.error
    else:
        row["classes"] = _objects(prediction.classes)
        if is_multilabel:
            row["predicted"] = _objects(prediction.predicted)
    return json_text(row)


def json_text(value: object) -> str:
    """JSON on one line, all in ASCII where a name on disk is no valid Unicode.

    It then has lone surrogates, which Python's `os.fsencode` and `json` bring back to the bytes on disk.
    """
    text = json.dumps(value, ensure_ascii=False)
    is_unicode = text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
    return text if is_unicode else json.dumps(value)


def plain_line(prediction: "Prediction", *, is_multilabel: bool, top: int | None) -> str:
    """PATH: name 93.1%, name 4.0%, ..., whatever its length."""
    if prediction.error is not None:
        return f"{printable(prediction.path)}: error: {printable(prediction.error)}"
    return f"{printable(prediction.path)}: {', '.join(_texts(prediction, is_multilabel, top)) or NONE}"


class Table:
    """Rows of a table with aligned columns, as many as the terminal has room for.

    Args:
      path_width: of the longest path.
      class_names: that may occur.
      top: number of classes to show.
      width: of the terminal, in columns.
    """

    def __init__(self, path_width: int, class_names: tuple[str, ...], *, top: int, width: int):
        self.name_width = min(max((display_width(printable(name)) for name in class_names), default=4), MAX_NAME_WIDTH)
        cell = 2 + self.name_width + 1 + PERCENT_WIDTH
        self.num_cells = max(min(top, (width - min(path_width, MIN_PATH_WIDTH)) // cell), 1)
        self.path_width = min(path_width, max(width - self.num_cells * cell, MIN_PATH_WIDTH))
        self.width = width

    def row(self, prediction: "Prediction", *, is_multilabel: bool, top: int | None) -> str:
        """One line; long paths lose their beginning, long names of classes their end."""
        path = _padded(_cut_left(printable(prediction.path), self.path_width), self.path_width)
        if prediction.error is not None:
            return f"{path}  error: {printable(prediction.error)}"
        if is_multilabel:
            text = ", ".join(_texts(prediction, is_multilabel, top)) or NONE
            return f"{path}  {_cut_right(text, max(self.width - self.path_width - 2, MIN_PATH_WIDTH))}"
        cells = (
            _padded(_cut_right(printable(name), self.name_width), self.name_width) + f" {prob:>{PERCENT_WIDTH}.1%}"
            for name, prob in prediction.classes[: self.num_cells]
        )
        return "  ".join((path, *cells))


@contextmanager
def csv_rows(path: Path, *, top: int) -> Iterator[Callable[["Prediction"], None]]:
    """Writes a CSV with the columns path, label, prob, class_1, prob_1, ... up to `top`, and error.

    label is what is predicted, several classes separated by semicolons. Names on disk that are no valid UTF-8 keep
    their bytes; paths that a spreadsheet would take for a formula begin with "./", which names the same file. The CSV
    is there whole, after the last row, or not at all.
    """
    likeliest = [f"{what}_{n}" for n in range(1, top + 1) for what in ("class", "prob")]
    header = ["path", "label", "prob", *likeliest, "error"]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)

            def write(prediction: "Prediction") -> None:
                row = [_no_formula(prediction.path), *_joined(prediction.predicted)]
                row += [text for name, prob in prediction.classes for text in (name, f"{prob:.6g}")]
                row += [""] * (len(header) - 1 - len(row))
                writer.writerow([*row, prediction.error or ""])

            yield write
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Escapes what would move the cursor, break the line or cannot be printed."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def write_line(text: str, stream: TextIO) -> None:
    """Prints text and a line's end at once; what the stream's encoding lacks is escaped."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def display_width(text: str) -> int:
    """Columns on a terminal: two for wide characters, none for those that sit on the one before."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in ("W", "F")) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is no valid UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _no_formula(path: str) -> str:
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path


def _objects(classes: "Classes") -> list[dict[str, object]]:
    return [{"name": name, "prob": prob} for name, prob in classes]


def _joined(classes: "Classes") -> tuple[str, str]:
    return (
        LABEL_SEPARATOR.join(name for name, _ in classes),
        LABEL_SEPARATOR.join(f"{prob:.6g}" for _, prob in classes),
    )


def _texts(prediction: "Prediction", is_multilabel: bool, top: int | None) -> list[str]:
    """The classes to show; where there may be several and `top` is given, those not predicted in parentheses."""
    classes = prediction.predicted if is_multilabel and top is None else prediction.classes
    below = set(classes) - set(prediction.predicted) if is_multilabel else set()
    texts = {(name, prob): f"{printable(name)} {prob:.1%}" for name, prob in classes}
    return [f"({text})" if shown in below else text for shown, text in texts.items()]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def _cut_right(text: str, width: int) -> str:
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _cut_left(text: str, width: int) -> str:
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[1:]
    return "…" + text
