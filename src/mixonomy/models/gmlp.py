"""gMLP: one residual branch per block, in which a gate mixes the tokens between two maps over the channels.

Axes: B images, S tokens, C channels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import DropPath, PatchEmbed, SpatialGatingUnit
from mixonomy.nn.block import NORM_EPS
from mixonomy.nn.mlp import Gelu


@dataclass(frozen=True)
class GMLPSize:
    """One row of the paper's table 1."""

    patch_size: int
    hidden_dim: int
    num_blocks: int
    channels_mlp_dim: int


# Source: gMLP paper (Liu et al. 2021), table 1.
SPECS = {
    "gmlp-ti/16": GMLPSize(16, 128, 30, 768),
    "gmlp-s/16": GMLPSize(16, 256, 30, 1536),
    "gmlp-b/16": GMLPSize(16, 512, 30, 3072),
}

# timm's name -> ours, and the parts of our parameters' names that are called otherwise there.
# Source: timm models/mlp_mixer.py.
TIMM_ARCHITECTURES = {"gmlp_ti16_224": "gmlp-ti/16", "gmlp_s16_224": "gmlp-s/16", "gmlp_b16_224": "gmlp-b/16"}
TIMM_NAMES = ((".fc1", ".mlp_channels.fc1"), (".gate", ".mlp_channels.gate"), (".fc2", ".mlp_channels.fc2"))


class GMLPBlock(nn.Module):
    """x + fc2(gate(gelu(fc1(norm(x))))): the gate stands between two maps over the channels, in the one branch.

    Source: gMLP paper, figure 1.
    """

    def __init__(self, num_tokens: int, dim: int, hidden_dim: int, *, gelu: Gelu, dropout: float, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
        self.gate = SpatialGatingUnit(hidden_dim, num_tokens)
        self.fc2 = nn.Linear(hidden_dim // 2, dim)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], float."""
        gated = self.gate(self.drop(self.act(self.fc1(self.norm(x)))))
        return x + self.drop_path(self.drop(self.fc2(gated)))


class GMLP(Isotropic):
    """Patches to tokens, gMLP blocks, mean over tokens, linear head.

    Raises:
      ValueError: if the patch size does not divide the image size, or `channels_mlp_dim` is odd.
    Source: gMLP paper, section 3.
    """

    def __init__(self, size: GMLPSize, options: Options):
        rows, columns = patch_grid(options.image_size, size.patch_size)
        dim, gelu, dropout = size.hidden_dim, options.gelu, options.dropout
        blocks = (
            GMLPBlock(rows * columns, dim, size.channels_mlp_dim, gelu=gelu, dropout=dropout, drop_path=drop_path)
            for drop_path in options.drop_paths(size.num_blocks)
        )
        stem = PatchEmbed(options.in_channels, dim, size.patch_size)
        super().__init__(stem, blocks, nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, options.num_classes))
        self.start(options)
        for module in self.modules():
            if isinstance(module, SpatialGatingUnit):
                module.reset_gate()
