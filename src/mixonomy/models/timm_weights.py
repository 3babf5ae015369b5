"""Stand-in until the branch families is merged."""

from typing import Any

from torch import Tensor, nn

from mixonomy.models.files import empty_model, load_weights
from mixonomy.models.info import info_of
from mixonomy.models.mixer import Mixer


def from_timm(tensors: dict[str, Tensor], where: str, config: dict[str, Any] | None = None) -> nn.Module:
    try:
        p = tensors["stem.proj.weight"]
        arguments = {
            "name": "mixer",
            "patch_size": p.shape[2],
            "hidden_dim": p.shape[0],
            "num_blocks": 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blocks.")),
            "tokens_mlp_dim": tensors["blocks.0.mlp_tokens.fc1.weight"].shape[0],
            "channels_mlp_dim": tensors["blocks.0.mlp_channels.fc1.weight"].shape[0],
            "image_size": [int(tensors["blocks.0.mlp_tokens.fc1.weight"].shape[1] ** 0.5) * p.shape[2]] * 2,
            "in_channels": p.shape[1],
            "num_classes": tensors["head.weight"].shape[0],
            "gelu": "erf",
        }
    except KeyError as error:
        raise ValueError(f"{where} is of no known family: it has no {error}.") from None
    model = empty_model(arguments)
    renamed = {
        k.replace("mlp_tokens", "token_mixer").replace("mlp_channels", "channel_mixer"): t for k, t in tensors.items()
    }
    load_weights(model, renamed, where)
    return model


def to_timm(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not isinstance(model, Mixer):
        raise ValueError("timm has no such model")
    a = info_of(model).arguments
    tensors = {
        k.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels"): t
        for k, t in model.state_dict().items()
    }
    return tensors, {"architecture": "mixer_s32_224", "num_classes": a["num_classes"]}
