"""From tensors and the words beside them to a model: files that mixonomy wrote, and those that timm wrote."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.models.checks import MAX_COUNT, check_arguments, check_finite, checked_info
from mixonomy.models.create import create
from mixonomy.models.files import FORMAT, KEY, checksum, empty_model, load_weights, misfits, read_tensors
from mixonomy.models.info import info_of, set_info
from mixonomy.models.timm_model import ARCHITECTURE, PREFIX, TimmModel, create_timm, our_names, pool_of
from mixonomy.models.timm_weights import from_timm, is_ours
from mixonomy.models.vit import ViT
from mixonomy.preprocessing import MAX_SIDE, EvalCrop, Preprocessing

MAX_CONFIG_BYTES = 2**24  # a config.json with 100,000 names of classes has 3 MB
BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, IndexError)
"""What building a model from a hostile description raises; a RecursionError is a RuntimeError."""

_PLAIN_ARGS = ("img_size", "in_chans", "num_classes", "global_pool")
_SIZE_ARGS = ("patch_size", "embed_dim", "num_blocks", "depth", "mlp_ratio", "num_heads", "dim", "kernel_size")
"""timm's model_args that change no layer, and those that our own families read off the tensors."""


@dataclass(frozen=True)
class TimmConfig:
    """What a config.json of timm says of the weights beside it.

    Args:
      architecture: timm's name; None where there is no config.json.
      num_classes: K; 0 where there is no head, None where nothing is said.
      input_size: (channels, height, width).
      preprocessing: of evaluation. timm's bicubic resizing becomes ours, which is bilinear.
      class_names: in label order; empty if not said.
      pool: how locations become features; None if not said.
      sizes: the sizes that are not the architecture's own, by timm's names.
    """

    architecture: str | None
    num_classes: int | None
    input_size: tuple[int, int, int]
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]
    pool: str | None
    sizes: tuple[str, ...] = ()


