"""What the isotropic models share: the grid of patches, what each is told beside its sizes, and the way through.

Axes: B images, S tokens, C channels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from mixonomy.nn import PatchEmbed, initialise
from mixonomy.nn.init import Init
from mixonomy.nn.mlp import Gelu


@dataclass(frozen=True)
class Options:
    """What a model is built for, and how it trains; its sizes stand in a class of each family.

    Args:
      image_size: (height, width) in pixels, multiples of the patch size.
      num_classes: K.
      in_channels: channels of the images.
      gelu: "tanh" for Google's weights, "erf" for timm's.
      init: initial weights, see `mixonomy.nn.initialise`; the head starts at zero either way.
      dropout: probability inside the MLPs and after attention, in training.
      drop_path: probability of dropping a branch in the last block; grows linearly from 0 in the first.
      head_bias: initial bias of the head; -ln(num_classes) suits the sigmoid loss.
    """

    image_size: tuple[int, int]
    num_classes: int
    in_channels: int = 3
    gelu: Gelu = "tanh"
    init: Init = "flax"
    dropout: float = 0.0
    drop_path: float = 0.0
    head_bias: float = 0.0

    def drop_paths(self, num_blocks: int) -> Iterator[float]:
        """The probability for each block. Source: big_vision models/mlp_mixer.py; MLP-Mixer paper, appendix B."""
        return (self.drop_path * i / max(num_blocks - 1, 1) for i in range(num_blocks))


class Isotropic(nn.Module):
    """Abstract: patches to tokens, blocks that keep their number and width, mean over tokens, linear head.

    Args:
      stem: images -> tokens [B, S, C], positions included where there are any.
      blocks: each [B, S, C] -> [B, S, C].
      norm: over C, before the mean.
      head: C -> K.
    """

    def __init__(self, stem: PatchEmbed, blocks: Iterator[nn.Module], norm: nn.Module, head: nn.Linear):
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm
        self.head = head

    def start(self, options: Options) -> None:
        """Draws the initial weights; the head starts at zero."""
        initialise(self, options.init)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, options.head_bias)

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, C], the pre-logits."""
        return self.norm(self.blocks(self.stem(images))).mean(dim=1)  # [B, S, C] -> [B, C]

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] -> [B, K] logits."""
        return self.head(self.features(images))


def patch_grid(
    image_size: tuple[int, int], patch_size: int, *, or_else: str = ", or another patch size"
) -> tuple[int, int]:
    """(rows, columns) of patches in an image.

    Args:
      or_else: what else the error tells one to do.
    Raises:
      ValueError: naming the nearest sizes that work, if the patch size does not divide the image size.
    """
    height, width = image_size
    if height % patch_size or width % patch_size or height < 1 or width < 1:
        nearest = nearest_multiples(image_size, (patch_size, patch_size))
        raise ValueError(
            f"image size {height}x{width} is not divisible by patch size {patch_size}; use {nearest}{or_else}."
        )
    return height // patch_size, width // patch_size


def nearest_multiples(image_size: tuple[int, int], unit: tuple[int, int]) -> str:
    """The multiples of a size below and above another one, in words such as "48x48 or 56x56"."""
    below = (max(given // side, 1) * side for given, side in zip(image_size, unit, strict=True))
    above = (max(-(-given // side), 1) * side for given, side in zip(image_size, unit, strict=True))
    return " or ".join(dict.fromkeys("{}x{}".format(*size) for size in (below, above)))
