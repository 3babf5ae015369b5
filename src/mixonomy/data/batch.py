"""A training batch, and what a rank knows of the batch of which it has a part.

Axes: B images in a batch, c image channels, H and W pixels, K classes.
"""

from dataclasses import dataclass

from torch import Tensor

from mixonomy.data import stream
from mixonomy.data.bad_images import BadImage


@dataclass(frozen=True)
class Whole:
    """What a rank knows of the batch of which it has a part.

    Args:
      count: images in all its parts.
      first_key: the random key of its first image.
      before: where images are mixed with their neighbours, the image that stands before the part and its label, uint8
        [1, c, H, W] and int64 [1] or bool [1, K]; of the first part the last image of all.
    """

    count: int
    first_key: int
    before: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Batch:
    """A training batch, or this rank's part of one, augmented but not yet normalised or mixed.

    Args:
      images: uint8 [B, c, H, W].
      labels: int64 [B], or bool [B, K].
      keys: the random keys of the samples, [B].
      bad: images that should be here and could not be read; the batch is smaller by as many.
      whole: what this is a part of, where several ranks share a batch.
    """

    images: Tensor
    labels: Tensor
    keys: stream.UInts
    bad: tuple[BadImage, ...] = ()
    whole: Whole | None = None
