"""The same model in other libraries, with its weights.

Axes: S tokens, C channels, P pixels a side of a patch.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.models import MixerSize, TimmModel, create, info_of, load_weights
from mixonomy.models.create import family_of
from mixonomy.models.mixer import TIMM_NAMES
from mixonomy.models.timm_weights import to_timm
from mixonomy.nn.block import NORM_EPS

LUCIDRAINS = "mlp-mixer-pytorch"  # the package's name; its author is lucidrains


def timm_twin(model: nn.Module) -> nn.Module:
    """timm's model of the same layers, with a copy of the weights.

    A model "timm:NAME" is its own twin. timm's GELU is the erf form; where ours is the tanh form, so is the twin's.

    Raises:
      ValueError: if timm has no such model.
    """
    import timm
    from timm.models.mlp_mixer import MlpMixer

    if isinstance(model, TimmModel):
        return copy.deepcopy(model)
    arguments = info_of(model).arguments
    if family_of(arguments["name"]) == "mixer":
        size = _mixer_size(model)
        twin: nn.Module = MlpMixer(
            num_classes=arguments["num_classes"],
            img_size=tuple(arguments["image_size"]),  # type: ignore[arg-type]  # timm says int and takes both
            in_chans=arguments["in_channels"],
            patch_size=size.patch_size,
            num_blocks=size.num_blocks,
            embed_dim=size.hidden_dim,
            # Half a channel more, since timm rounds down what it multiplies.
            mlp_ratio=tuple((d + 0.5) / size.hidden_dim for d in (size.tokens_mlp_dim, size.channels_mlp_dim)),  # type: ignore[arg-type]
        )
        tensors = {_replaced(name, TIMM_NAMES): tensor for name, tensor in model.state_dict().items()}
    else:
        tensors, config = to_timm(_as_erf(model))
        twin = timm.create_model(
            config["architecture"],
            num_classes=arguments["num_classes"],
            in_chans=arguments["in_channels"],
            **({} if family_of(arguments["name"]) == "convmixer" else {"img_size": tuple(arguments["image_size"])}),
            **config.get("model_args", {}),
        )
    load_weights(twin, tensors, "timm's model")
    if arguments.get("gelu") == "tanh":
        for module in twin.modules():
            if isinstance(module, nn.GELU):
                module.approximate = "tanh"
    return twin.train(model.training)


def lucidrains_twin(model: nn.Module) -> nn.Module:
    """The Mixer of lucidrains/mlp-mixer-pytorch with a copy of the weights; its norms get our epsilon.

    Raises:
      ValueError: if the package is not installed, or the model is no Mixer.
    """
    try:
        from mlp_mixer_pytorch import MLPMixer
    except ImportError:
        raise ValueError(f"needs the package {LUCIDRAINS}, which is not installed") from None
    arguments = info_of(model).arguments
    if isinstance(model, TimmModel) or family_of(arguments["name"]) != "mixer":
        raise ValueError(f"{LUCIDRAINS} has Mixers only")
    size = _mixer_size(model)
    twin: nn.Module = MLPMixer(
        image_size=tuple(arguments["image_size"]),
        channels=arguments["in_channels"],
        patch_size=size.patch_size,
        dim=size.hidden_dim,
        depth=size.num_blocks,
        num_classes=arguments["num_classes"],
        # What it calls the expansion factor is the token MLP's, the other one the channel MLP's; it rounds down.
        expansion_factor=(size.tokens_mlp_dim + 0.5) / size.hidden_dim,  # pyright: ignore[reportArgumentType]
        expansion_factor_token=(size.channels_mlp_dim + 0.5) / size.hidden_dim,
    )
    for module in twin.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = NORM_EPS
        if isinstance(module, nn.GELU) and arguments["gelu"] == "tanh":
            module.approximate = "tanh"
    load_weights(twin, _in_lucidrains_names(model.state_dict(), size.num_blocks), LUCIDRAINS)
    return twin.train(model.training)


def _in_lucidrains_names(tensors: dict[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    found = {}
    layers = {"token_mixer": "0.fn", "channel_mixer": "1.fn", "norm1": "0.norm", "norm2": "1.norm"}
    for name, tensor in tensors.items():
        scope, _, leaf = name.rpartition(".")
        parts = scope.split(".")
        if name == "stem.proj.weight":
            tensor = tensor.permute(0, 2, 3, 1).flatten(1)  # [C, c, P, P] -> [C, P * P * c]
        if parts[0] != "blocks":
            place = {"stem": 1, "norm": num_blocks + 2, "head": num_blocks + 4}[parts[0]]
            found[f"{place}.{leaf}"] = tensor
            continue
        inner = {"fc1": ".0", "fc2": ".3"}.get(parts[3], "") if len(parts) > 3 else ""
        if parts[2] == "token_mixer" and leaf == "weight":
            tensor = tensor.unsqueeze(-1)  # a linear layer over S is a convolution of one location
        found[f"{int(parts[1]) + 2}.{layers[parts[2]]}{inner}.{leaf}"] = tensor
    return found


def _mixer_size(model: nn.Module) -> MixerSize:
    arguments = info_of(model).arguments
    return MixerSize(**{field: arguments[field] for field in MixerSize.__dataclass_fields__})


def _as_erf(model: nn.Module) -> nn.Module:
    """A copy that says its GELU is the erf form, so that timm's names can be had for it."""
    arguments: dict[str, Any] = dict(info_of(model).arguments)
    if arguments.get("gelu") != "tanh":
        return model
    twin = create(**{**arguments, "image_size": tuple(arguments["image_size"]), "gelu": "erf"})
    load_weights(twin, model.state_dict(), "the model")
    return twin


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in pairs:
        name = name.replace(ours, theirs)
    return name


def randomise(model: nn.Module, seed: int) -> None:
    """Draws what a fresh model has at 0 or 1: biases, norms, scales, positions, and the head.

    From a zero head no gradient would reach the blocks, and an error in a bias that is 0 would not be seen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or parameter.std() == 0:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
