"""Mixers of another shape, that only the study `ablate` needs: what the paper tried and what it left out.

Axes: B images, S tokens, C channels, G groups, D hidden units of a token MLP.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.models.mixer import MixerSize
from mixonomy.models.vit import PlacedPatches
from mixonomy.nn import MLP, Block, PatchEmbed, TokenMLP
from mixonomy.nn.block import NORM_EPS
from mixonomy.nn.init import lecun_normal_

Variant = Literal["untied", "grouped", "views", "pyramid", "no skip", "no norm", "positions"]
GROUPS = 2
SHRINK = 4  # tokens that become one in the pyramid


class UntiedTokenMLP(nn.Module):
    """Mixes the tokens of each channel with an MLP of its own, where Mixer has one for all channels.

    Args:
      num_tokens: S.
      tokens_mlp_dim: D of each.
      dim: C, as many MLPs.
    Source: MLP-Mixer paper, appendix A (untying).
    """

    def __init__(self, num_tokens: int, tokens_mlp_dim: int, dim: int):
        super().__init__()
        self.weight1 = nn.Parameter(torch.empty(dim, tokens_mlp_dim, num_tokens))
        self.bias1 = nn.Parameter(torch.zeros(dim, tokens_mlp_dim, 1))
        self.weight2 = nn.Parameter(torch.empty(dim, num_tokens, tokens_mlp_dim))
        self.bias2 = nn.Parameter(torch.zeros(dim, num_tokens, 1))
        self.act = nn.GELU(approximate="tanh")
        with torch.no_grad():
            for weight in (*self.weight1, *self.weight2):
                lecun_normal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        columns = x.permute(2, 1, 0)  # [B, S, C] -> [C, S, B]
        hidden = self.act(torch.baddbmm(self.bias1, self.weight1, columns))
        return torch.baddbmm(self.bias2, self.weight2, hidden).permute(2, 1, 0)


class GroupedTokenMLP(nn.Module):
    """Mixes the tokens of G channels at once: the MLP sees S * G numbers, and C / G columns of them.

    Args:
      num_tokens: S.
      tokens_mlp_dim: D.
      dim: C, a multiple of G.
      groups: G.
      has_views: whether the G tables [S, C / G] are learned linear views of the channels in place of every G-th one.
    Source: MLP-Mixer paper, appendix A (grouping channels, and its version with linear functions).
    """

    def __init__(self, num_tokens: int, tokens_mlp_dim: int, dim: int, groups: int, *, has_views: bool):
        super().__init__()
        if dim % groups:
            raise ValueError(f"{dim} channels do not divide into groups of {groups}; give a multiple of it.")
        self.groups = groups
        self.views = nn.Linear(dim, dim) if has_views else nn.Identity()
        self.mlp = TokenMLP(num_tokens * groups, tokens_mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        x = self.views(x).unflatten(2, (-1, self.groups)).transpose(2, 3)  # [B, S, C] -> [B, S, G, C / G]
        mixed = self.mlp(x.flatten(1, 2)).unflatten(1, (-1, self.groups))
        return mixed.transpose(2, 3).flatten(2)


class Shrink(nn.Module):
    """A token MLP with fewer tokens out than in, after a norm and without a skip.

    Args:
      num_tokens: S in.
      num_out: S out.
    Source: MLP-Mixer paper, appendix A (pyramids).
    """

    def __init__(self, num_tokens: int, num_out: int, tokens_mlp_dim: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(num_tokens, tokens_mlp_dim)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(tokens_mlp_dim, num_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S out, C], float."""
        return self.fc2(self.act(self.fc1(self.norm(x).transpose(1, 2)))).transpose(1, 2)


class PlainBlock(nn.Module):
    """A block without skips."""

    def __init__(self, dim: int, token_mixer: nn.Module, channel_mixer: nn.Module):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS), nn.LayerNorm(dim, eps=NORM_EPS)
        self.token_mixer, self.channel_mixer = token_mixer, channel_mixer

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        return self.channel_mixer(self.norm2(self.token_mixer(self.norm1(x))))


def mixer_variant(variant: Variant, size: MixerSize, options: Options) -> Isotropic:
    """A Mixer of these sizes with one thing changed, with initial weights from torch's generator.

    The pyramid has a quarter of the tokens from the middle on.

    Raises:
      ValueError: for an unknown variant, or sizes that do not suit it.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"unknown variant {variant!r}; use {', '.join(get_args(Variant))}.")
    rows, columns = patch_grid(options.image_size, size.patch_size)
    dim, width = size.hidden_dim, size.tokens_mlp_dim
    num_tokens = rows * columns
    blocks: list[nn.Module] = []
    for number in range(size.num_blocks):
        if variant == "pyramid" and number == size.num_blocks // 2:
            blocks.append(Shrink(num_tokens, num_tokens // SHRINK, width, dim))
            num_tokens //= SHRINK
        if variant == "untied":
            token_mixer: nn.Module = UntiedTokenMLP(num_tokens, width, dim)
        elif variant in ("grouped", "views"):
            token_mixer = GroupedTokenMLP(num_tokens, width, dim, GROUPS, has_views=variant == "views")
        else:
            token_mixer = TokenMLP(num_tokens, width)
        channel_mixer = MLP(dim, size.channels_mlp_dim)
        if variant == "no skip":
            blocks.append(PlainBlock(dim, token_mixer, channel_mixer))
        else:
            norm = (lambda dim: nn.Identity()) if variant == "no norm" else None
            blocks.append(Block(dim, token_mixer, channel_mixer, norm=norm))
    if variant == "positions":
        stem: PatchEmbed = PlacedPatches(
            options.in_channels, dim, size.patch_size, num_tokens=rows * columns, has_class_token=False
        )
    else:
        stem = PatchEmbed(options.in_channels, dim, size.patch_size)
    norm_at_end = nn.Identity() if variant == "no norm" else nn.LayerNorm(dim, eps=NORM_EPS)
    model = Isotropic(stem, iter(blocks), norm_at_end, nn.Linear(dim, options.num_classes))
    model.start(options)
    return model
