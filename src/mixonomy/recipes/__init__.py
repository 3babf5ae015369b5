"""Recipes: one file is one experiment; this finds them by name."""

import ast
import difflib
import importlib
from pathlib import Path
from types import ModuleType

from mixonomy.python_file import set_in
from mixonomy.recipe import Recipe, changed

FALLBACK = "folder"  # for data that has no recipe of its own
FINETUNE, FOLDER_FINETUNE = "finetune", "folder_finetune"  # the same with --init, of known data and of others
NOT_OF_DATA = (FALLBACK, FINETUNE, FOLDER_FINETUNE)


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load_recipe(name: str, model: str | None = None) -> Recipe:
    """The recipe of a name, or of a Python file of one's own that sets `recipe`.

    Args:
      model: name of the model that takes the place of the recipe's, which may have settings for it; but a recipe that
        starts from weights has theirs.
    Raises:
      ValueError: if there is no such recipe, or the file sets none.
    """
    if name.endswith(".py"):
        found = set_in(name, "recipe", Recipe, "a name from `mixonomy list recipes`")
        return _with_model(found, model)
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown recipe {name!r}; {hint}`mixonomy list recipes` shows all names.")
    module = _module(name)
    if model is not None and hasattr(module, "for_model"):
        return module.for_model(model)
    return _with_model(module.recipe, model)


def choose_recipe(
    name: str | None,
    source: str | None,
    root: str | None = None,
    init: str | None = None,
    model: str | None = None,
) -> Recipe:
    """The named recipe; else the one of the data's name; else the one for any data; digits if nothing is given.

    One whose length depends on the number of images gets that of the data, where it can be opened.

    Args:
      root: folder of the known data sets, as for `mixonomy.open_source`.
      init: weights to start from, which the recipe then does; one that is not named is for fine-tuning.
      model: see `load_recipe`.
    """
    found = _chosen(name, source, root, init is not None, model if init is None else None)
    return found if init is None else changed(found, init=init)


def _chosen(name: str | None, source: str | None, root: str | None, is_finetuning: bool, model: str | None) -> Recipe:
    source = source or "digits"
    name = name or _of_data(source, is_finetuning)
    found = load_recipe(name, model)
    if name.endswith(".py") or not hasattr(recipe := _module(name), "recipe_for"):
        return found
    from mixonomy.data import open_source

    try:
        splits = open_source(source, root).splits
    except ValueError:  # which training will explain
        return found
    return _with_model(recipe.recipe_for(len(splits.get("train", ()))), model)


def _with_model(recipe: Recipe, model: str | None) -> Recipe:
    return recipe if model is None or recipe.init is not None else changed(recipe, model={"name": model})


def _of_data(source: str, is_finetuning: bool) -> str:
    """The name of the recipe for data."""
    if is_finetuning:
        from mixonomy.data import known_sources

        return FINETUNE if source in dict(known_sources()) else FOLDER_FINETUNE
    name = source.replace("-", "_")
    return name if name in recipe_names() and name not in NOT_OF_DATA else FALLBACK


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"mixonomy.recipes.{name}")


def describe_recipes() -> list[tuple[str, str]]:
    """(name, first sentence) of all recipes, without running them."""
    rows = []
    for name in recipe_names():
        text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
        rows.append((name, text.splitlines()[0]))
    return rows
