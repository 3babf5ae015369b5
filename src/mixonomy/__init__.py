"""mixonomy: train, evaluate, resume and explain MLP-Mixer image classifiers.

Names are imported when they are first used, so that `import mixonomy` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "create": "mixonomy.models",
    "list_models": "mixonomy.models",
    "Recipe": "mixonomy.recipe",
    "load": "mixonomy.loading",
    "save": "mixonomy.api",
    "save_pretrained": "mixonomy.publishing",
    "push_to_hub": "mixonomy.publishing",
    "train": "mixonomy.api",
    "find_lr": "mixonomy.api",
    "evaluate": "mixonomy.api",
    "predict": "mixonomy.api",
    "open_source": "mixonomy.data",
    "mixing_pattern": "mixonomy.nn",
    "permuted": "mixonomy.models",
}

__all__ = [
    "Recipe",
    "create",
    "evaluate",
    "find_lr",
    "list_models",
    "load",
    "mixing_pattern",
    "open_source",
    "permuted",
    "predict",
    "push_to_hub",
    "save",
    "save_pretrained",
    "train",
]

if TYPE_CHECKING:
    from mixonomy.api import evaluate, find_lr, predict, save, train
    from mixonomy.data import open_source
    from mixonomy.loading import load
    from mixonomy.models import create, list_models, permuted
    from mixonomy.nn import mixing_pattern
    from mixonomy.publishing import push_to_hub, save_pretrained
    from mixonomy.recipe import Recipe


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mixonomy' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
