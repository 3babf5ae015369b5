"""Token mixers that look at a window of the grid of patches: pooling and depthwise convolution.

Axes: B images, S tokens in raster order of a grid of (rows, columns), C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Pooling(nn.Module):
    """The mean of the tokens around a place, less the token itself; no parameters.

    Args:
      grid: (rows, columns) of tokens, rows * columns = S.
      kernel_size: side of the window, odd, at least 3; at the border only tokens that exist are averaged.
    Source: PoolFormer (Yu et al. 2022, "MetaFormer is actually what you need for vision"), section 3.2.
    """

    def __init__(self, grid: tuple[int, int], *, kernel_size: int = 3):
        super().__init__()
        if kernel_size == 1:
            raise ValueError("kernel_size is 1: each token less itself is zero; give an odd number of at least 3.")
        self.grid, self.kernel_size = grid, odd(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        image = to_grid(x, self.grid)
        mean = F.avg_pool2d(image, self.kernel_size, 1, self.kernel_size // 2, count_include_pad=False)
        return to_tokens(mean - image)

    def extra_repr(self) -> str:
        return f"grid={self.grid}, kernel_size={self.kernel_size}"


class DepthwiseConv(nn.Module):
    """One filter per channel over the grid, zeros around it; channels do not meet.

    Args:
      dim: C.
      grid: (rows, columns) of tokens, rows * columns = S.
      kernel_size: side of the filter, odd.
    Source: ConvMixer paper (Trockman and Kolter 2022), section 2, as a token mixer by itself.
    """

    def __init__(self, dim: int, grid: tuple[int, int], *, kernel_size: int = 7):
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(dim, dim, odd(kernel_size), padding="same", groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        return to_tokens(self.conv(to_grid(x, self.grid)))


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, S, C] -> [B, C, rows, columns]."""
    return x.transpose(1, 2).unflatten(2, grid)


def to_tokens(image: Tensor) -> Tensor:
    """[B, C, rows, columns] -> [B, S, C]."""
    return image.flatten(2).transpose(1, 2)


def odd(kernel_size: int) -> int:
    """The kernel size, if the window can have a middle.

    Raises:
      ValueError: if it is even or not positive.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; give an odd number, such as {max(kernel_size, 0) + 1}.")
    return kernel_size
