"""Self-attention: every token looks at every other, with weights that the tokens themselves decide.

Axes: B images, S tokens, C channels, h heads.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens, with biases.

    Args:
      dim: C, a multiple of the number of heads.
      num_heads: h; each has C / h channels.
      dropout: probability after the output projection.
    Raises:
      ValueError: if the heads do not divide the channels.
    Source: ViT paper (Dosovitskiy et al. 2020), appendix A.
    """

    def __init__(self, dim: int, *, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide hidden_dim {dim}; give a number that does.")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # [B, S, 3C] -> [B, S, 3, h, C/h]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, h, S, C/h]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))  # [B, h, S, C/h] -> [B, S, C]
