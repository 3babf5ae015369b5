"""Images whose pixels are permuted before the model sees them, and permutations that are functions of a seed.

Axes: B images, c image channels, H and W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.models.isotropic import patch_grid
from mixonomy.models.permute import shuffle_patches


@dataclass(frozen=True, eq=False)
class Shuffle:
    """What is done to all images alike.

    Args:
      order: int64 [H * W]; place i of the shuffled image shows pixel order[i] of the plain one, in raster order.
      patches, pixels: the two permutations that it is made of, see `mixonomy.permuted`; None for one over all pixels.
    """

    order: Tensor
    patches: Tensor | None = None
    pixels: Tensor | None = None


def local_shuffle(image_size: tuple[int, int], patch_size: int, seed: int) -> Shuffle:
    """The order of the patches, and of the pixels within each patch, the same in all patches.

    Raises:
      ValueError: if the patch size does not divide the image size.
    """
    rows, columns = patch_grid(image_size, patch_size)
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randperm(rows * columns, generator=generator)
    pixels = torch.randperm(patch_size**2, generator=generator)
    plain = torch.arange(image_size[0] * image_size[1]).view(1, 1, *image_size)
    return Shuffle(shuffle_patches(plain, patch_size, patches=patches, pixels=pixels).flatten(), patches, pixels)


def global_shuffle(image_size: tuple[int, int], seed: int) -> Shuffle:
    """One permutation over all pixels of the image."""
    generator = torch.Generator().manual_seed(seed)
    return Shuffle(torch.randperm(image_size[0] * image_size[1], generator=generator))


class Shuffled(nn.Module):
    """A model that sees every image shuffled, in the dtype of its own weights.

    It stands at the end of what is done to images: crops, flips and mixing come before, in training as in evaluation
    and few-shot probes, and where nothing is shuffled nothing is in the way.

    Args:
      model: images [B, c, H, W] -> logits, with `features`.
      shuffle: None leaves them as they are, and only the dtype is the model's.
    """

    order: Tensor | None

    def __init__(self, model: nn.Module, shuffle: Shuffle | None):
        super().__init__()
        self.model = model
        self.register_buffer("order", None if shuffle is None else shuffle.order, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, C]."""
        return self.model.features(self._seen(images))  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, K]."""
        return self.model(self._seen(images))

    def _seen(self, images: Tensor) -> Tensor:
        images = images.to(next(self.model.parameters()).dtype)
        if self.order is None:
            return images
        return images.flatten(2).index_select(2, self.order).unflatten(2, images.shape[2:])
