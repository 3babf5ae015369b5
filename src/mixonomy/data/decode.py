"""Encoded images to pixels.

Axes: C channels (1 or 3), H and W pixels.
"""

import io

import numpy as np
import torch
from torch import Tensor

from mixonomy.data.sources import Encoded


def decode(image: Encoded, channels: int = 3) -> Tensor:
    """Decodes an image file, or passes pixels through, as uint8 [channels, H, W].

    TorchCodec decodes what it can (it applies the EXIF orientation), Pillow the rest.

    Args:
      image: the bytes of a file, or pixels [H, W] or [H, W, 3].
      channels: 3 for RGB, 1 for grey.
    Raises:
      ValueError: if no decoder reads it.
    """
    if isinstance(image, np.ndarray):
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        if pixels.shape[0] == channels:
            return pixels
        return pixels.expand(3, -1, -1) if channels == 3 else _to_grey(pixels)
    from torchcodec.decoders import decode_image  # pyright: ignore[reportPrivateImportUsage]

    try:
        pixels = decode_image(image, mode="RGB" if channels == 3 else "GRAY")
    except (RuntimeError, ValueError):  # a format that it does not know, or an odd file
        return _decode_with_pillow(image, channels)
    return pixels if pixels.ndim == 3 else pixels[0]  # the first frame of an animation


def _to_grey(pixels: Tensor) -> Tensor:
    """[3, H, W] -> [1, H, W] by the ITU-R 601 weights, as Pillow and torchvision do."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (pixels * weights).sum(0, keepdim=True).round().to(torch.uint8)


def _decode_with_pillow(image: bytes, channels: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(image)) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            pixels = torch.from_numpy(np.array(upright))
    except Image.UnidentifiedImageError:
        raise ValueError("not a readable image (no known format)") from None
    except (OSError, SyntaxError, ValueError, NotImplementedError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image ({error})") from None
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)
