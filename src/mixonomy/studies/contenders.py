"""What is compared: models by name, small ones for small images, and the weights that some of them start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixonomy.models.create import FAMILIES, family_of, list_models
from mixonomy.models.published import PUBLISHED
from mixonomy.models.timm_model import PREFIX, parts_of
from mixonomy.models.timm_stem import SMALL_SIDE
from mixonomy.recipe import Model

PRETRAINED = "pretrained"
# Sizes for a CPU; patches follow the image, see `contender`. Source: mixer-small is the recipe cifar10, the others have
# about its multiplications or are small models of timm.
SMALL: dict[str, dict[str, Any]] = {
    "mixer-small": {
        "name": "mixer",
        "hidden_dim": 128,
        "num_blocks": 8,
        "tokens_mlp_dim": 64,
        "channels_mlp_dim": 512,
    },
    "vit-small": {
        "name": "vit",
        "hidden_dim": 128,
        "num_blocks": 6,
        "num_heads": 4,
        "channels_mlp_dim": 512,
        "pool": "mean",
    },
    "convmixer-small": {"name": "convmixer", "hidden_dim": 192, "num_blocks": 6, "kernel_size": 5},
    "resnet-small": {"name": "timm:resnet10t"},
    "botnet-small": {"name": "timm:botnet26t_256"},
    "nfnet-small": {"name": "timm:nf_regnet_b0"},
}
GRID = {"convmixer": 16}  # patches a side of the small models; 8 in other families
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

    Small models get patches that make a grid of 8 x 8 (ConvMixer: 16 x 16), and so do the papers' models on images of
    up to 64 pixels, for which patches of 16 pixels would leave a handful of tokens. timm's models get small stems
    there, see `mixonomy.models.timm_stem`.

    Args:
      name: one of SMALL, of `mixonomy list models`, timm:NAME, or weights: a run folder, a file, timm:NAME.TAG or
        hf:OWNER/NAME.
      image_size: pixels a side.
      is_pretrained: whether a name of a model stands for its published weights.
    Raises:
      ValueError: for an unknown name, and for a model without published weights where they are asked for.
    """
    if name in SMALL:
        if is_pretrained:
            raise ValueError(f"{name} has no published weights; name a model that has, such as mixer-b/16.")
        sizes = dict(SMALL[name])
        if not sizes["name"].startswith(PREFIX):
            sizes["patch_size"] = max(image_size // GRID.get(sizes["name"], 8), 1)
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
    family, patch = FAMILIES[family_of(name)], max(image_size // 8, 1)
    if name not in family.specs:
        raise ValueError(f"{name} is a family without sizes; use {name}-small, or a name with sizes.")
    if image_size <= SMALL_SIDE and family.specs[name].patch_size > patch:
        return Contender(name, Model(name=name, patch_size=patch), note=f"patches of {patch} pixels")
    return Contender(name, Model(name=name))


def _is_weights(name: str) -> bool:
    """Whether a name is a place of weights, not a model's."""
    if name.startswith(PREFIX):
        return "." in name
    return (
        name.startswith("hf:")
        or (name not in list_models() and name.endswith((".safetensors", ".npz")))
        or ("/" in name and name not in list_models() and name.split("-")[0] not in FAMILIES)
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
