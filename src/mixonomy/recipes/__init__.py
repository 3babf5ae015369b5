"""Recipes: one file is one experiment; this finds them by name."""

import ast
import difflib
import importlib
import runpy
from pathlib import Path

from mixonomy.recipe import Recipe

FALLBACK = "folder"  # for data that has no recipe of its own


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load_recipe(name: str) -> Recipe:
    """The recipe of a name, or of a Python file of one's own that sets `recipe`.

    Raises:
      ValueError: if there is no such recipe, or the file sets none.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"no recipe file {name}; give a name from `mixonomy list recipes` or a Python file.")
        try:
            found = runpy.run_path(name).get("recipe")
        except (SyntaxError, ImportError, NameError, AttributeError, TypeError) as error:
            raise ValueError(f"{name} cannot be run as Python ({type(error).__name__}: {error}); mend it.") from None
        if not isinstance(found, Recipe):
            raise ValueError(f"{name} sets no `recipe`; it must hold `recipe = mixonomy.Recipe(...)`.")
        return found
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown recipe {name!r}; {hint}`mixonomy list recipes` shows all names.")
    return importlib.import_module(f"mixonomy.recipes.{name}").recipe


def choose_recipe(name: str | None, source: str | None, root: str | None = None) -> Recipe:
    """The named recipe; else the one of the data's name; else the one for any data; digits if nothing is given.

    Args:
      root: folder of the known data sets, as for `mixonomy.open_source`.
    """
    if name is not None:
        return load_recipe(name)
    if source is None:
        return load_recipe("digits")
    of_data = source.replace("-", "_")
    if of_data in recipe_names() and of_data != FALLBACK:
        return load_recipe(of_data)
    from mixonomy.data import open_source
    from mixonomy.recipes.folder import recipe_for

    try:
        splits = open_source(source, root).splits
    except ValueError:  # which training will explain
        return load_recipe(FALLBACK)
    return recipe_for(len(splits.get("train", ())))


def describe_recipes() -> list[tuple[str, str]]:
    """(name, first sentence) of all recipes, without running them."""
    rows = []
    for name in recipe_names():
        text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
        rows.append((name, text.splitlines()[0]))
    return rows
