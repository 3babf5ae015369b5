"""MLP-Mixer: sizes from the paper, the model, and the names of its weights in Google's files.

Axes: B images, S tokens, C channels, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.nn import MLP, Block, PatchEmbed, TokenMLP, initialise
from mixonomy.nn.block import NORM_EPS
from mixonomy.nn.init import Init
from mixonomy.nn.mlp import Gelu


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


class Mixer(nn.Module):
    """Patches to tokens, blocks of token MLP and channel MLP, mean over tokens, linear head.

    Args:
      size: patch size, widths and number of blocks.
      image_size: (height, width) in pixels, multiples of the patch size.
      num_classes: K.
      in_channels: channels of the images.
      gelu: "tanh" for Google's weights, "erf" for timm's.
      init: initial weights, see `mixonomy.nn.initialise`; the head starts at zero either way.
      dropout: probability inside both MLPs, in training.
      drop_path: probability of dropping a branch in the last block; grows linearly from 0 in the first.
      head_bias: initial bias of the head; -ln(num_classes) suits the sigmoid loss.
    Raises:
      ValueError: if the patch size does not divide the image size.
    Source: vision_transformer vit_jax/models_mixer.py; stochastic depth: big_vision models/mlp_mixer.py.
    """

    def __init__(
        self,
        size: MixerSize,
        *,
        image_size: tuple[int, int],
        num_classes: int,
        in_channels: int = 3,
        gelu: Gelu = "tanh",
        init: Init = "flax",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_bias: float = 0.0,
    ):
        super().__init__()
        grid = patch_grid(image_size, size.patch_size)
        num_tokens, dim = grid[0] * grid[1], size.hidden_dim
        self.stem = PatchEmbed(in_channels, dim, size.patch_size)
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    TokenMLP(num_tokens, size.tokens_mlp_dim, gelu=gelu, dropout=dropout),
                    MLP(dim, size.channels_mlp_dim, gelu=gelu, dropout=dropout),
                    drop_path=drop_path * i / max(size.num_blocks - 1, 1),
                )
                for i in range(size.num_blocks)
            )
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, num_classes)
        initialise(self, init)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, head_bias)

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, C], the pre-logits."""
        return self.norm(self.blocks(self.stem(images))).mean(dim=1)  # [B, S, C] -> [B, C]

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, K] logits."""
        return self.head(self.features(images))


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches in an image.

    Raises:
      ValueError: naming the nearest sizes that work, if the patch size does not divide the image size.
    """
    height, width = image_size
    if height % patch_size or width % patch_size or height < 1 or width < 1:
        below = tuple(max(s // patch_size, 1) * patch_size for s in image_size)
        above = tuple(max(-(-s // patch_size), 1) * patch_size for s in image_size)
        raise ValueError(
            f"image size {height}x{width} is not divisible by patch size {patch_size}; "
            f"use {below[0]}x{below[1]} or {above[0]}x{above[1]}, or another patch size."
        )
    return height // patch_size, width // patch_size


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
