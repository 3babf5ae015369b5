"""Vision Transformer: sizes from the papers, the model, and its names in timm.

Axes: B images, S tokens, C channels, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.choices import Pool
from mixonomy.models.isotropic import Isotropic, Options, patch_grid
from mixonomy.nn import MLP, Block, PatchEmbed, SelfAttention
from mixonomy.nn.block import NORM_EPS

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


# timm's name -> ours, and the parts of our parameters' names that are called otherwise there.
# Source: timm models/vision_transformer.py.
TIMM_ARCHITECTURES = {
    "vit_tiny_patch16_224": "vit-ti/16",
    "vit_small_patch32_224": "vit-s/32",
    "vit_small_patch16_224": "vit-s/16",
    "vit_base_patch32_224": "vit-b/32",
    "vit_base_patch16_224": "vit-b/16",
    "vit_large_patch32_224": "vit-l/32",
    "vit_large_patch16_224": "vit-l/16",
    "vit_huge_patch14_224": "vit-h/14",
}
TIMM_NAMES = (
    ("stem.proj", "patch_embed.proj"),
    ("stem.class_token", "cls_token"),
    ("stem.positions", "pos_embed"),
    ("token_mixer", "attn"),
    ("channel_mixer", "mlp"),
)


class PlacedPatches(PatchEmbed):
    """Patches to tokens with a class token, where there is one, before them, and with what tells the places apart.

    Args:
      num_tokens: S, without the class token.
      dropout: probability after the positions are added.
    Source: ViT paper, equation 1; vision_transformer vit_jax/models_vit.py (class token from zero).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        *,
        num_tokens: int,
        has_class_token: bool,
        dropout: float = 0.0,
    ):
        super().__init__(in_channels, dim, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if has_class_token else None
        self.positions = nn.Parameter(torch.empty(1, num_tokens + has_class_token, dim))
        nn.init.normal_(self.positions, std=POSITIONS_STD)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, S, C], or [B, S + 1, C] with the class token first."""
        x = super().forward(images)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.drop(x + self.positions)


class ViT(Isotropic):
    """Patches to tokens with positions, blocks of self-attention and MLP, class token or mean, linear head.

    vit_jax draws its first weights as `init="timm"` does, but for queries, keys and values: each is a matrix of its own
    there, and so starts sqrt(2) times as large as in the one that holds all three here.

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
        stem = PlacedPatches(
            options.in_channels,
            dim,
            size.patch_size,
            num_tokens=rows * columns,
            has_class_token=size.pool == "token",
            dropout=dropout,
        )
        super().__init__(stem, blocks, nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, options.num_classes))
        self.pool = size.pool
        self.start(options)

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, C], the pre-logits."""
        x = self.norm(self.blocks(self.stem(images)))
        return x[:, 0] if self.pool == "token" else x.mean(dim=1)  # [B, S + 1, C] or [B, S, C] -> [B, C]
