"""The block of the isotropic models: a token mixer, then a channel mixer, each normalised and skipped.

Axes: B images, S tokens, C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

NORM_EPS = 1e-6  # Flax's LayerNorm default, which the official weights need; torch's own is 1e-5


class DropPath(nn.Module):
    """Drops a whole residual branch, image by image, in training only (stochastic depth).

    What stays is not divided by the keep probability, unlike timm's: big_vision's Mixer does not either.

    Source: big_vision models/mlp_mixer.py; MLP-Mixer paper, appendix B.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]; each of the B rows is kept or zeroed."""
        if not self.training or self.drop_prob == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.drop_prob
        return x * keep

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"


class LayerScale(nn.Module):
    """A factor for each channel.

    Args:
      dim: C.
      value: that all factors start from.
    """

    def __init__(self, dim: int, value: float):
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        return self.factor * x


class Block(nn.Module):
    """x + token_mixer(norm(x)), then x + channel_mixer(norm(x)).

    Args:
      dim: C.
      token_mixer: any module [B, S, C] -> [B, S, C].
      channel_mixer: any module [B, S, C] -> [B, S, C].
      norm: makes a normalisation from C; LayerNorm over C with epsilon 1e-6 by default.
      layer_scale: initial value of a factor per channel on each branch (Touvron et al. 2021, CaiT); None for no factor.
      drop_path: probability of dropping a branch in training, drawn for each branch on its own.
    """

    def __init__(
        self,
        dim: int,
        token_mixer: nn.Module,
        channel_mixer: nn.Module,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        make_norm = norm or (lambda dim: nn.LayerNorm(dim, eps=NORM_EPS))
        self.norm1 = make_norm(dim)
        self.token_mixer = token_mixer
        self.norm2 = make_norm(dim)
        self.channel_mixer = channel_mixer
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        x = x + self.drop_path(self.scale1(self.token_mixer(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.channel_mixer(self.norm2(x))))
