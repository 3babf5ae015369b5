"""Our families in timm's names: state dicts of timm become our models, and ours become files that timm loads.

timm computes the erf form of GELU; models with the other form have no twin there.

Axes: S tokens, C channels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


from torch import Tensor, nn

from mixonomy.models.create import FAMILIES
from mixonomy.models.files import empty_model, load_weights
from mixonomy.models.info import info_of


@dataclass(frozen=True)
class _Twin:
    """A family of ours in timm.

    Args:
      names: parts of our parameters' names and what they are called there, replaced in this order.
      mark: the name of a tensor that no other family has.
      sizes: reads our sizes off tensors in timm's names.
      arguments: timm's model_args for our arguments.
      architectures: timm's name -> ours, where both build the same.
      variants: pattern of timm's other names for models of just these layers.
    """

    names: tuple[tuple[str, str], ...]
    mark: str
    sizes: Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Any]]
    arguments: Callable[[dict[str, Any]], dict[str, Any]]
    architectures: dict[str, str]
    variants: str = r"(?!)"


def from_timm(tensors: dict[str, Tensor], where: str, config: dict[str, Any] | None = None) -> nn.Module:
    """One of our models with the weights of timm's.

    Args:
      tensors: timm's state dict.
      where: the file, for errors.
      config: the content of timm's config.json, which settles what shapes cannot: the activation of a ConvMixer, the
        heads of a ViT, and an image that is not square.
    Raises:
      ValueError: if the tensors are of none of our families, or not all of it; names what is missing, extra or
        misshapen.
    Source of the names: timm models/mlp_mixer.py, vision_transformer.py, convmixer.py.
    """
    family = next((name for name, twin in _TWINS.items() if twin.mark in tensors), None)
    if family is None:
        raise ValueError(f"{where} holds no Mixer, ViT, ResMLP, gMLP or ConvMixer in timm's names.")
    twin, architecture = _TWINS[family], str((config or {}).get("architecture", ""))
    if architecture and architecture not in twin.architectures and not re.fullmatch(twin.variants, architecture):
        raise ValueError(
            f"{where} is timm's {architecture}, which may differ from our {family}; it is not read as one."
        )
    try:
        sizes = twin.sizes(tensors, config or {})
        arguments = {
            "name": family,
            "num_classes": tensors["head.weight"].shape[0],
            "gelu": "erf",
            **sizes,
        }
        model = empty_model(arguments)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{where} holds no whole {family} in timm's names: {error.args[0]} is missing.") from None
    own = model.state_dict()
    ours = {_renamed(name, twin): name for name in own}
    found = {ours.get(name, name): tensor for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if name in own and tensor.numel() == own[name].numel() and tensor.squeeze().shape == own[name].shape:
            found[name] = tensor.reshape(own[name].shape)  # vectors that timm keeps as [1, 1, C]
    load_weights(model, found, where)
    return model.eval()


def to_timm(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in timm's names and shapes, and the config.json by which timm builds the model around them.

    Raises:
      ValueError: if timm has no such model.
    """
    given = info_of(model).arguments
    family = next((f for f, found in FAMILIES.items() if given["name"] == f or given["name"] in found.specs), "")
    if family not in _TWINS:
        raise ValueError(f"timm has no model like {given['name']}.")
    twin = _TWINS[family]
    if given["gelu"] != "erf" and given.get("activation") != "relu":
        raise ValueError(f"timm computes the erf form of GELU, and this {family} the {given['gelu']} form.")
    if given.get("pool", "token") != "token":
        raise ValueError("timm has no ViT that takes the mean over tokens after the norm.")
    sizes = {field: given[field] for field in FAMILIES[family].size.__dataclass_fields__}
    same = [t for t, name in twin.architectures.items() if vars(FAMILIES[family].specs[name]) == sizes]
    architecture = same[0] if same else _nearest(twin, sizes)
    arguments = {} if same else twin.arguments(sizes)
    state = {_renamed(name, twin): tensor for name, tensor in model.state_dict().items()}
    if family == "resmlp":
        affine = (".alpha", ".beta")
        state = {name: tensor.view(1, 1, -1) if name.endswith(affine) else tensor for name, tensor in state.items()}
    config = {
        "architecture": architecture,
        "num_classes": given["num_classes"],
        "num_features": given["hidden_dim"],
        "pretrained_cfg": {
            "first_conv": _renamed("stem.0" if family == "convmixer" else "stem.proj", twin),
            "classifier": "head",
            "fixed_input_size": family != "convmixer",
        },
    }
    return state, config | ({"model_args": arguments} if arguments else {})


