"""Our families in timm's names: state dicts of timm become our models, and ours become what timm loads.

timm computes the erf form of GELU; models with the other form have no twin there.

Axes: S tokens, C channels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from mixonomy.models import convmixer, gmlp, mixer, resmlp, vit
from mixonomy.models.checks import check_arguments
from mixonomy.models.create import FAMILIES, family_of
from mixonomy.models.files import empty_model, load_weights
from mixonomy.models.info import info_of, set_info

# Of pixels in [0, 1]. Source: timm data/constants.py (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Sizes = dict[str, Any]
Tensors = dict[str, Tensor]


def from_timm(tensors: Tensors, where: str, config: dict[str, Any] | None = None) -> nn.Module:
    """One of our models with the weights of timm's, in evaluation mode; it shares their memory where types are equal.

    What no shape says comes from `config`: the size of an image that is not square or that a ConvMixer is for, a ReLU,
    unusual heads. Without it: a square image, for a ConvMixer 224 pixels a side, and activation and heads of the model
    of the same sizes in our tables, else GELU and heads of 64 channels.

    Args:
      tensors: timm's state dict.
      where: the file, for errors.
      config: the content of timm's config.json. Its mean, deviation and crop are not read here; the model gets those
        that timm has for most weights of its family.
    Raises:
      ValueError: if the tensors are of none of our families, or not all of it; names what is missing, extra or
        misshapen.
    """
    family = next((name for name, twin in _TWINS.items() if twin.mark in tensors), None)
    if family is None:
        raise ValueError(f"{where} holds no Mixer, ViT, ResMLP, gMLP or ConvMixer in timm's names.")
    twin, config = _TWINS[family], config or {}
    architecture = str(config.get("architecture", ""))
    if architecture and architecture not in twin.architectures and not re.fullmatch(twin.variants, architecture):
        raise ValueError(
            f"{where} is timm's {architecture}, which may differ from our {family}; it is not read as one."
        )
    try:
        sizes = _sizes(tensors, twin, config)
        arguments = {"name": family, "num_classes": tensors["head.weight"].shape[0], **sizes}
        check_arguments(arguments, len(tensors))
    except (KeyError, IndexError, ValueError) as error:
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} holds no whole {family} in timm's names: {what}.") from None
    model = empty_model(arguments if sizes.get("activation") == "relu" else {**arguments, "gelu": "erf"})
    own = model.state_dict()
    ours = {_renamed(name, twin): name for name in own}
    found = {ours.get(name, name): tensor for name, tensor in tensors.items()}
    vectors = [name for name, tensor in found.items() if tensor.ndim == 3 and name in own and own[name].ndim == 1]
    found |= {name: found[name].flatten() for name in vectors}  # which timm keeps as [1, 1, C]
    load_weights(model, found, where)
    if twin.has_imagenet_mean and arguments["in_channels"] == 3:
        info = info_of(model)
        prepared = replace(info.preprocessing, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        set_info(model, replace(info, preprocessing=prepared))
    return model.eval()


def to_timm(model: nn.Module) -> tuple[Tensors, dict[str, Any]]:
    """The weights in timm's names and shapes, sharing their memory, and the config.json by which timm builds the model.

    Raises:
      ValueError: if timm has no such model.
    """
    given = info_of(model).arguments
    family = family_of(given["name"])
    twin = _TWINS.get(family)
    if twin is None:
        raise ValueError(f"timm has no model like {given['name']}.")
    if given["gelu"] == "tanh":
        raise ValueError(f"timm computes the erf form of GELU, and this {family} the tanh form.")
    if given.get("pool") == "mean":
        raise ValueError("timm has no ViT that takes the mean over tokens after the norm.")
    sizes = {field: given[field] for field in FAMILIES[family].size.__dataclass_fields__}
    architecture, arguments = _architecture(family, twin, sizes)
    tensors = {_renamed(name, twin): tensor for name, tensor in model.state_dict().items()}
    if family == "resmlp":
        affine = (".alpha", ".beta")
        tensors = {name: t.view(1, 1, -1) if name.endswith(affine) else t for name, t in tensors.items()}
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": given["num_classes"],
        "num_features": given["hidden_dim"],
        "pretrained_cfg": {
            "input_size": [given["in_channels"], *given["image_size"]],
            "num_classes": given["num_classes"],
            "first_conv": twin.stem.removesuffix(".weight"),
            "classifier": "head",
            "fixed_input_size": family != "convmixer",
        },
    }
    return tensors, config | ({"model_args": arguments} if arguments else {})


@dataclass(frozen=True)
class _Twin:
    """A family of ours in timm.

    Args:
      architectures: timm's name -> ours, where both are the same.
      names: parts of our parameters' names and what they are called there, replaced in this order.
      mark: the name of a tensor that no other family has.
      stem: the name of the first convolution's weight.
      num_tokens: of the patches, read off the tensors; None where any number fits.
      widths: the family's own sizes, read off the tensors.
      variants: pattern of timm's other names for models of just these layers.
      has_imagenet_mean: whether most of timm's weights want ImageNet's mean and deviation.
    """

    architectures: Mapping[str, str]
    names: tuple[tuple[str, str], ...]
    mark: str
    stem: str
    num_tokens: Callable[[Tensors], int] | None
    widths: Callable[[Tensors], Sizes]
    variants: str = r"(?!)"
    has_imagenet_mean: bool = False


def is_ours(architecture: str) -> bool:
    """Whether timm's model of this name is one of ours."""
    return any(architecture in twin.architectures for twin in _TWINS.values())


def _renamed(name: str, twin: _Twin) -> str:
    if twin is _TWINS["convmixer"] and name.startswith("stem"):
        return name
    for ours, theirs in twin.names:
        name = name.replace(ours, theirs)
    return name


