"""The two MLPs of MLP-Mixer, one on the channels of a token, one on the tokens of a channel, and ResMLP's linear map.

Axes: B images, S tokens, C channels.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mixonomy.choices import Gelu


class ColumnLinear(nn.Linear):
    """nn.Linear for columns: W x + b for x [in, ...], where nn.Linear computes x W^T + b for [..., in].

    With the tokens first, all channels of all images are one matrix of columns: no batched product and no transpose
    whose rows are shorter than C, neither forward nor backward (`benchmarks/train.py`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """[in_features, N] -> [out_features, N], float."""
        return torch.addmm(self.bias[:, None], self.weight, x)


class MLP(nn.Module):
    """Mixes the last axis with two linear layers and a GELU in between; the other axes do not meet.

    Args:
      dim: size of the last axis, kept by the layer.
      hidden_dim: width between the two linear layers.
      gelu: "tanh" is JAX's approximation, needed for Google's weights; "erf" is exact, as timm uses.
      dropout: probability after the GELU and after the second linear layer.
    Source: MLP-Mixer paper, equation 1; vision_transformer vit_jax/models_mixer.py (MlpBlock).
    """

    LINEAR: ClassVar[type[nn.Linear]] = nn.Linear

    def __init__(self, dim: int, hidden_dim: int, *, gelu: Gelu = "tanh", dropout: float = 0.0):
        super().__init__()
        self.fc1 = self.LINEAR(dim, hidden_dim)
        self.act = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
        self.fc2 = self.LINEAR(hidden_dim, dim)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim], float."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class TokenMLP(MLP):
    """Mixes the tokens of each channel with one MLP that all channels share.

    Args:
      num_tokens: S; the weights fix it, another resolution needs other weights.
      tokens_mlp_dim: D_S, width between the two linear layers.
    """

    LINEAR = ColumnLinear

    def __init__(self, num_tokens: int, tokens_mlp_dim: int, *, gelu: Gelu = "tanh", dropout: float = 0.0):
        super().__init__(num_tokens, tokens_mlp_dim, gelu=gelu, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        return from_columns(super().forward(to_columns(x)), x)


class TokenLinear(ColumnLinear):
    """Mixes the tokens of each channel with one linear map that all channels share.

    Args:
      num_tokens: S; the weights fix it.
    Source: ResMLP paper (Touvron et al. 2021), section 2.
    """

    def __init__(self, num_tokens: int):
        super().__init__(num_tokens, num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        return from_columns(super().forward(to_columns(x)), x)


def to_columns(x: Tensor) -> Tensor:
    """[B, S, C] -> [S, B * C]: the columns of all images, side by side."""
    return x.transpose(0, 1).flatten(1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """[S, B * C] -> [B, S, C] for `like` [B, ?, C]."""
    return columns.unflatten(1, (like.shape[0], like.shape[2])).transpose(0, 1)