def _renamed(name: str, twin: _Twin) -> str:
    for ours, theirs in twin.names:
        name = name.replace(ours, theirs)
    return name


def _nearest(twin: _Twin, sizes: dict[str, Any]) -> str:
    """The architecture whose code builds other sizes by model_args; of ConvMixers one with the same activation."""
    for architecture, name in twin.architectures.items():
        family = FAMILIES[next(f for f, found in FAMILIES.items() if name in found.specs)]
        if "activation" not in sizes or family.specs[name].activation == sizes["activation"]:
            return architecture
    raise ValueError(f"timm has no ConvMixer with {sizes['activation']}.")


def _ratio(wide: int, dim: int) -> float:
    """What timm multiplies `dim` by and rounds down.

    Raises:
      ValueError: if no such number gives the width.
    """
    ratio = wide / dim
    if int(dim * ratio) != wide:
        ratio += 1e-9
    if int(dim * ratio) != wide:
        raise ValueError(f"timm cannot build an MLP of width {wide} for {dim} channels.")
    return ratio


def _num_blocks(tensors: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))


def _stem(tensors: dict[str, Tensor], name: str, num_tokens: int, config: dict[str, Any]) -> dict[str, Any]:
    """What the first convolution and the number of tokens say of the image."""
    hidden_dim, in_channels, patch_size, _ = tensors[name].shape
    return {
        "patch_size": patch_size,
        "hidden_dim": hidden_dim,
        "num_blocks": _num_blocks(tensors),
        "in_channels": in_channels,
        "image_size": _image_size(num_tokens, patch_size, config),
    }


