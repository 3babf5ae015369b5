"""Loads a trained model from wherever it is: a run folder, a file of weights, timm's weights or the hub."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixonomy.inference.exported import ENDINGS, is_exported, read_exported
from mixonomy.models import info_of, read_npz, resize, set_info
from mixonomy.models.create import as_height_width, check_counts, create
from mixonomy.models.files import KEY, empty_model, load_weights, misfits, read_tensors
from mixonomy.models.hub import CONFIG, HUB, WEIGHTS, fetch, repo_of, timm_repo
from mixonomy.models.reading import described_model, foreign_model, read_config
from mixonomy.models.resize import check_size
from mixonomy.models.surgery import with_head
from mixonomy.models.timm_model import PREFIX
from mixonomy.runs import RunFolder

READ = (".safetensors", ".npz", *ENDINGS)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar")


def load(
    where: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    model: nn.Module | None = None,
) -> nn.Module:
    """Loads a classifier, in evaluation mode, with its class names and preprocessing.

    Args:
      where: a run folder, a folder that `save_pretrained` wrote, a .safetensors file of mixonomy or timm, a Mixer in
        Google's .npz layout, "timm:NAME" for weights that timm publishes, or "hf:OWNER/NAME" on the hub. What is
        downloaded is kept in the hub's cache, and refused if it ever changes. An .onnx or .xml file of `mixonomy
        export` becomes an `ExportedModel`, which takes pixels, uint8 [B, c, H, W].
      num_classes: for a new head, which starts at zero; the class names go. The file's own head stays if it has just
        as many, or if not given.
      image_size: pixels, one number or (height, width). With as many tokens as the weights have, it says for which grid
        they are, such as 6 x 8 patches; any other size resizes the model, see `mixonomy.resize`.
      model: the module to fill, where the run trained one of one's own.
    Raises:
      ValueError: if there is nothing there, or it is damaged, or does not fit; nothing is ever unpickled.
    """
    size = None if image_size is None else as_height_width(image_size)
    if num_classes is not None:
        check_counts({"num_classes": num_classes})
    if model is not None and (num_classes is not None or size is not None):
        raise ValueError("num_classes and image_size have no effect on a module of your own; leave them out.")
    if is_exported(where) and Path(os.path.expanduser(where)).is_file():
        if model is not None or num_classes is not None or size is not None:
            raise ValueError(f"{where} is exported and cannot be changed any more; load the run it came from.")
        return read_exported(where)
    found = as_stored(where, model, num_classes, size)
    if size is not None:
        found = at_size(found, size)
    if num_classes is not None and num_classes != info_of(found).arguments["num_classes"]:
        found = with_head(found, num_classes)
    return found.eval()


def as_stored(
    where: str | Path,
    model: nn.Module | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """The model as it was written, with its own head and at its own size; arguments as for `load`."""
    text = str(where)
    if text.startswith((PREFIX, HUB)):
        repo = timm_repo(text) if text.startswith(PREFIX) else repo_of(text)
        return _of_hub(repo, text, num_classes)
    path = Path(os.path.expanduser(where))
    config = None
    if path.is_dir():
        folder = RunFolder(path)
        if not folder.exists() and (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
            path = path / WEIGHTS
        else:
            folder.check_no_trial()
            if not folder.model.exists():
                raise ValueError(f"the run in {path} is not finished; run the same `mixonomy train` command again.")
            path = folder.model
    if not path.is_file():
        raise ValueError(f"no file or run folder {where}; give a run folder or a file of {', '.join(READ)}.")
    if path.suffix == ".npz":
        return read_npz(path, size)
    if path.suffix.lower() in PICKLED:
        raise ValueError(
            f"{path} is neither a run folder nor .safetensors nor .npz, and files like it may hold a program, so it is "
            f"not opened; where you trust it, convert it to .safetensors first."
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is neither a run folder nor {', '.join(READ)}; other formats are not read.")
    tensors, metadata = read_tensors(path)
    if KEY in metadata or model is not None:
        return described_model(tensors, metadata, str(path), model)
    if path.with_name(CONFIG).is_file():
        config = read_config(path.with_name(CONFIG), str(path))
    elif "architecture" in metadata:
        config = {"architecture": metadata["architecture"]}
    return foreign_model(tensors, str(path), config, num_classes)


def _of_hub(repo: str, text: str, num_classes: int | None) -> nn.Module:
    """A model of the hub, ours or timm's."""
    config_path, weights = fetch(repo, CONFIG), fetch(repo, WEIGHTS)
    if weights is None:
        raise ValueError(f"{text} has no {WEIGHTS} on the hub; pickled weights (.bin, .pt) are never read.")
    tensors, metadata = read_tensors(weights)
    if KEY in metadata:
        return described_model(tensors, metadata, text)
    config = None if config_path is None else read_config(config_path, text)
    return foreign_model(tensors, text, config, num_classes)


def at_size(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The same weights for images of another size: as they are where they fit, else resized.

    Raises:
      ValueError: if the model cannot be resized.
    """
    info = info_of(model)
    stored = tuple(info.arguments["image_size"])
    if size == stored:
        return model
    check_size(model, size)
    arguments: dict[str, Any] = {**info.arguments, "image_size": list(size)}
    state, fresh = model.state_dict(), _fresh(arguments)
    if misfits(fresh.state_dict(), state):
        if arguments["name"].startswith(PREFIX):
            raise ValueError(
                f"{arguments['name']} has weights for {stored[0]}x{stored[1]} pixels alone and cannot be resized; take "
                f"that size, or a Mixer or ViT of mixonomy's own."
            )
        return resize(model, size)
    load_weights(fresh, state, "the model")
    set_info(fresh, replace(info, arguments=arguments, preprocessing=replace(info.preprocessing, image_size=size)))
    return fresh


def regularised(model: nn.Module, *, dropout: float, drop_path: float) -> nn.Module:
    """The same weights with dropout and stochastic depth, which are no part of a trained model; see `create`.

    Raises:
      ValueError: if the model has no use for them.
    """
    if not dropout and not drop_path:
        return model
    info = info_of(model)
    fresh = _fresh({**info.arguments, "dropout": dropout, "drop_path": drop_path})
    load_weights(fresh, model.state_dict(), "the model")
    set_info(fresh, info)
    return fresh


def _fresh(arguments: dict[str, Any]) -> nn.Module:
    """A model of these arguments of `create`, for weights to come; draws no random numbers."""
    if not arguments["name"].startswith(PREFIX):
        return empty_model(arguments)
    with torch.random.fork_rng(devices=[]):  # on the device meta, timm's buffers that no file holds would be lost
        return create(**{**arguments, "image_size": tuple(arguments["image_size"])})
