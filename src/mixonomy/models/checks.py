"""What is checked of a file of weights before a model is made of it: anybody may have written it, or a disk bent it."""

import hashlib
import math
from typing import Any, get_args

import torch
from torch import Tensor, nn

from mixonomy.choices import Loss, PrecisionOrAuto
from mixonomy.models.info import ModelInfo, TrainedOn
from mixonomy.preprocessing import MAX_SIDE, Preprocessing

MAX_COUNT = 2**20  # of classes, channels and widths; the largest published head has 115,217 classes
MAX_TEXT = 4096


def digest(tensors: dict[str, Tensor], start: bytes) -> str:
    """SHA-256 over `start`, then names, types, shapes and bytes of the tensors in the order of the names."""
    whole = hashlib.sha256(start)
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def check_finite(tensors: dict[str, Tensor], model: nn.Module, where: str) -> None:
    """Refuses weights that make every answer useless.

    Raises:
      ValueError: naming a parameter that is not finite, or a buffer that holds NaN (an infinite one may be a mask).
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            if name in parameters or tensor.isnan().any():
                raise ValueError(
                    f"{where} holds weights that are no finite numbers ({name}); take another file, or an earlier "
                    f"checkpoint of the training."
                )


def check_arguments(arguments: Any, num_tensors: int) -> None:
    """Refuses arguments of `create` that would take forever or fill the memory.

    Raises:
      ValueError, TypeError: naming one; the caller says of which file.
    """
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise TypeError("the arguments of the model are no object")
    for key, value in arguments.items():
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > 16:
            raise ValueError(f"{key} has {len(values)} values")
        for each in values:
            if isinstance(each, str) and len(each) > MAX_TEXT:
                raise ValueError(f"{key} is a text of {len(each)} characters")
            limit = MAX_SIDE if key == "image_size" else num_tensors if key == "num_blocks" else MAX_COUNT
            if isinstance(each, int | float) and not (-limit <= each <= limit):
                raise ValueError(f"{key} is {each:.6g}" if isinstance(each, float) else f"{key} is far too large")
            if key == "image_size" and (isinstance(each, bool) or not isinstance(each, int)):
                raise TypeError(f"image_size holds {each!r}")
            if each is not None and not isinstance(each, str | int | float):
                raise TypeError(f"{key} is a {type(each).__name__}")


def checked_info(content: dict[str, Any]) -> ModelInfo:
    """The information beside the weights, from the description in a file.

    Raises:
      KeyError, TypeError, ValueError: if an entry is missing or is not what it should be.
    """
    names, thresholds = content["class_names"], content.get("thresholds", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class_names is no list of texts")
    if not isinstance(thresholds, list) or not all(isinstance(t, int | float) for t in thresholds):
        raise TypeError("thresholds is no list of numbers")
    changes = content.get("changes", [])
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        raise TypeError("changes is no list of texts")
    for key, allowed in (("loss", get_args(Loss)), ("precision", get_args(PrecisionOrAuto))):
        if content[key] not in allowed:
            raise ValueError(f"{key} is {content[key]!r}")
    temperature = float(content.get("temperature", 1.0))
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise ValueError(f"temperature is {temperature}")
    trained_on = TrainedOn(**content["trained_on"]) if content.get("trained_on") else None
    return ModelInfo(
        content["arguments"],
        Preprocessing.from_dict(content["preprocessing"]),
        tuple(names),
        content["loss"],
        content["precision"],
        trained_on,
        temperature,
        tuple(thresholds),
        tuple(changes),
    )
