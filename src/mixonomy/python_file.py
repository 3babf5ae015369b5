"""A Python file of the user's own that sets one thing: a recipe, or a suite."""

import runpy
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
# What a mistake in such a file raises; of what else goes wrong in it the traceback says most.
MISTAKES = (SyntaxError, ImportError, NameError, AttributeError, TypeError, ArithmeticError, LookupError, OSError)


def set_in(path: str, name: str, kind: type[T], otherwise: str) -> T:
    """Runs a file and returns what it sets a name to.

    Args:
      kind: what that must be.
      otherwise: what else can be given than such a file.
    Raises:
      ValueError: if there is no such file, it cannot be run, or it does not set the name.
    """
    if not Path(path).is_file():
        raise ValueError(f"no {name} file {path}; give {otherwise} or a Python file that sets `{name}`.")
    try:
        found = runpy.run_path(path).get(name)
    except MISTAKES as error:
        raise ValueError(f"{path} cannot be run as Python ({type(error).__name__}: {error}); mend it.") from None
    if not isinstance(found, kind):
        place = f"{kind.__module__}.{kind.__name__}"
        raise ValueError(f"{path} sets no `{name}`; it must hold `{name} = {place}(...)`.")
    return found