def read_safetensors(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Reads a file that `save_model` wrote.

    Args:
      model: the user's own module to fill; needed where the file's architecture is not one of ours.
    Raises:
      ValueError: if the file is damaged, not ours, of a newer format, or of another model; names what differs.
    """
    tensors, metadata = read_tensors(path)
    if KEY not in metadata:
        raise ValueError(f"{path} was not written by mixonomy: it has no description of the model.")
    return described_model(tensors, metadata, str(path), model)


def described_model(
    tensors: dict[str, Tensor], metadata: dict[str, str], where: str, model: nn.Module | None = None
) -> nn.Module:
    """The model of a file that describes it, in evaluation mode.

    Args:
      tensors, metadata: as `read_tensors` gives them.
      where: the file, for errors.
      model: the user's own module to fill, for a file without an architecture.
    Raises:
      ValueError: as `read_safetensors`.
    """
    try:
        content = json.loads(metadata[KEY])
        is_newer = content["format"] > FORMAT
        is_whole = is_newer or "sha256" not in content or content["sha256"] == checksum(tensors, content)
        info = None if is_newer or not is_whole else checked_info(content)
        if info is not None and info.arguments:
            check_arguments(info.arguments, len(tensors))
            tensors = _our_layout(tensors, info.arguments["name"], content.get("layout"), content.get("timm"))
            model = _model_for(tensors, info.arguments) if model is None else model
    except _Misfit as error:
        raise ValueError(f"{where} does not fit this model: {error}.") from None
    except BROKEN as error:
        reason = repr(error) if len(repr(error)) < 300 else type(error).__name__  # it may repeat the file's own words
        raise ValueError(f"{where} has a damaged description of the model ({reason}); write it again.") from None
    if not is_whole:
        raise ValueError(f"{where} does not match its own checksum: it is damaged; take another copy of it.")
    if info is None:
        raise ValueError(f"{where} has format {content['format']}, this version reads up to {FORMAT}; update mixonomy.")
    if model is None:
        raise ValueError(f"{where} holds a module of your own; pass one built the same way: load(..., model=...).")
    check_finite(tensors, model, where)
    load_weights(model, tensors, where)
    set_info(model, info)
    return model.eval()


def foreign_model(
    tensors: dict[str, Tensor], where: str, config: dict[str, Any] | None, num_classes: int | None = None
) -> nn.Module:
    """The model of tensors in timm's names: of our own family where there is one, else timm's behind the adapter.

    Args:
      where: the file, for errors.
      config: the content of timm's config.json, or {"architecture": ...}; None where there is none.
      num_classes: of a new head, where the file has none.
    Raises:
      ValueError: if the tensors are of no known family, or not those of the architecture.
    """
    said = timm_config(config, where)
    try:
        model = from_timm(tensors, where, config)
    except ValueError:
        if said.architecture is None or (is_ours(said.architecture) and "head.weight" in tensors):
            raise  # a damaged file of a family of ours would only be explained in other words
        model = _timm_model(tensors, where, said, num_classes)
    else:
        pool = "token" if isinstance(model, ViT) else "avg"
        if said.pool not in (None, pool):  # which no shape says
            kind = type(model).__name__
            raise ValueError(f"{where} pools by {said.pool!r}, and our {kind} by {pool!r}; it is not read.")
    check_finite(model.state_dict(), model, where)
    info = info_of(model)
    if said.preprocessing is not None and tuple(info.arguments["image_size"]) == said.preprocessing.image_size:
        info = replace(info, preprocessing=said.preprocessing)
    if len(said.class_names) == info.arguments["num_classes"]:
        info = replace(info, class_names=said.class_names)
    set_info(model, info)
    return model.eval()


def read_config(path: Path, where: str) -> dict[str, Any]:
    """The content of a config.json.

    Raises:
      ValueError: if it is no JSON object, or far too large.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is no object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the config.json of {where} cannot be read ({reason}); take another copy of it.") from None
    return content


def timm_config(config: dict[str, Any] | None, where: str) -> TimmConfig:
    """Checks what a config.json says, which anybody may have written.

    Raises:
      ValueError: naming the entry that is wrong.
    """
    if config is None:
        return TimmConfig(None, None, (3, 224, 224), None, (), None)
    try:
        return _checked(config)
    except BROKEN as error:
        reason = str(error)[:200] or type(error).__name__
        raise ValueError(f"the config.json of {where} is not usable ({reason}); mend it, or leave it out.") from None


def _checked(config: dict[str, Any]) -> TimmConfig:
    nested = config.get("pretrained_cfg", config)
    if not isinstance(nested, dict):
        raise TypeError("pretrained_cfg is no object")
    said = {**nested, **{key: config[key] for key in ("num_classes", "label_names", "global_pool") if key in config}}
    architecture = config.get("architecture", nested.get("architecture"))
    if architecture is None:
        raise ValueError("it names no architecture")
    if not isinstance(architecture, str) or not ARCHITECTURE.fullmatch(architecture):
        raise ValueError(f"the architecture is {str(architecture)[:100]!r}")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise TypeError("model_args is no object")
    other = sorted(str(key)[:50] for key in arguments if key not in (*_PLAIN_ARGS, *_SIZE_ARGS))
    if other:
        raise ValueError(f"model_args has {other[0]!r}, which changes the architecture")
    if arguments.get("num_heads") is not None:
        _whole(arguments["num_heads"], 1, MAX_COUNT, "num_heads")
    input_size = said.get("input_size", (3, 224, 224))
    if "img_size" in arguments:
        size = arguments["img_size"]
        input_size = [input_size[0], *(size if isinstance(size, list) else [size, size])]
    channels, height, width = (_whole(value, 1, MAX_SIDE, "input_size") for value in input_size)
    num_classes = said.get("num_classes")
    if num_classes is not None:
        num_classes = _whole(num_classes, 0, MAX_COUNT, "num_classes")
    names = said.get("label_names") or said.get("labels") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        names = ()  # timm also has dictionaries with gaps
    pool = said.get("global_pool", arguments.get("global_pool"))
    return TimmConfig(
        architecture,
        num_classes,
        (channels, height, width),
        _preprocessing(said, channels, (height, width)),
        tuple(names),
        pool if isinstance(pool, str) else None,
        tuple(key for key in arguments if key in _SIZE_ARGS),
    )


def _preprocessing(said: dict[str, Any], channels: int, image_size: tuple[int, int]) -> Preprocessing | None:
    """timm's evaluation: the shorter side to image size / crop_pct, then the centre; None without 1 or 3 channels.

    Source: timm data/transforms_factory.py, `transforms_imagenet_eval`.
    """
    if channels not in (1, 3):
        return None
    crop_pct = said.get("crop_pct", 0.875)
    if isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float) or not 0.1 <= crop_pct <= 2.0:
        raise ValueError(f"crop_pct is {str(crop_pct)[:50]}")
    larger = max(math.floor(image_size[0] / crop_pct), 1)  # timm rounds down
    crop: EvalCrop = "resmall"
    if said.get("crop_mode", "center") == "squash":
        crop = "squash" if crop_pct >= 1.0 else "resize"
    mean, std = said.get("mean", (0.5,) * channels), said.get("std", (0.5,) * channels)
    return Preprocessing(
        image_size,
        channels=channels,
        crop=crop,
        resize=max(larger / image_size[0], 1.0),
        mean=tuple(mean)[:channels],
        std=tuple(std)[:channels],
    )


