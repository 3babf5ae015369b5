"""Encoded images to pixels.

Axes: C channels (1 or 3), H and W pixels.
"""

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mixonomy.data.sources.base import Encoded

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh red, green and blue
WHITE = 255  # what shows through where an image is transparent
NO_HEIC = "HEIC needs the library libheif: `apt install libheif1` or `brew install libheif`, or save it as JPEG"
# What Pillow's decoders raise for damaged files; AVIF's raises RuntimeError.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, Image.DecompressionBombError)


def decode(image: Encoded | Image.Image, channels: int = 3) -> Tensor:
    """Decodes an image file, or passes pixels through, as uint8 [channels, H, W].

    Upright by its EXIF orientation, the first frame of an animation, transparent parts over white, 16 bits scaled to 8.
    TorchCodec decodes what it can, Pillow the rest and what is transparent.

    Args:
      image: the bytes of a file, pixels [H, W] or [H, W, 3], or an image that Pillow has opened, which stays open.
      channels: 3 for RGB, 1 for grey.
    Raises:
      ValueError: if it is no image, is cut off or damaged, or has too many pixels (Pillow's limit, 179 million).
    """
    if isinstance(image, np.ndarray):
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        if pixels.shape[0] == channels:
            return pixels
        return pixels.expand(3, -1, -1) if channels == 3 else _to_grey(pixels)
    if isinstance(image, Image.Image):
        return _decode_with_pillow(image, channels)
    from torchcodec.decoders import decode_image  # pyright: ignore[reportPrivateImportUsage]

    if not image:
        raise ValueError("not a readable image (an empty file)")
    header = _header(image)
    if header is None or not header.has_transparency_data:
        try:
            pixels = decode_image(image, mode="RGB" if channels == 3 else "GRAY")
            return pixels if pixels.ndim == 3 else pixels[0]
        except ImportError:  # libheif is not installed; nothing else is loaded that late
            raise ValueError(f"not a readable image ({NO_HEIC})") from None
        except (RuntimeError, ValueError):  # a format that it does not know, or an odd or damaged file
            if header is None:
                raise ValueError("not a readable image (no known format)") from None
    assert header is not None
    with header:
        return _decode_with_pillow(header, channels)


def _header(image: bytes) -> Image.Image | None:
    """The image as Pillow opens it, its pixels still unread; None if Pillow does not know the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large ones, and odd metadata
            return Image.open(io.BytesIO(image))
    except Image.UnidentifiedImageError:
        return None
    except DAMAGED as error:
        raise ValueError(f"not a readable image ({error})") from None


def _decode_with_pillow(opened: Image.Image, channels: int) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            upright = ImageOps.exif_transpose(opened)
            pixels = torch.from_numpy(_over_white(upright, "RGB" if channels == 3 else "L"))
    except DAMAGED as error:
        raise ValueError(f"not a readable image ({error})") from None
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _over_white(image: Image.Image, mode: str) -> np.ndarray:
    """uint8 [H, W] for mode L, [H, W, 3] for RGB."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, of which Pillow would cut off what is above 255
        values = np.asarray(image).astype(np.float64).clip(0.0)
        scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)  # nothing in such a file tells
        largest = float(values.max(initial=0.0))
        white = next((scale for scale in scales if largest <= scale), largest)
        image = Image.fromarray((values * (255.0 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (WHITE,) * 4), image)
    return np.array(image.convert(mode))


def _to_grey(pixels: Tensor) -> Tensor:
    """uint8 [3, H, W] -> [1, H, W]."""
    weights = torch.tensor(GREY_WEIGHTS).view(3, 1, 1)
    return (pixels * weights).sum(0, keepdim=True).round().to(torch.uint8)
