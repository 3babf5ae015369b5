"""Files of weights: our safetensors with everything a classifier needs, and Google's .npz. Nothing is unpickled."""

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixonomy.models.checks import check_finite, digest
from mixonomy.models.create import create
from mixonomy.models.info import ModelInfo, info_of
from mixonomy.models.mixer import from_npz_layout, mixer_size_of_npz, npz_name

FORMAT = 1
KEY = "mixonomy"  # of the description in a file's metadata
MAX_EXPANSION = 100  # weights that are not all zero shrink little
MAX_SMALL_BYTES = 2**26  # an .npz that unpacks to no more than this may expand as it likes


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, even if the machine stops now.

    Raises:
      OSError: naming the file, if it cannot be written.
    """
    with _replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors like `write_atomically`, without another copy of them in memory.

    Args:
      tensors: contiguous and on the CPU.
    Raises:
      OSError: naming the file, if it cannot be written.
    """
    with _replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # it has no type of its own for a full disk
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside another, that takes its place when it is written; removed if it cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with errors_name(path):
        try:
            yield temporary
            with open(temporary, "rb+") as file:
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


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Has errors of the system say which file it was: those of a write do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def save_model(model: nn.Module, path: str | Path) -> None:
    """Writes weights, architecture, class names, preprocessing and a checksum of all into one .safetensors file.

    Raises:
      ValueError: if the model carries no information, see `info_of`.
    """
    write_tensors(model.state_dict(), info_of(model), path)


def description(info: ModelInfo) -> dict[str, Any]:
    """What stands beside weights in a file, for JSON."""
    return {
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


def write_tensors(
    tensors: dict[str, Tensor],
    info: ModelInfo,
    path: str | Path,
    timm: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes tensors with the description of the model whose they are.

    Args:
      timm: timm's config, where the tensors have timm's names and shapes.
      about: what else a person may want to know, for JSON.
    """
    content = description(info) | ({} if about is None else {"about": about})
    content |= {} if timm is None else {"layout": "timm", "timm": timm}
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content["sha256"] = checksum(copies, content)
    write_safetensors(Path(path), copies, {"format": "pt", KEY: json.dumps(content)})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a .safetensors file, and its metadata.

    Raises:
      ValueError: if it cannot be read as one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); it is damaged or something else.") from None
    return tensors, metadata


def read_npz(path: str | Path, image_size: tuple[int, int] | None = None) -> nn.Module:
    """Reads a Mixer in Google's .npz layout; tanh GELU, pixels in [-1, 1].

    Args:
      image_size: (height, width) in pixels that the weights are for, if their tokens are as many; else it is square.
    Raises:
      ValueError: if the file is damaged, pickled, unpacks to far more than its size, or its keys, shapes or values are
        not those of a Mixer.
    Source: vision_transformer vit_jax/models_mixer.py.
    """
    try:
        _check_expansion(path)
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
    if size.patch_size < 1:
        raise ValueError(f"{path} has patches of {size.patch_size} pixels; take another copy of it.")
    if image_size is None or num_tokens != (image_size[0] // size.patch_size) * (image_size[1] // size.patch_size):
        side = round(num_tokens**0.5)
        if side * side != num_tokens:
            raise ValueError(f"{path} has {num_tokens} tokens, which make no square grid; give image_size.")
        image_size = (side * size.patch_size, side * size.patch_size)
    arguments = {"num_classes": num_classes, "image_size": list(image_size), "in_channels": in_channels}
    model = empty_model({"name": "mixer", **arguments, **vars(size)})
    names: dict[str, str] = {npz_name(name): name for name in model.state_dict()}
    tensors = {names.get(key, key): array for key, array in arrays.items()}
    tensors = {name: from_npz_layout(name, array) for name, array in tensors.items()}
    check_finite(tensors, model, str(path))
    load_weights(model, tensors, str(path))
    return model.eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copies tensors into a model, strictly.

    Raises:
      ValueError: naming the missing, extra and misshapen tensors, at most five of each.
    """
    own = model.state_dict()
    if problems := misfits(own, tensors):
        raise ValueError(f"{where} does not fit this model: {problems}.")
    is_empty = any(tensor.is_meta for tensor in own.values())
    model.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own}, assign=is_empty)


def misfits(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> str:
    """What is missing, extra, misshapen or of whole numbers instead of weights; empty if all fits."""
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
    types = [
        f"{name} is {tensors[name].dtype} there and {own[name].dtype} here"
        for name in own
        if name in tensors and tensors[name].is_floating_point() != own[name].is_floating_point()
    ]
    for found in filter(None, (shapes, types)):
        problems.append("; ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else ""))
    return "; ".join(problems)


# What numpy and zipfile raise for files that are damaged, encrypted, pickled or no .npz at all.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, IndexError, AttributeError, EOFError, RuntimeError, MemoryError, OverflowError),
    *(zlib.error, zipfile.BadZipFile),
)


def _check_expansion(path: str | Path) -> None:
    """Refuses an archive of zeros that would fill the memory.

    Raises:
      ValueError: with numbers.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(MAX_SMALL_BYTES, MAX_EXPANSION * os.path.getsize(path)):
        raise ValueError(f"it unpacks to {unpacked / 1e6:,.0f} MB, over {MAX_EXPANSION} times its size")


def _float32(key: str, array: Any) -> Tensor:
    if array.dtype.kind != "f":
        raise ValueError(f"{key} holds {array.dtype}, and weights are floating-point numbers")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def checksum(tensors: dict[str, Tensor], content: dict[str, Any]) -> str:
    """Of the tensors and the description, but for the checksum itself."""
    described = {key: value for key, value in content.items() if key != "sha256"}
    return digest(tensors, json.dumps(described, sort_keys=True).encode())


def empty_model(arguments: dict[str, Any]) -> nn.Module:
    """A model for weights to come: without memory for them, and without drawing initial ones."""
    with torch.device("meta"):
        return create(**{**arguments, "image_size": tuple(arguments["image_size"])})
