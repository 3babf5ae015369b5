"""What is compared: models by name, small ones for small images, and the weights that some of them start from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixonomy.models.create import FAMILIES, family_of, list_models
from mixonomy.models.published import PUBLISHED
from mixonomy.models.timm_model import PREFIX, parts_of
from mixonomy.models.timm_stem import SMALL_SIDE
from mixonomy.recipe import Model
from mixonomy.runs import RunFolder

PRETRAINED = "pretrained"
# Sizes for a CPU; patches and stems follow the image, see `contender`. Source: none; chosen so that a step takes
# about as long for all, within a factor of three at 32 pixels on a core that multiplies bf16.
SMALL: dict[str, dict[str, Any]] = {
    "mixer-small": {
        "name": "mixer",
        "hidden_dim": 96,
        "num_blocks": 6,
        "tokens_mlp_dim": 48,
        "channels_mlp_dim": 384,
    },
    "vit-small": {
        "name": "vit",
        "hidden_dim": 96,
        "num_blocks": 4,
        "num_heads": 3,
        "channels_mlp_dim": 384,
        "pool": "mean",
    },
    "convmixer-small": {"name": "convmixer", "hidden_dim": 128, "num_blocks": 4, "kernel_size": 5},
    "resnet-small": {"name": "timm:resnet10t", "width_factor": 0.5},
    "botnet-small": {"name": "timm:botnet26t_256", "width_factor": 0.25},
    "nfnet-small": {"name": "timm:nf_regnet_b0", "width_factor": 0.375},
}
GRID = {"convmixer": 16}  # patches a side of the small models; 8 in other families
STEM_SIDE = 32  # up to so many pixels the small convolutional models keep the size of the image in the first layers
TINY_SIDE = 16  # up to so many pixels the small models have half the width and half the blocks


@dataclass(frozen=True)
class Contender:
    """One of the models that are compared.

    Args:
      name: as it was asked for.
      model: of the recipe; the default where `init` brings the model.
      init: weights to start from; None for fresh ones.
      note: what was changed for the size of the images.
    """

    name: str
    model: Model = Model()
    init: str | None = None
    note: str = ""


def contender(name: str, image_size: int, *, is_pretrained: bool = False) -> Contender:
    """The contender of a name.

    Small models get patches that make a grid of about 8 x 8 (ConvMixer: 16 x 16), and so do the papers' models on
    images of up to 64 pixels, for which patches of 16 pixels would leave a handful of tokens. timm's models get small
    stems there, see `mixonomy.models.timm_stem`; those among the small models up to 32 pixels.

    Args:
      name: one of SMALL, of `mixonomy list models`, timm:NAME, or weights: a run folder, a file, timm:NAME.TAG or
        hf:OWNER/NAME.
      image_size: pixels a side.
      is_pretrained: whether a name of a model stands for its published weights.
    Raises:
      ValueError: for an unknown name, an image that patches cannot divide, and for a model without published weights
        where they are asked for.
    """
    if name in SMALL:
        if is_pretrained:
            raise ValueError(f"{name} has no published weights; name a model that has, such as mixer-b/16.")
        sizes = dict(SMALL[name])
        if sizes["name"].startswith(PREFIX):
            sizes["stem"] = "small" if image_size <= STEM_SIDE else "imagenet"
        else:
            sizes["patch_size"] = patch_of(image_size, GRID.get(sizes["name"], 8))
            if image_size <= TINY_SIDE:
                halved = {key: value // 2 for key, value in sizes.items() if key.endswith(("_dim", "_blocks"))}
                sizes |= halved
        return Contender(name, Model(**sizes))
    if _is_weights(name):
        return Contender(name, init=name)
    if is_pretrained:
        return Contender(name, init=_published(name))
    if name.startswith(PREFIX):
        parts_of(name)  # an unknown one is refused
        return Contender(name, Model(name=name))
    family = FAMILIES[family_of(name)]
    if name not in family.specs:
        raise ValueError(f"{name} is a family without sizes; use {name}-small, or a name with sizes.")
    if image_size <= SMALL_SIDE and family.specs[name].patch_size > (patch := patch_of(image_size, 8)):
        return Contender(name, Model(name=name, patch_size=patch), note=f"patches of {patch} pixels")
    return Contender(name, Model(name=name))


def patch_of(image_size: int, grid: int) -> int:
    """The patch size that divides the image into the number of patches a side nearest to `grid`.

    Of two as near, the larger patch.

    Raises:
      ValueError: if there is none between half and twice as many.
    """
    sizes = [size for size in range(image_size, 0, -1) if image_size % size == 0]
    size = min(sizes, key=lambda size: abs(image_size // size - grid))
    if not grid / 2 <= image_size // size <= 2 * grid:
        near = max(round(image_size / grid), 1) * grid
        raise ValueError(
            f"images of {image_size} pixels a side cannot be cut into about {grid} x {grid} patches; use {near} pixels."
        )
    return size


def _is_weights(name: str) -> bool:
    """Whether a name is a place of weights, not a model's."""
    if name.startswith(PREFIX):
        return "." in name
    return (
        name.startswith("hf:")
        or (name not in list_models() and name.endswith((".safetensors", ".npz")))
        or ("/" in name and name not in list_models() and name.split("-")[0] not in FAMILIES)
        or (name not in list_models() and RunFolder(Path(os.path.expanduser(name))).exists())
    )


def _published(name: str) -> str:
    """The name of published weights of a model.

    Raises:
      ValueError: if none are known.
    """
    if name.startswith(PREFIX):
        parts_of(name)
        from timm.models import get_pretrained_cfg

        cfg = get_pretrained_cfg(name.removeprefix(PREFIX))
        if cfg is not None and cfg.tag:
            return f"{name}.{cfg.tag}"
        raise ValueError(f"timm publishes no weights of {name}; `mixonomy list weights` shows some.")
    family_of(name)
    found = [each.name for each in PUBLISHED if each.model == name and each.name.startswith(PREFIX)]
    if not found:
        raise ValueError(f"no published weights of {name} are known; `mixonomy list weights` shows those that are.")
    return next((each for each in found if each.endswith("in21k")), found[0])


def default_models() -> Sequence[str]:
    """One of each architecture, of a size for a CPU."""
    return tuple(SMALL)
