"""Models of the one Block whose token mixer looks at a window only: pooling, or a depthwise convolution.

Axes: S tokens, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import MLP, Block, DepthwiseConv, PatchEmbed, Pooling
from mixonomy.nn.block import NORM_EPS


@dataclass(frozen=True)
class WindowSize:
    """Sizes of a model with a window; the window is `kernel_size` tokens wide and high."""

    patch_size: int
    hidden_dim: int
    num_blocks: int
    channels_mlp_dim: int
    kernel_size: int


# The sizes are ours: those of Mixer-S/16 and Mixer-B/16 with another token mixer, so that only that part differs where
# both are given the same GELU (if none is given, `create` takes erf here and tanh for a Mixer). The windows are
# PoolFormer's (Yu et al. 2022) and that of ConvMixer-768/32 (Trockman and Kolter 2022).
POOL_SPECS = {
    "pool-s/16": WindowSize(16, 512, 8, 2048, 3),
    "pool-b/16": WindowSize(16, 768, 12, 3072, 3),
}
DWCONV_SPECS = {
    "dwconv-s/16": WindowSize(16, 512, 8, 2048, 7),
    "dwconv-b/16": WindowSize(16, 768, 12, 3072, 7),
}


class PoolMixer(Isotropic):
    """Patches to tokens, blocks of pooling and MLP, mean over tokens, linear head: PoolFormer's parts, one resolution.

    Raises:
      ValueError: if the patch size does not divide the image size, or the window is even.
    Source: Yu et al. 2022, "MetaFormer is actually what you need for vision"; theirs has four stages.
    """

    def __init__(self, size: WindowSize, options: Options):
        grid = patch_grid(options.image_size, size.patch_size)
        mixers = (Pooling(grid, kernel_size=size.kernel_size) for _ in range(size.num_blocks))
        super().__init__(*_parts(size, options, mixers))
        self.start(options)


class DepthwiseMixer(Isotropic):
    """Patches to tokens, blocks of depthwise convolution and MLP, mean over tokens, linear head.

    Raises:
      ValueError: if the patch size does not divide the image size, or the window is even.
    """

    def __init__(self, size: WindowSize, options: Options):
        grid = patch_grid(options.image_size, size.patch_size)
        mixers = (DepthwiseConv(size.hidden_dim, grid, kernel_size=size.kernel_size) for _ in range(size.num_blocks))
        super().__init__(*_parts(size, options, mixers))
        self.start(options)


def _parts(
    size: WindowSize, options: Options, mixers: Iterator[nn.Module]
) -> tuple[PatchEmbed, Iterator[nn.Module], nn.Module, nn.Linear]:
    dim = size.hidden_dim
    blocks = (
        Block(
            dim,
            mixer,
            MLP(dim, size.channels_mlp_dim, gelu=options.gelu, dropout=options.dropout),
            drop_path=drop_path,
        )
        for mixer, drop_path in zip(mixers, options.drop_paths(size.num_blocks), strict=True)
    )
    stem = PatchEmbed(options.in_channels, dim, size.patch_size)
    return stem, blocks, nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, options.num_classes)