def _image_size(num_tokens: int, patch_size: int, config: dict[str, Any]) -> list[int]:
    """The image of the config where it has as many tokens, else a square one.

    Raises:
      ValueError: if the tokens make no square.
    """
    said = config.get("pretrained_cfg", config)
    said = said.get("input_size") if isinstance(said, dict) else None
    if isinstance(said, list | tuple) and len(said) == 3:
        height, width = said[1], said[2]
        if (height // patch_size) * (width // patch_size) == num_tokens:
            return [height, width]
    side = round(num_tokens**0.5)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens make no square grid, and no config.json says which.")
    return [side * patch_size] * 2


def _mixer_sizes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    tokens_mlp_dim, num_tokens = tensors["blocks.0.mlp_tokens.fc1.weight"].shape
    return {
        **_stem(tensors, "stem.proj.weight", num_tokens, config),
        "tokens_mlp_dim": tokens_mlp_dim,
        "channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0],
    }


def _vit_sizes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    _, num_tokens, dim = tensors["pos_embed"].shape
    said = config.get("model_args") or {}
    by_dim = {size.hidden_dim: size.num_heads for size in FAMILIES["vit"].specs.values()}
    return {
        **_stem(tensors, "patch_embed.proj.weight", num_tokens - 1, config),
        "channels_mlp_dim": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "num_heads": said["num_heads"]
        if isinstance(said.get("num_heads"), int)
        else by_dim.get(dim, max(dim // 64, 1)),
        "pool": "token",
    }


def _resmlp_sizes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    num_tokens = tensors["blocks.0.linear_tokens.weight"].shape[0]
    return {
        **_stem(tensors, "stem.proj.weight", num_tokens, config),
        "channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0],
    }


def _gmlp_sizes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    num_tokens = tensors["blocks.0.mlp_channels.gate.proj.weight"].shape[0]
    return {
        **_stem(tensors, "stem.proj.weight", num_tokens, config),
        "channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0],
    }


def _convmixer_sizes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    patch_size = tensors["stem.0.weight"].shape[2]
    said = config.get("pretrained_cfg", config)
    said = said.get("input_size") if isinstance(said, dict) else None
    side = max(224 // patch_size, 1) * patch_size  # weights of a ConvMixer fit any size; timm's are for 224
    return {
        "patch_size": patch_size,
        "hidden_dim": tensors["stem.0.weight"].shape[0],
        "in_channels": tensors["stem.0.weight"].shape[1],
        "num_blocks": _num_blocks(tensors),
        "kernel_size": tensors["blocks.0.0.fn.0.weight"].shape[2],
        "activation": "relu" if config.get("architecture") == "convmixer_768_32" else "gelu",
        "image_size": [said[1], said[2]] if isinstance(said, list | tuple) and len(said) == 3 else [side, side],
    }


def _mlp_arguments(sizes: dict[str, Any]) -> dict[str, Any]:
    """Of timm's MlpMixer, which is ResMLP and gMLP too."""
    channels = _ratio(sizes["channels_mlp_dim"], sizes["hidden_dim"])
    tokens = sizes.get("tokens_mlp_dim")
    return {
        "patch_size": sizes["patch_size"],
        "num_blocks": sizes["num_blocks"],
        "embed_dim": sizes["hidden_dim"],
        "mlp_ratio": channels if tokens is None else [_ratio(tokens, sizes["hidden_dim"]), channels],
    }


def _vit_arguments(sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        "patch_size": sizes["patch_size"],
        "depth": sizes["num_blocks"],
        "embed_dim": sizes["hidden_dim"],
        "num_heads": sizes["num_heads"],
        "mlp_ratio": _ratio(sizes["channels_mlp_dim"], sizes["hidden_dim"]),
    }


def _convmixer_arguments(sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        "dim": sizes["hidden_dim"],
        "depth": sizes["num_blocks"],
        "kernel_size": sizes["kernel_size"],
        "patch_size": sizes["patch_size"],
    }


_TWINS = {
    "mixer": _Twin(
        names=(("token_mixer", "mlp_tokens"), ("channel_mixer", "mlp_channels")),
        mark="blocks.0.mlp_tokens.fc1.weight",
        sizes=_mixer_sizes,
        arguments=_mlp_arguments,
        architectures={f"mixer_{k}{p}_224": f"mixer-{k}/{p}" for k in "sbl" for p in (32, 16)},
    ),
    "vit": _Twin(
        names=(
            ("stem.proj", "patch_embed.proj"),
            ("positions.class_token", "cls_token"),
            ("positions.positions", "pos_embed"),
            ("token_mixer", "attn"),
            ("channel_mixer", "mlp"),
        ),
        mark="blocks.0.attn.qkv.weight",
        sizes=_vit_sizes,
        arguments=_vit_arguments,
        architectures={
            "vit_tiny_patch16_224": "vit-ti/16",
            "vit_small_patch32_224": "vit-s/32",
            "vit_small_patch16_224": "vit-s/16",
            "vit_base_patch32_224": "vit-b/32",
            "vit_base_patch16_224": "vit-b/16",
            "vit_large_patch32_224": "vit-l/32",
            "vit_large_patch16_224": "vit-l/16",
            "vit_huge_patch14_224": "vit-h/14",
        },
        variants=r"(vit_(tiny|small|base|large|huge)_patch\d+_\d+|deit_(tiny|small|base)_patch16_\d+)",
    ),
    "resmlp": _Twin(
        names=(
            ("token_mixer", "linear_tokens"),
            ("channel_mixer", "mlp_channels"),
            ("scale1.factor", "ls1"),
            ("scale2.factor", "ls2"),
        ),
        mark="blocks.0.linear_tokens.weight",
        sizes=_resmlp_sizes,
        arguments=_mlp_arguments,
        architectures={
            "resmlp_12_224": "resmlp-12",
            "resmlp_24_224": "resmlp-24",
            "resmlp_36_224": "resmlp-36",
            "resmlp_big_24_224": "resmlp-big-24",
        },
    ),
    "gmlp": _Twin(
        names=((".fc1", ".mlp_channels.fc1"), (".gate", ".mlp_channels.gate"), (".fc2", ".mlp_channels.fc2")),
        mark="blocks.0.mlp_channels.gate.proj.weight",
        sizes=_gmlp_sizes,
        arguments=_mlp_arguments,
        architectures={f"gmlp_{k}16_224": f"gmlp-{k}/16" for k in ("ti", "s", "b")},
    ),
    "convmixer": _Twin(
        names=(
            (".depthwise", ".0.fn.0"),
            (".norm1", ".0.fn.2"),
            (".pointwise", ".1"),
            (".norm2", ".3"),
        ),
        mark="blocks.0.0.fn.0.weight",
        sizes=_convmixer_sizes,
        arguments=_convmixer_arguments,
        architectures={
            "convmixer_1536_20": "convmixer-1536/20",
            "convmixer_768_32": "convmixer-768/32",
            "convmixer_1024_20_ks9_p14": "convmixer-1024/20",
        },
    ),
}
