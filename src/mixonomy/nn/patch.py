"""Cuts images into patches and projects each to a token.

Axes: B images, S tokens in raster order, C channels.
"""

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One shared linear map from each non-overlapping square patch to C channels.

    Args:
      in_channels: channels of the image.
      dim: C.
      patch_size: P, in pixels; the image's height and width are multiples of it.
    Source: MLP-Mixer paper, section 2 (a convolution with kernel = stride = P).
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, S, C], float."""
        tokens = self.proj(images).flatten(2).transpose(1, 2)  # [B, C, H/P, W/P] -> [B, C, S] -> [B, S, C]
        # All residual sums after this take its strides; with S last each would be a transpose.
        return tokens.contiguous()
