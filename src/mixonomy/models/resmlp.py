"""ResMLP: one linear map over the tokens, an MLP over the channels, and no statistics anywhere.

Axes: S tokens, C channels.
"""

from dataclasses import dataclass

from torch import nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import MLP, Affine, Block, PatchEmbed, TokenLinear


@dataclass(frozen=True)
class ResMLPSize:
    """One model of the paper's section 3.1."""

    patch_size: int
    hidden_dim: int
    num_blocks: int
    channels_mlp_dim: int


# Source: ResMLP paper (Touvron et al. 2021), section 3.1; B24/8: table 1 and the authors' resmlp_models.py.
SPECS = {
    "resmlp-12": ResMLPSize(16, 384, 12, 1536),
    "resmlp-24": ResMLPSize(16, 384, 24, 1536),
    "resmlp-36": ResMLPSize(16, 384, 36, 1536),
    "resmlp-big-24": ResMLPSize(8, 768, 24, 3072),
}

# timm's name -> ours, and the parts of our parameters' names that are called otherwise there.
# Source: timm models/mlp_mixer.py.
TIMM_ARCHITECTURES = {
    "resmlp_12_224": "resmlp-12",
    "resmlp_24_224": "resmlp-24",
    "resmlp_36_224": "resmlp-36",
    "resmlp_big_24_224": "resmlp-big-24",
}
TIMM_NAMES = (
    ("token_mixer", "linear_tokens"),
    ("channel_mixer", "mlp_channels"),
    ("scale1.factor", "ls1"),
    ("scale2.factor", "ls2"),
)


class ResMLP(Isotropic):
    """Patches to tokens, blocks of token map and channel MLP with affine norms and layer scale, mean, linear head.

    Raises:
      ValueError: if the patch size does not divide the image size.
    Source: ResMLP paper, section 2.
    """

    def __init__(self, size: ResMLPSize, options: Options):
        rows, columns = patch_grid(options.image_size, size.patch_size)
        dim = size.hidden_dim
        blocks = (
            Block(
                dim,
                TokenLinear(rows * columns),
                MLP(dim, size.channels_mlp_dim, gelu=options.gelu, dropout=options.dropout),
                norm=Affine,
                layer_scale=_layer_scale(size),
                drop_path=drop_path,
            )
            for drop_path in options.drop_paths(size.num_blocks)
        )
        stem = PatchEmbed(options.in_channels, dim, size.patch_size)
        super().__init__(stem, blocks, Affine(dim), nn.Linear(dim, options.num_classes))
        self.start(options)


def _layer_scale(size: ResMLPSize) -> float:
    """Initial factor of the branches: smaller in deeper models, and in the wide one.

    Source: CaiT paper (Touvron et al. 2021), section 2; the authors' resmlp_models.py (1e-6 for B24).
    """
    if size.num_blocks <= 18:
        return 0.1
    return 1e-5 if size.num_blocks <= 24 and size.hidden_dim < 768 else 1e-6
