"""The options of the commands, for the page "Commands", from the dataclasses that the command line is read by.

A line `<!-- options: MODULE.CLASS -->` of a page becomes a table of the class's fields: the option, its default, and
what the string below the field says. mkdocs calls `on_page_markdown` for each page.
"""

import ast
import dataclasses
import importlib
import inspect
import re
from typing import Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional

PLACE = re.compile(r"^<!-- options: ([\w.]+)\.(\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the tables into a page."""
    return PLACE.sub(lambda found: options_of(getattr(importlib.import_module(found[1]), found[2])), markdown)


def options_of(command: type) -> str:
    """What a command does, and a Markdown table of its options."""
    hints, texts = get_type_hints(command, include_extras=True), _texts(command)
    rows = ["| option | if not given | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(command):
        if field.name in texts:  # else it is no option but holds those of a recipe
            is_place = _is_positional(hints[field.name])
            name = field.name.upper() if is_place else f"--{field.name.replace('_', '-')}"
            rows.append(f"| `{name}` | {_default(field)} | {_cell(texts[field.name])} |")
    return f"{inspect.getdoc(command)}\n\n" + "\n".join(rows)


def _texts(command: type) -> dict[str, str]:
    """The string below each field, those of base classes too."""
    found: dict[str, str] = {}
    for each in reversed(command.__mro__[:-1]):
        [tree] = ast.parse(inspect.cleandoc(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = str(text.value.value)
    return found


def _is_positional(hint: Any) -> bool:
    """Whether an annotation is `Positional[...]`, or `Annotated` of it."""
    marks = get_args(Positional[int])[1:]
    return any(part in marks for part in _parts(hint))


def _parts(hint: Any) -> list[Any]:
    arguments = get_args(hint)
    return [*arguments, *(part for each in arguments if get_origin(each) is not None for part in _parts(each))]


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "must be given"
    if value in (None, (), [], False):
        return ""
    return " ".join(f"`{part}`" for part in value) if isinstance(value, (list, tuple)) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
