"""MLP-Mixer: sizes from the paper, the model, and the names of its weights in Google's files.

Axes: B images, S tokens, C channels, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import MLP, Block, PatchEmbed, TokenMLP
from mixonomy.nn.block import NORM_EPS


@dataclass(frozen=True)
class MixerSize:
    """One column of the paper's table 1."""

    patch_size: int
    hidden_dim: int
    num_blocks: int
    tokens_mlp_dim: int
    channels_mlp_dim: int


# Source: MLP-Mixer paper, table 1.
SPECS = {
    "mixer-s/32": MixerSize(32, 512, 8, 256, 2048),
    "mixer-s/16": MixerSize(16, 512, 8, 256, 2048),
    "mixer-b/32": MixerSize(32, 768, 12, 384, 3072),
    "mixer-b/16": MixerSize(16, 768, 12, 384, 3072),
    "mixer-l/32": MixerSize(32, 1024, 24, 512, 4096),
    "mixer-l/16": MixerSize(16, 1024, 24, 512, 4096),
    "mixer-h/14": MixerSize(14, 1280, 32, 640, 5120),
}

# timm's name -> ours, and the parts of our parameters' names that are called otherwise there.
# Source: timm models/mlp_mixer.py.
TIMM_ARCHITECTURES = {
    "mixer_s32_224": "mixer-s/32",
    "mixer_s16_224": "mixer-s/16",
    "mixer_b32_224": "mixer-b/32",
    "mixer_b16_224": "mixer-b/16",
    "mixer_l32_224": "mixer-l/32",
    "mixer_l16_224": "mixer-l/16",
}
TIMM_NAMES = (("token_mixer", "mlp_tokens"), ("channel_mixer", "mlp_channels"))


class Mixer(Isotropic):
    """Patches to tokens, blocks of token MLP and channel MLP, mean over tokens, linear head.

    Raises:
      ValueError: if the patch size does not divide the image size.
    Source: vision_transformer vit_jax/models_mixer.py.
    """

    def __init__(self, size: MixerSize, options: Options):
        rows, columns = patch_grid(options.image_size, size.patch_size)
        dim, gelu, dropout = size.hidden_dim, options.gelu, options.dropout
        blocks = (
            Block(
                dim,
                TokenMLP(rows * columns, size.tokens_mlp_dim, gelu=gelu, dropout=dropout),
                MLP(dim, size.channels_mlp_dim, gelu=gelu, dropout=dropout),
                drop_path=drop_path,
            )
            for drop_path in options.drop_paths(size.num_blocks)
        )
        stem = PatchEmbed(options.in_channels, dim, size.patch_size)
        super().__init__(stem, blocks, nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, options.num_classes))
        self.start(options)


def npz_name(name: str) -> str:
    """The key in an official .npz file that holds the parameter of this name.

    Source: vision_transformer vit_jax/models_mixer.py (module names; listed in the paper's code, appendix E).
    """
    scope, _, leaf = name.rpartition(".")
    parts = scope.split(".")
    if parts[0] == "blocks":
        layer = {
            "norm1": "LayerNorm_0",
            "norm2": "LayerNorm_1",
            "token_mixer.fc1": "token_mixing/Dense_0",
            "token_mixer.fc2": "token_mixing/Dense_1",
            "channel_mixer.fc1": "channel_mixing/Dense_0",
            "channel_mixer.fc2": "channel_mixing/Dense_1",
        }[".".join(parts[2:])]
        path, is_norm = f"MixerBlock_{parts[1]}/{layer}", "norm" in parts[2]
    else:
        path = {"stem.proj": "stem", "norm": "pre_head_layer_norm", "head": "head"}[scope]
        is_norm = scope == "norm"
    return f"{path}/{'bias' if leaf == 'bias' else 'scale' if is_norm else 'kernel'}"


def from_npz_layout(name: str, array: Tensor) -> Tensor:
    """Turns a Flax array into torch's layout: Dense [in, out] -> [out, in], Conv HWIO -> OIHW."""
    if name == "stem.proj.weight":
        return array.permute(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def mixer_size_of_npz(arrays: dict[str, torch.Size]) -> MixerSize:
    """Reads the sizes of a Mixer off the shapes in an official .npz file."""
    patch_size, _, _, hidden_dim = arrays["stem/kernel"]
    num_blocks = len({key.split("/")[0] for key in arrays if key.startswith("MixerBlock_")})
    return MixerSize(
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        num_blocks=num_blocks,
        tokens_mlp_dim=arrays["MixerBlock_0/token_mixing/Dense_0/kernel"][1],
        channels_mlp_dim=arrays["MixerBlock_0/channel_mixing/Dense_0/kernel"][1],
    )