def _sizes(tensors: Tensors, twin: _Twin, config: dict[str, Any]) -> Sizes:
    """Arguments of `create` but for names, classes and GELU."""
    hidden_dim, in_channels, patch_size, _ = tensors[twin.stem].shape
    if patch_size < 1:
        raise ValueError(f"{twin.stem} is {list(tensors[twin.stem].shape)}")
    num_tokens = None if twin.num_tokens is None else twin.num_tokens(tensors)
    sizes = {
        "patch_size": patch_size,
        "hidden_dim": hidden_dim,
        "num_blocks": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        **twin.widths(tensors),
    }
    sizes |= _unseen(twin, sizes, config)
    return sizes | {"in_channels": in_channels, "image_size": _image_size(num_tokens, patch_size, config)}


def _unseen(twin: _Twin, sizes: Sizes, config: dict[str, Any]) -> Sizes:
    """The sizes that leave no trace in shapes."""
    family = family_of(next(iter(twin.architectures.values())))
    specs = {name: vars(spec) for name, spec in FAMILIES[family].specs.items()}
    named = specs.get(twin.architectures.get(config.get("architecture", ""), ""))
    if family == "vit":
        said = (config.get("model_args") or {}).get("num_heads")
        alike = [spec["num_heads"] for spec in specs.values() if spec["hidden_dim"] == sizes["hidden_dim"]]
        return {"num_heads": said or (alike or [max(sizes["hidden_dim"] // 64, 1)])[0], "pool": "token"}
    if family == "convmixer":
        alike = [spec for spec in specs.values() if spec.items() >= sizes.items()]
        spec = named or (alike[0] if alike and "architecture" not in config else None)
        return {"activation": spec["activation"] if spec else "gelu"}
    return {}


def _image_size(num_tokens: int | None, patch_size: int, config: dict[str, Any]) -> list[int]:
    """The image of the config where it has as many tokens, else a square one.

    Raises:
      ValueError: if the tokens make no square.
    """
    said = (config.get("pretrained_cfg") or config).get("input_size")
    if isinstance(said, list | tuple) and len(said) == 3:
        height, width = said[1:]
        if num_tokens is None or (height // patch_size) * (width // patch_size) == num_tokens:
            return [height, width]
    side = 224 // patch_size if num_tokens is None else round(num_tokens**0.5)
    if num_tokens is not None and side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens make no square grid, and no config.json gives the image's size")
    return [max(side, 1) * patch_size] * 2


def _architecture(family: str, twin: _Twin, sizes: Sizes) -> tuple[str, dict[str, Any]]:
    """(timm's name, its model_args); only timm's ViTs take other sizes than those of their name.

    Raises:
      ValueError: if there is none.
    """
    for architecture, name in twin.architectures.items():
        if vars(FAMILIES[family].specs[name]) == sizes:
            return architecture, {}
    ratio = sizes.get("channels_mlp_dim", 0) / sizes["hidden_dim"]
    if family != "vit" or int(sizes["hidden_dim"] * ratio) != sizes["channels_mlp_dim"]:
        raise ValueError(f"timm has no {family} of these sizes; it has {', '.join(twin.architectures)}.")
    keys = {"patch_size": "patch_size", "hidden_dim": "embed_dim", "num_blocks": "depth", "num_heads": "num_heads"}
    return "vit_base_patch16_224", {theirs: sizes[ours] for ours, theirs in keys.items()} | {"mlp_ratio": ratio}


_TWINS = {
    "mixer": _Twin(
        mixer.TIMM_ARCHITECTURES,
        mixer.TIMM_NAMES,
        mark="blocks.0.mlp_tokens.fc1.weight",
        stem="stem.proj.weight",
        num_tokens=lambda tensors: tensors["blocks.0.mlp_tokens.fc1.weight"].shape[1],
        widths=lambda tensors: {
            "tokens_mlp_dim": tensors["blocks.0.mlp_tokens.fc1.weight"].shape[0],
            "channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0],
        },
    ),
    "vit": _Twin(
        vit.TIMM_ARCHITECTURES,
        vit.TIMM_NAMES,
        mark="blocks.0.attn.qkv.weight",
        stem="patch_embed.proj.weight",
        num_tokens=lambda tensors: tensors["pos_embed"].shape[1] - 1,
        widths=lambda tensors: {"channels_mlp_dim": tensors["blocks.0.mlp.fc1.weight"].shape[0]},
        variants=r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+",
    ),
    "resmlp": _Twin(
        resmlp.TIMM_ARCHITECTURES,
        resmlp.TIMM_NAMES,
        mark="blocks.0.linear_tokens.weight",
        stem="stem.proj.weight",
        num_tokens=lambda tensors: tensors["blocks.0.linear_tokens.weight"].shape[0],
        widths=lambda tensors: {"channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0]},
        has_imagenet_mean=True,
    ),
    "gmlp": _Twin(
        gmlp.TIMM_ARCHITECTURES,
        gmlp.TIMM_NAMES,
        mark="blocks.0.mlp_channels.gate.proj.weight",
        stem="stem.proj.weight",
        num_tokens=lambda tensors: tensors["blocks.0.mlp_channels.gate.proj.weight"].shape[0],
        widths=lambda tensors: {"channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0]},
    ),
    "convmixer": _Twin(
        convmixer.TIMM_ARCHITECTURES,
        convmixer.TIMM_NAMES,
        mark="blocks.0.0.fn.0.weight",
        stem="stem.0.weight",
        num_tokens=None,
        widths=lambda tensors: {"kernel_size": tensors["blocks.0.0.fn.0.weight"].shape[2]},
        has_imagenet_mean=True,
    ),
}
