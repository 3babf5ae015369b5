"""Builds a model from a name and, where wanted, sizes of one's own."""

import difflib
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from mixonomy.models.info import ModelInfo, set_info
from mixonomy.models.mixer import SPECS, Mixer, MixerSize
from mixonomy.models.timm_model import CURATED, PREFIX, create_timm
from mixonomy.models.timm_stem import Stem
from mixonomy.nn.init import Init
from mixonomy.nn.mlp import Gelu
from mixonomy.preprocessing import Preprocessing

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy import recipe

SIZES = tuple(MixerSize.__dataclass_fields__)


def list_models() -> list[str]:
    """The names that `create` knows; "mixer" is a Mixer of any shape, and of timm's models these are a few."""
    return ["mixer", *SPECS, *CURATED]


def create(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    patch_size: int | None = None,
    hidden_dim: int | None = None,
    num_blocks: int | None = None,
    tokens_mlp_dim: int | None = None,
    channels_mlp_dim: int | None = None,
    gelu: Gelu | None = None,
    init: Init | None = None,
    stem: Stem | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    head_bias: float = 0.0,
) -> nn.Module:
    """A freshly initialised model: images float [B, in_channels, H, W] in [-1, 1] -> logits [B, num_classes].

    Draws initial weights from torch's generator; call `torch.manual_seed` first for the same weights.

    Args:
      name: one of `list_models()`, or "timm:" and the name of any model of timm; "mixer" needs all five sizes, other
        names take them from the paper.
      image_size: pixels, one number or (height, width), multiples of the patch size.
      patch_size, hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim: replace the name's sizes.
      gelu: "tanh" as in Google's weights, "erf" as in timm's; tanh if not given.
      init: "flax" or "timm", whose initial weights; flax if not given.
      stem: for models of timm: "imagenet" as timm has it, "small" for small images, or "auto", see `create_timm`; auto
        if not given.
      dropout: probability inside the MLPs; of a model of timm before the head.
      drop_path: stochastic depth of the last block, growing linearly from 0; of a model of timm by its own rule.
      head_bias: initial bias of the head.
    Raises:
      ValueError: for an unknown name, a missing size, an option that the model does not read, or an image size that
        does not suit it.
    """
    given = {
        "patch_size": patch_size,
        "hidden_dim": hidden_dim,
        "num_blocks": num_blocks,
        "tokens_mlp_dim": tokens_mlp_dim,
        "channels_mlp_dim": channels_mlp_dim,
    }
    height_width = as_height_width(image_size)
    sizes = {key: value for key, value in given.items() if value is not None}
    if name.startswith(PREFIX):
        unread = [*sizes, *(key for key, value in (("gelu", gelu), ("init", init)) if value is not None)]
        if unread:
            raise ValueError(f"{unread[0]} has no effect on {name}; leave it out.")
        _check_counts({"num_classes": num_classes, "in_channels": in_channels})
        _check_counts(dict(zip(("the image's height", "the image's width"), height_width, strict=True)))
        _check_probabilities({"dropout": dropout, "drop_path": drop_path})
        return create_timm(
            name,
            num_classes=num_classes,
            image_size=height_width,
            in_channels=in_channels,
            stem=stem or "auto",
            dropout=dropout,
            drop_path=drop_path,
            head_bias=head_bias,
        )
    if stem is not None:
        raise ValueError(f"stem has no effect on {name}; it belongs to models of timm.")
    size, gelu, init = _size(name, sizes), gelu or "tanh", init or "flax"
    _check_counts({"num_classes": num_classes, "in_channels": in_channels, **vars(size)})
    _check_probabilities({"dropout": dropout, "drop_path": drop_path})
    if drop_path and size.num_blocks == 1:
        raise ValueError("drop_path grows from 0 in the first block, so it has no effect on one block; leave it out.")
    for what, value, allowed in (("gelu", gelu, get_args(Gelu)), ("init", init, get_args(Init))):
        if value not in allowed:
            raise ValueError(f"{what} is {value!r}; use {' or '.join(allowed)}.")
    model = Mixer(
        size,
        image_size=height_width,
        num_classes=num_classes,
        in_channels=in_channels,
        gelu=gelu,
        init=init,
        dropout=dropout,
        drop_path=drop_path,
        head_bias=head_bias,
    )
    arguments: dict[str, Any] = {
        "name": name,
        "num_classes": num_classes,
        "image_size": list(height_width),
        "in_channels": in_channels,
        **vars(size),
        "gelu": gelu,
    }
    if in_channels in (1, 3):  # other numbers of channels come from no image file
        half = (0.5,) * in_channels
        set_info(model, ModelInfo(arguments, Preprocessing(height_width, channels=in_channels, mean=half, std=half)))
    return model


def as_height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of one number or of itself."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def create_from(
    config: "recipe.Model", *, num_classes: int, image_size: tuple[int, int], in_channels: int
) -> nn.Module:
    """The model that a recipe describes."""
    return create(num_classes=num_classes, image_size=image_size, in_channels=in_channels, **config.model_dump())


def _check_counts(counts: dict[str, int]) -> None:
    for what, value in counts.items():
        if value < 1:
            raise ValueError(f"{what} is {value}; give at least 1.")


def _check_probabilities(values: dict[str, float]) -> None:
    for what, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{what} is {value}; give a probability from 0 to less than 1.")


def _size(name: str, given: dict[str, int]) -> MixerSize:
    if name == "mixer":
        missing = [size for size in SIZES if size not in given]
        if missing:
            raise ValueError(f"model 'mixer' needs {', '.join(missing)}; give them, or a name with sizes.")
        return MixerSize(**given)
    if name not in SPECS:
        near = difflib.get_close_matches(name, list_models(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {name!r}; {hint}`mixonomy list models` shows all names.")
    return MixerSize(**{**vars(SPECS[name]), **given})
