"""Files of weights: our safetensors with everything a classifier needs, and Google's .npz. Nothing is unpickled."""

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mixonomy.models.create import create
from mixonomy.models.info import ModelInfo, TrainedOn, info_of, set_info
from mixonomy.models.mixer import from_npz_layout, mixer_size_of_npz, npz_name
from mixonomy.preprocessing import Preprocessing

FORMAT = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, even if the machine stops now."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is on disk only when the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_model(model: nn.Module, path: str | Path) -> None:
    """Writes weights, architecture, class names and preprocessing into one .safetensors file.

    Raises:
      ValueError: if the model carries no information, see `info_of`.
    """
    info = info_of(model)
    content = {
        "format": FORMAT,
        "arguments": info.arguments,
        "class_names": list(info.class_names),
        "preprocessing": info.preprocessing.to_dict(),
        "loss": info.loss,
        "precision": info.precision,
        "trained_on": None if info.trained_on is None else vars(info.trained_on),
        "temperature": info.temperature,
        "thresholds": list(info.thresholds),
        "changes": list(info.changes),
    }
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), save(tensors, metadata={"mixonomy": json.dumps(content)}))


def read_safetensors(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Reads a file that `save_model` wrote.

    Args:
      model: the user's own module to fill; needed where the file's architecture is not one of ours.
    Raises:
      ValueError: if the file is damaged, not ours, of a newer format, or of another model; names what differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("mixonomy")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); it is damaged or something else.") from None
    if metadata is None:
        raise ValueError(f"{path} was not written by mixonomy: it has no description of the model.")
    try:
        content = json.loads(metadata)
        is_newer = content["format"] > FORMAT
        info = None if is_newer else _info_from(content)
        if model is None and info is not None and info.arguments:
            model = _empty(info.arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged description of the model ({error!r}); write it again.") from None
    if info is None:
        raise ValueError(f"{path} has format {content['format']}, this version reads up to {FORMAT}; update mixonomy.")
    if model is None:
        raise ValueError(f"{path} holds a module of your own; pass one built the same way: load(..., model=...).")
    load_weights(model, tensors, str(path))
    set_info(model, info)
    return model.eval()


def read_npz(path: str | Path) -> nn.Module:
    """Reads a Mixer in Google's .npz layout; square images, tanh GELU, pixels in [-1, 1].

    Raises:
      ValueError: if the file is damaged, pickled, or its keys or shapes are not those of a Mixer.
    Source: vision_transformer vit_jax/models_mixer.py.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {str(key): _float32(str(key), file[key]) for key in file.files}
        size = mixer_size_of_npz({key: array.shape for key, array in arrays.items()})
        num_tokens = arrays["MixerBlock_0/token_mixing/Dense_0/kernel"].shape[0]
        num_classes = arrays["head/kernel"].shape[1]
        in_channels = arrays["stem/kernel"].shape[2]
    except _UNREADABLE as error:
        # numpy would advise to unpickle
        reason = "it is no zip of arrays, or holds Python objects" if "pickle" in str(error) else str(error)
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays ({reason}).") from None
    except KeyError as error:
        raise ValueError(f"{path} is no official Mixer file: it has no {error}.") from None
    side = round(num_tokens**0.5)
    if side * side != num_tokens:
        raise ValueError(f"{path} has {num_tokens} tokens, which make no square grid.")
    image_size = [side * size.patch_size] * 2
    arguments = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    model = _empty({"name": "mixer", **arguments, **vars(size)})
    names: dict[str, str] = {npz_name(name): name for name in model.state_dict()}
    tensors = {names.get(key, key): array for key, array in arrays.items()}
    load_weights(model, {name: from_npz_layout(name, array) for name, array in tensors.items()}, str(path))
    return model.eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copies tensors into a model, strictly.

    Raises:
      ValueError: naming the missing, extra and misshapen tensors, at most five of each.
    """
    own = model.state_dict()
    problems = []
    for what, names in (
        ("it lacks", sorted(own.keys() - tensors.keys())),
        ("it also has", sorted(tensors.keys() - own.keys())),
    ):
        if names:
            problems.append(f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}")
    shapes = [
        f"{name} is {list(tensors[name].shape)} there and {list(own[name].shape)} here"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if shapes:
        problems.append("; ".join(shapes[:5]) + (f" and {len(shapes) - 5} more" if len(shapes) > 5 else ""))
    if problems:
        raise ValueError(f"{where} does not fit this model: {'; '.join(problems)}.")
    is_empty = any(tensor.is_meta for tensor in own.values())
    model.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own}, assign=is_empty)


# What numpy and zipfile raise for files that are damaged, encrypted, pickled or no .npz at all.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, IndexError, AttributeError, EOFError, RuntimeError),
    *(zlib.error, zipfile.BadZipFile),
)


def _float32(key: str, array: Any) -> Tensor:
    if array.dtype.kind != "f":
        raise ValueError(f"{key} holds {array.dtype}, and weights are floating-point numbers")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _info_from(content: dict[str, Any]) -> ModelInfo:
    return ModelInfo(
        content["arguments"],
        Preprocessing.from_dict(content["preprocessing"]),
        tuple(content["class_names"]),
        content["loss"],
        content["precision"],
        TrainedOn(**content["trained_on"]) if content.get("trained_on") else None,
        content.get("temperature", 1.0),
        tuple(content.get("thresholds", ())),
        tuple(content.get("changes", ())),
    )


def _empty(arguments: dict[str, Any]) -> nn.Module:
    """A model without memory for its weights, and without drawing initial ones."""
    with torch.device("meta"):
        return create(**{**arguments, "image_size": tuple(arguments["image_size"])})
