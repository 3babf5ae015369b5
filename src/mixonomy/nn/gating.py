"""The spatial gating unit of gMLP: half of the channels, mixed over the tokens, multiply the other half.

Axes: B images, S tokens, D channels inside the unit.
"""

import torch
from torch import Tensor, nn


class SpatialGatingUnit(nn.Module):
    """u * (W norm(v) + b), where u and v are the halves of the channels and W mixes tokens.

    Args:
      dim: D, even; half of it comes out.
      num_tokens: S; the weights fix it.
    Raises:
      ValueError: if `dim` is odd.
    Source: gMLP paper (Liu et al. 2021, "Pay attention to MLPs"), section 2.1; the norm's epsilon is torch's own, as
    in timm.
    """

    def __init__(self, dim: int, num_tokens: int):
        super().__init__()
        if dim % 2:
            raise ValueError(f"channels_mlp_dim is {dim}; the gating unit halves it, so give an even number.")
        self.norm = nn.LayerNorm(dim // 2)
        self.proj = nn.Linear(num_tokens, num_tokens)

    def reset_gate(self) -> None:
        """Makes the gate one, nearly: weights near zero, biases one (section 2.1)."""
        nn.init.normal_(self.proj.weight, std=1e-6)
        nn.init.ones_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D / 2], float."""
        u, v = torch.chunk(x, 2, dim=2)
        return u * self.proj(self.norm(v).transpose(1, 2)).transpose(1, 2)  # mixed as [B, D/2, S]
