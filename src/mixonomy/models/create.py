"""Builds a model from a name and, where wanted, sizes of one's own."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from mixonomy.choices import Stem
from mixonomy.models import convmixer, gmlp, mixer, resmlp, vit, window
from mixonomy.models.info import ModelInfo, set_info
from mixonomy.models.isotropic import Options
from mixonomy.models.timm_model import CURATED, PREFIX, create_timm
from mixonomy.nn.init import Init
from mixonomy.nn.mlp import Gelu
from mixonomy.preprocessing import Preprocessing

if TYPE_CHECKING:  # pydantic, which prediction does without
    from mixonomy import recipe


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Args:
      size: a dataclass of the family's sizes.
      specs: name -> size.
      model: (size, options) -> the model.
      gelu: the variant that the family's published weights need.
      unread: options that no model of the family reads.
    """

    size: type[Any]
    specs: Mapping[str, Any]
    model: Callable[[Any, Options], nn.Module]
    gelu: Gelu = "erf"
    unread: tuple[str, ...] = ()


# Any of these names is a model of any shape, with all its sizes given.
FAMILIES = {
    "mixer": Family(mixer.MixerSize, mixer.SPECS, mixer.Mixer, gelu="tanh"),
    "vit": Family(vit.ViTSize, vit.SPECS, vit.ViT, gelu="tanh"),
    "resmlp": Family(resmlp.ResMLPSize, resmlp.SPECS, resmlp.ResMLP),
    "gmlp": Family(gmlp.GMLPSize, gmlp.SPECS, gmlp.GMLP),
    "convmixer": Family(convmixer.ConvMixerSize, convmixer.SPECS, convmixer.ConvMixer, unread=("dropout", "drop_path")),
    "pool": Family(window.WindowSize, window.POOL_SPECS, window.PoolMixer),
    "dwconv": Family(window.WindowSize, window.DWCONV_SPECS, window.DepthwiseMixer),
}


