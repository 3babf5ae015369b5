"""ResMLP's stand-in for a normalisation: a scale and a shift for each channel, and no statistics.

Axes: C channels.
"""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """alpha * x + beta, for each channel.

    Args:
      dim: C.
    Source: ResMLP paper (Touvron et al. 2021), section 2.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C], float."""
        return torch.addcmul(self.beta, self.alpha, x)
