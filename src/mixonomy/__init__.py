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
    "fast": "mixonomy.inference",
    "export_model": "mixonomy.export",
    "find_lr": "mixonomy.api",
    "evaluate": "mixonomy.api",
    "predict": "mixonomy.api",
    "probe": "mixonomy.api",
    "RidgeProbe": "mixonomy.evals",
    "open_source": "mixonomy.data",
    "mixing_pattern": "mixonomy.nn",
    "permuted": "mixonomy.models",
    "resize": "mixonomy.models",
}

__all__ = [
    "Recipe",
    "RidgeProbe",
    "create",
    "evaluate",
    "export_model",
    "fast",
    "find_lr",
    "list_models",
    "load",
    "mixing_pattern",
    "open_source",
    "permuted",
    "predict",
    "probe",
    "push_to_hub",
    "resize",
    "save",
    "save_pretrained",
    "train",
]

if TYPE_CHECKING:
    from mixonomy.api import evaluate, find_lr, predict, probe, save, train
    from mixonomy.data import open_source
    from mixonomy.evals import RidgeProbe
    from mixonomy.export import export_model
    from mixonomy.inference import fast
    from mixonomy.loading import load
    from mixonomy.models import create, list_models, permuted, resize
    from mixonomy.nn import mixing_pattern
    from mixonomy.publishing import push_to_hub, save_pretrained
    from mixonomy.recipe import Recipe


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mixonomy' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
