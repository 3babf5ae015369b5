"""The house rule: a module imports from lower floors or from its own folder, never from above or beside."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixonomy

ROOT = Path(mixonomy.__file__).parent
FLOORS = {
    "choices": -1, "rendezvous": -1,
    "nn": 0, "durations": 0, "preprocessing": 0, "devices": 0, "progress": 0, "parallel": 0,
    "python_file": 0,
    "recipe": 0.5, "stopping": 0.5,
    "models": 1, "data": 1, "optim": 1,
    "inference": 1.5,
    "runs": 2, "checkpoint": 2, "tracking": 2, "rows": 2,
    "loading": 2.5, "model_card": 2.5,
    "publishing": 2.6,
    "evals": 3,
    "train_state": 3.5,  # one training step and its state, which the loop drives
    "experiment": 3.6,  # what training and the range test begin with
    "predicting": 3.5,
    "probing": 3.6,
    "training": 4,
    "lr_range": 4,  # another use of the training step
    "sweeping": 4.5,
    "recipes": 5, "report": 5,
    "bench": 5.5,  # measures what `mixonomy train` does, and may take a recipe's model for it
    "transferring": 5.5,
    "studies": 6,
    "export": 6,
    "api": 7,
    "serve": 8,
    "cli": 8.5,
    "__main__": 9,
}  # fmt: skip
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path.relative_to(ROOT) != Path("__init__.py"))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST) -> Iterator[str]:
    """The first part below mixonomy of everything that a syntax tree imports, at whatever depth."""
    if _is_type_checking(node):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mixonomy."))
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute in this package"
        if node.module == "mixonomy":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif node.module is not None and node.module.startswith("mixonomy."):
            yield node.module.split(".")[1]
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_module_imports_only_from_lower_floors_or_its_own_folder(path):
    own = path.parts[0].removesuffix(".py")
    assert own in FLOORS, f"{path} is on no floor; give it a row in FLOORS"
    for other in _imports(ast.parse((ROOT / path).read_text())):
        assert other in FLOORS, f"{path} imports {other}, which is on no floor"
        assert other == own or FLOORS[other] < FLOORS[own], f"{path} imports {other}, which is not below it"


def test_every_floor_exists():
    assert set(FLOORS) == {path.parts[0].removesuffix(".py") for path in MODULES}


def test_import_finder_sees_imports_inside_functions_but_not_those_for_type_checkers():
    code = (
        "def f():\n    from mixonomy.api import train\nif TYPE_CHECKING:\n    import mixonomy.cli\nimport mixonomy.nn\n"
    )
    assert list(_imports(ast.parse(code))) == ["api", "nn"]
