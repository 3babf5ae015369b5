"""Vision Transformer: sizes from the paper, the model, and its sizes in timm's files.

Axes: B images, S tokens, C channels, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import MLP, Block, PatchEmbed, SelfAttention
from mixonomy.nn.block import NORM_EPS

Pool = Literal["token", "mean"]
POSITIONS_STD = 0.02  # vision_transformer vit_jax/models_vit.py (AddPositionEmbs)


@dataclass(frozen=True)
class ViTSize:
    """One row of the paper's table 1.

    Args:
      pool: "token" reads the features off a class token, as the paper does; "mean" has none and takes the mean.
    """

    patch_size: int
    hidden_dim: int
    num_blocks: int
    channels_mlp_dim: int
    num_heads: int
    pool: Pool = "token"


# Source: ViT paper (Dosovitskiy et al. 2020), table 1; Ti and S: DeiT paper (Touvron et al. 2021), table 1.
SPECS = {
    "vit-ti/16": ViTSize(16, 192, 12, 768, 3),
    "vit-s/32": ViTSize(32, 384, 12, 1536, 6),
    "vit-s/16": ViTSize(16, 384, 12, 1536, 6),
    "vit-b/32": ViTSize(32, 768, 12, 3072, 12),
    "vit-b/16": ViTSize(16, 768, 12, 3072, 12),
    "vit-l/32": ViTSize(32, 1024, 24, 4096, 16),
    "vit-l/16": ViTSize(16, 1024, 24, 4096, 16),
    "vit-h/14": ViTSize(14, 1280, 32, 5120, 16),
}


class Positions(nn.Module):
    """Puts a class token, where there is one, before the patches and adds what tells the places apart.

    Args:
      num_tokens: S, without the class token.
      dim: C.
    """

    def __init__(self, num_tokens: int, dim: int, *, has_class_token: bool):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if has_class_token else None
        self.positions = nn.Parameter(torch.empty(1, num_tokens + has_class_token, dim))
        nn.init.normal_(self.positions, std=POSITIONS_STD)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C], or [B, S + 1, C] with the class token first."""
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.positions


class ViT(Isotropic):
    """Patches to tokens with positions, blocks of self-attention and MLP, class token or mean, linear head.

    Raises:
      ValueError: if the patch size does not divide the image size, or the heads the channels.
    Source: ViT paper, equations 1 to 4; vision_transformer vit_jax/models_vit.py; mean pooling: big_vision
    models/vit.py (pool_type "gap").
    """

    def __init__(self, size: ViTSize, options: Options):
        if size.pool not in ("token", "mean"):
            raise ValueError(f"pool is {size.pool!r}; use token or mean.")
        rows, columns = patch_grid(options.image_size, size.patch_size)
        dim, dropout = size.hidden_dim, options.dropout
        blocks = (
            Block(
                dim,
                SelfAttention(dim, num_heads=size.num_heads, dropout=dropout),
                MLP(dim, size.channels_mlp_dim, gelu=options.gelu, dropout=dropout),
                drop_path=drop_path,
            )
            for drop_path in options.drop_paths(size.num_blocks)
        )
        stem = PatchEmbed(options.in_channels, dim, size.patch_size)
        super().__init__(stem, blocks, nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, options.num_classes))
        self.positions = Positions(rows * columns, dim, has_class_token=size.pool == "token")
        self.start(options)

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, C], the pre-logits."""
        x = self.norm(self.blocks(self.positions(self.stem(images))))
        return x.mean(dim=1) if self.positions.class_token is None else x[:, 0]
