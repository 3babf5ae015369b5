"""Encoded images to pixels.

Axes: C channels (1 or 3), H and W pixels.
"""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from mixonomy.data.sources.base import Encoded

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh red, green and blue
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses more
SCALES = (8, 4, 2)  # by which libjpeg can shrink an image while it decodes
# A crop keeps at least so many times the pixels a side that are wanted of it. At 1.5 photographs differ from those that
# were decoded whole by less than one grey level on average, less than bilinear differs from bicubic; at 1 by three.
MIN_SPARE = 1.5
TURNED = 5  # EXIF orientations from here on swap height and width
ALONE = (0x01, *range(0xD0, 0xD8))  # JPEG's markers without a length: TEM and RST
FRAMES = {marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)}  # JPEG's "start of frame"
WHITE = 255  # what shows through where an image is transparent
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
NO_HEIC = "HEIC needs the library libheif: `apt install libheif1` or `brew install libheif`, or save it as JPEG"
# What Pillow's readers raise for damaged files: AVIF's RuntimeError, GIF's IndexError, TIFF's struct.error, and so on.
DAMAGED = (
    OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError, ArithmeticError, TypeError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def decode(image: Encoded | Image.Image, channels: int = 3, *, formats: tuple[str, ...] | None = None) -> Tensor:
    """Decodes an image file, or passes pixels through, as uint8 [channels, H, W].

    Upright by its EXIF orientation, the first frame of an animation, transparent parts over white, 16 bits scaled to 8.
    TorchCodec decodes what it can, Pillow the rest and what is transparent.

    Args:
      image: the bytes of a file, pixels [H, W] or [H, W, 3], or an image that Pillow has opened, which stays open.
      channels: 3 for RGB, 1 for grey.
      formats: those of files that are looked into, by Pillow's names; all that are known if None.
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
    from torchcodec.decoders import decode_image, decode_jpeg  # pyright: ignore[reportPrivateImportUsage]

    if not image:
        raise ValueError("not a readable image (an empty file)")
    size = jpeg_size(image)
    if size is not None and size[0] * size[1] <= MAX_PIXELS:
        with contextlib.suppress(RuntimeError, ValueError):  # Pillow may read it, or says what is wrong
            pixels = decode_jpeg(image, mode="RGB" if channels == 3 else "GRAY")
            assert isinstance(pixels, Tensor)  # a list only for several files
            return pixels
    header = _header(image, formats)
    if header is None and formats is not None:
        raise ValueError("not a readable image (no known format)")
    # TorchCodec decodes all frames of an animation at once, a few bytes each in the file and whole in memory; and in a
    # JPEG whose size is not plain it could find another one than Pillow.
    is_odd = size is None and image[:2] == b"\xff\xd8"
    if header is None or not (is_odd or header.has_transparency_data or _is_animated(header)):
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


def decode_crop(
    image: Encoded, channels: int, choose: Callable[[tuple[int, int]], Box], image_size: tuple[int, int]
) -> Tensor:
    """Decodes an image and cuts a box out of it; of a large JPEG with no more pixels than the box needs.

    Where the box has many more pixels than are wanted of it, the JPEG is decoded at a half, a quarter or an eighth of
    its size, which takes about half the time. The box's edges then move to whole pixels of that size.

    Args:
      choose: (height, width) of the upright image -> the box.
      image_size: (height, width) that the box will be resized to.
    Returns:
      uint8 [channels, h, w], a view.
    Raises:
      ValueError: as `decode`.
    """
    stored = jpeg_size(image) if isinstance(image, bytes) else None
    if stored is None or min(stored) < min(SCALES) * MIN_SPARE * min(image_size):
        pixels = decode(image, channels)
        return _cut(pixels, choose((pixels.shape[1], pixels.shape[2])))
    assert isinstance(image, bytes)
    header = _header(image)
    if header is None:
        raise ValueError("not a readable image (no known format)")
    with header:
        width, height = header.size
        if header.getexif().get(ExifTags.Base.Orientation, 1) >= TURNED:
            height, width = width, height
        box = choose((height, width))
        spare = min(box[2] / image_size[0], box[3] / image_size[1]) / MIN_SPARE
        scale = next((scale for scale in SCALES if scale <= spare), 1)
        if scale == 1:
            return _cut(decode(image, channels), box)
        header.draft(None, (header.width // scale, header.height // scale))
        pixels = _decode_with_pillow(header, channels)
    top, left, height, width = (edge // scale for edge in box)
    return _cut(pixels, (top, left, height, width))


def jpeg_size(image: bytes) -> tuple[int, int] | None:
    """(height, width) as a JPEG file stores them, before any turn; None if it is no JPEG, or an odd one.

    A twentieth of the time that Pillow takes to open a file.
    Source: ITU-T T.81, annex B.
    """
    if image[:3] != b"\xff\xd8\xff":
        return None
    place = 2
    while place + 9 <= len(image) and image[place] == 0xFF:
        marker, length = image[place + 1], int.from_bytes(image[place + 2 : place + 4], "big")
        if marker in FRAMES:
            return int.from_bytes(image[place + 5 : place + 7], "big"), int.from_bytes(
                image[place + 7 : place + 9], "big"
            )
        if marker == 0xFF:  # any number of them may stand before a marker
            place += 1
        elif marker in ALONE:
            place += 2
        elif length < 2:  # it counts itself
            return None
        else:
            place += 2 + length
    return None


def file_ending(image: bytes) -> str:
    """What the name of an image file should end in, such as "jpg", by its first bytes; its pixels are not decoded.

    Raises:
      ValueError: if it is no image.
    """
    if image[:3] == b"\xff\xd8\xff":
        return "jpg"
    if image[4:8] == b"ftyp" and image[8:12] in HEIC_BRANDS:  # which Pillow does not know
        return "heic"
    header = _header(image) if image else None
    if header is None:
        raise ValueError(f"not a readable image ({'no known format' if image else 'an empty file'})")
    with header:
        form = (header.format or "").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(form, form)


def _cut(pixels: Tensor, box: Box) -> Tensor:
    top, left, height, width = box
    return pixels[:, top : top + height, left : left + width]


def _header(image: bytes, formats: tuple[str, ...] | None = None) -> Image.Image | None:
    """The image as Pillow opens it, its pixels still unread; None if Pillow does not know the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large ones, and odd metadata
            return Image.open(io.BytesIO(image), formats=formats)
    except Image.UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise ValueError(f"not a readable image (more than {MAX_PIXELS:,} pixels)") from None
    except DAMAGED as error:
        raise ValueError(f"not a readable image ({error})") from None


def _is_animated(header: Image.Image) -> bool:
    try:
        return getattr(header, "is_animated", False)
    except DAMAGED:  # behind the first frame, which Pillow may read
        return True


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