def _whole(value: Any, low: int, high: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what} holds {str(value)[:50]!r}, and only whole numbers from {low} to {high} make sense")
    return value


class _Misfit(ValueError):
    """Tensors that are not those of the model."""


def _our_layout(tensors: dict[str, Tensor], name: str, layout: Any, config: Any) -> dict[str, Tensor]:
    """The tensors in our names."""
    if layout is None:
        return tensors
    if layout != "timm":
        raise ValueError(f"layout {str(layout)[:50]!r}")
    if name.startswith(PREFIX):
        return our_names(tensors, name)
    return from_timm(tensors, "the file", config).state_dict()


def _model_for(tensors: dict[str, Tensor], arguments: dict[str, Any]) -> nn.Module:
    """A model that the tensors fit, with no initial weights drawn."""
    if not str(arguments["name"]).startswith(PREFIX):
        return empty_model(arguments)
    # Models of timm may have tensors that are in no file of weights, so they are made for real: once it is clear that
    # the file is one of such a model, and not a small one that asks for gigabytes.
    arguments = {**arguments, "image_size": tuple(arguments["image_size"])}
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                twin = create(**arguments)
        except ValueError:  # a module that computes with values while it is made
            twin = None
        if twin is not None and (problems := misfits(twin.state_dict(), tensors)):
            raise _Misfit(problems)
        return create(**arguments)


def _timm_model(tensors: dict[str, Tensor], where: str, said: TimmConfig, num_classes: int | None) -> TimmModel:
    """timm's model behind the adapter.

    Raises:
      ValueError: if timm does not know the architecture, or the tensors are not its own.
    """
    assert said.architecture is not None
    if said.sizes:
        raise ValueError(f"{where} is a {said.architecture} with another {said.sizes[0]}, which is not read.")
    name = f"{PREFIX}{said.architecture}"
    renamed = our_names(tensors, name)
    has_head = {"head.weight", "head.bias"} <= renamed.keys()
    if not has_head and num_classes is None:
        raise ValueError(f"{where} has no head; give num_classes for a new one.")
    classes = renamed["head.weight"].shape[0] if has_head else num_classes
    assert classes is not None
    channels, height, width = said.input_size
    options = {"num_classes": classes, "image_size": (height, width), "in_channels": channels}
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                twin = create_timm(name, stem="imagenet", **options)
        except ValueError:
            twin = None
        if twin is not None:
            renamed = renamed if has_head else renamed | {f"head.{key}": t for key, t in twin.head.named_parameters()}
            if problems := misfits(twin.state_dict(), renamed):
                raise ValueError(f"{where} does not fit timm's {said.architecture}: {problems}.")
        model = create_timm(name, stem="imagenet", **options)
    renamed = renamed if has_head else renamed | {f"head.{key}": t for key, t in model.head.named_parameters()}
    pool = pool_of(model)
    if said.pool is not None and pool is not None and said.pool != pool:
        raise ValueError(f"{where} pools by {said.pool!r}, and timm's {said.architecture} by {pool!r}; it is not read.")
    load_weights(model, {key: tensor.detach() for key, tensor in renamed.items()}, where)
    return model