def list_models() -> list[str]:
    """The names that `create` knows; "mixer", "vit", ... are models of any shape, and of timm's these are a few."""
    return [name for family, found in FAMILIES.items() for name in (family, *found.specs)] + list(CURATED)


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
    num_heads: int | None = None,
    pool: vit.Pool | None = None,
    kernel_size: int | None = None,
    activation: convmixer.Activation | None = None,
    gelu: Gelu | None = None,
    init: Init | None = None,
    stem: Stem | None = None,
    width_factor: float | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    head_bias: float = 0.0,
) -> nn.Module:
    """A freshly initialised model: images float [B, in_channels, H, W] in [-1, 1] -> logits [B, num_classes].

    Draws initial weights from torch's generator; call `torch.manual_seed` first for the same weights.

    Args:
      name: one of `list_models()`, or "timm:" and the name of any model of timm; "mixer", "vit", "resmlp", "gmlp",
        "convmixer", "pool" and "dwconv" need all sizes of the family, other names take them from the papers.
      image_size: pixels, one number or (height, width), multiples of the patch size.
      patch_size, hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, num_heads, pool, kernel_size, activation:
        replace the name's sizes; each family has its own of these.
      gelu: "tanh" as in Google's weights, "erf" as in timm's; if not given, tanh for Mixer and ViT, else erf.
      init: "flax" or "timm", whose initial weights; flax if not given.
      stem: for models of timm: "imagenet" as timm has it, "small" for small images, or "auto", see `create_timm`; auto
        if not given.
      width_factor: for models of timm: times the channels, see `create_timm`.
      dropout: probability inside the MLPs and after attention; of a model of timm before the head.
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
        "num_heads": num_heads,
        "pool": pool,
        "kernel_size": kernel_size,
        "activation": activation,
    }
    height_width = as_height_width(image_size)
    sizes = {key: value for key, value in given.items() if value is not None}
    if name.startswith(PREFIX):
        unread = [*sizes, *(key for key, value in (("gelu", gelu), ("init", init)) if value is not None)]
        if unread:
            raise ValueError(f"{unread[0]} has no effect on {name}; leave it out.")
        check_counts({"num_classes": num_classes, "in_channels": in_channels})
        check_counts(dict(zip(("the image's height", "the image's width"), height_width, strict=True)))
        _check_probabilities({"dropout": dropout, "drop_path": drop_path})
        return create_timm(
            name,
            num_classes=num_classes,
            image_size=height_width,
            in_channels=in_channels,
            stem=stem or "auto",
            width_factor=1.0 if width_factor is None else width_factor,
            dropout=dropout,
            drop_path=drop_path,
            head_bias=head_bias,
        )
    for what, value in (("stem", stem), ("width_factor", width_factor)):
        if value is not None:
            raise ValueError(f"{what} has no effect on {name}; it belongs to models of timm.")
    family = FAMILIES[family_of(name)]
    size = _size(name, family, sizes)
    has_gelu = getattr(size, "activation", "gelu") == "gelu"
    if gelu is not None and not has_gelu:
        raise ValueError(f"gelu has no effect with activation={size.activation}; leave it out.")
    gelu, init = gelu or family.gelu, init or "flax"
    check_counts({"num_classes": num_classes, "in_channels": in_channels})
    check_counts({field.name: getattr(size, field.name) for field in fields(size) if field.type is int})
    _check_probabilities({"dropout": dropout, "drop_path": drop_path})
    for what, value in (("dropout", dropout), ("drop_path", drop_path)):
        if value and what in family.unread:
            readers = [other for other, found in FAMILIES.items() if what not in found.unread]
            raise ValueError(f"{what} has no effect on {name}; it belongs to {', '.join(readers)}.")
    if drop_path and size.num_blocks == 1:
        raise ValueError("drop_path grows from 0 in the first block, so it has no effect on one block; leave it out.")
    for what, value, allowed in (("gelu", gelu, get_args(Gelu)), ("init", init, get_args(Init))):
        if value not in allowed:
            raise ValueError(f"{what} is {value!r}; use {' or '.join(allowed)}.")
    options = Options(
        height_width,
        num_classes=num_classes,
        in_channels=in_channels,
        gelu=gelu,
        init=init,
        dropout=dropout,
        drop_path=drop_path,
        head_bias=head_bias,
    )
    model = family.model(size, options)
    arguments: dict[str, Any] = {
        "name": name,
        "num_classes": num_classes,
        "image_size": list(height_width),
        "in_channels": in_channels,
        **vars(size),
        "gelu": gelu if has_gelu else None,
    }
    if in_channels in (1, 3):  # other numbers of channels come from no image file
        half = (0.5,) * in_channels
        set_info(model, ModelInfo(arguments, Preprocessing(height_width, channels=in_channels, mean=half, std=half)))
    return model


def as_height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of one number or of itself.

    Raises:
      ValueError: if it is neither.
    """
    sides: Any = (image_size, image_size) if isinstance(image_size, int) else image_size
    are_two = isinstance(sides, tuple | list) and len(sides) == 2
    if not are_two or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise ValueError(f"image_size is {image_size!r}; give a whole number of pixels, or (height, width).")
    return (sides[0], sides[1])


def check_counts(counts: dict[str, Any]) -> None:
    """Refuses what counts nothing.

    Raises:
      ValueError: naming the first that is no whole number, or below 1.
    """
    for what, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{what} is {value!r}; give a whole number of at least 1.")
        if value < 1:
            raise ValueError(f"{what} is {value}; give at least 1.")


def create_from(
    config: "recipe.Model", *, num_classes: int, image_size: tuple[int, int], in_channels: int
) -> nn.Module:
    """The model that a recipe describes."""
    return create(num_classes=num_classes, image_size=image_size, in_channels=in_channels, **config.model_dump())


def family_of(name: str) -> str:
    """The key in `FAMILIES` for a name that `create` knows, but for timm's.

    Raises:
      ValueError: naming the nearest name, if there is none.
    """
    for family, found in FAMILIES.items():
        if name == family or name in found.specs:
            return family
    near = difflib.get_close_matches(name.lower(), list_models(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown model {name!r}; {hint}`mixonomy list models` shows all names.")


def _check_probabilities(values: dict[str, Any]) -> None:
    for what, value in values.items():
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ValueError(f"{what} is {value!r}; give a probability from 0 to less than 1.")


def _size(name: str, family: Family, given: dict[str, Any]) -> Any:
    """The name's sizes, some of them replaced."""
    known = {field.name: field for field in fields(family.size)}
    for key in given:
        if key not in known:
            readers = [other for other, found in FAMILIES.items() if key in found.size.__dataclass_fields__]
            raise ValueError(f"{key} has no effect on {name}; it belongs to {', '.join(readers)}.")
    if name in family.specs:
        return family.size(**{**vars(family.specs[name]), **given})
    missing = [key for key, field in known.items() if field.default is MISSING and key not in given]
    if missing:
        raise ValueError(f"model {name!r} needs {', '.join(missing)}; give them, or a name with sizes.")
    return family.size(**given)
