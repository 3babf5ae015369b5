"""One image to the facts that the check keeps of it: whether it can be read, what it is, what it looks like.

Axes: H and W pixels.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixonomy.data.decode import DAMAGED, decode

THUMBNAIL = 16  # pixels a side; 768 bytes an image, so 77 MB for 100,000 images
MAX_PIXELS = 178_956_970  # Pillow opens no more: a file of a few bytes can claim any size (Image.py, MAX_IMAGE_PIXELS)
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored (EXIF 2.32, section 4.6.4)
GREY = 128  # what libjpeg shows for blocks whose data is missing: coefficients of zero
BLOCK = 8  # pixels a side of a JPEG block


@dataclass(frozen=True)
class ImageFacts:
    """What is kept of one image.

    Args:
      problem: "" if it can be read, else "unreadable", "truncated" or "huge".
      reason: of the problem, in words.
      format: such as "JPEG"; "pixels" where the source holds pixels, "other" where only the decoder knows it.
      mode: Pillow's name of the colours, such as "RGB", "L", "CMYK"; "" where it is not known.
      height, width: of the upright image in pixels; 0 where it cannot be read.
      is_turned: whether its EXIF tag says that it is to be turned or mirrored.
      ends_grey: whether the last block of a JPEG is the grey that stands for missing data, and not all of it.
      content, pixels: digests of 16 bytes of the file and of the decoded pixels.
      thumbnail: uint8 [16, 16, 3].
    """

    problem: str = ""
    reason: str = ""
    format: str = "other"
    mode: str = ""
    height: int = 0
    width: int = 0
    is_turned: bool = False
    ends_grey: bool = False
    content: bytes = bytes(16)
    pixels: bytes = bytes(16)
    thumbnail: NDArray[np.uint8] | None = None


def examine(image: bytes | NDArray[np.uint8]) -> ImageFacts:
    """Looks at one image; what cannot be read is a fact too, not an error."""
    with warnings.catch_warnings():  # Pillow warns of odd EXIF data, and of sizes that are checked here
        warnings.simplefilter("ignore")
        return _examine(image)


def _examine(image: bytes | NDArray[np.uint8]) -> ImageFacts:
    if isinstance(image, np.ndarray):
        kind = ("pixels", "L" if image.ndim == 2 else "RGB", False)
        content = np.ascontiguousarray(image).data
    else:
        kind = _header(image)
        if isinstance(kind, str):
            return ImageFacts("huge", kind)
        content = image
    if isinstance(image, bytes) and (cut := cut_off(image)):
        return ImageFacts("truncated", cut, *kind)
    try:
        pixels = decode(image, 3)
    except ValueError as error:
        # A decoder that runs out of data says so; a file that it took for an image began as one.
        return ImageFacts("truncated" if "truncated" in str(error) else "unreadable", str(error), *kind[:2])
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())  # [3, H, W] -> [H, W, 3]
    height, width = array.shape[:2]
    return ImageFacts(
        format=kind[0],
        mode=kind[1],
        height=height,
        width=width,
        is_turned=kind[2],
        ends_grey=kind[0] == "JPEG" and _ends_grey(pixels),
        content=_digest(content),
        pixels=_digest(array.data, f"{height}x{width}"),
        thumbnail=thumbnail(array),
    )


def cut_off(content: bytes) -> str:
    """Says what is missing at the end of a JPEG, PNG or WebP file; "" if nothing is, or it is of another format.

    A decoder may fill what is missing with grey and say nothing. In the compressed data of a JPEG, the byte FF is
    followed by 00 or by a marker, so the end marker FF D9 is found by searching behind the header, where a preview
    inside the EXIF data cannot be taken for it.
    Source: ITU-T T.81, annex B; PNG specification, section 5.6; RFC 9649 (WebP), section 2.3.
    """
    if content[:2] == b"\xff\xd8":
        at = 2
        while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:  # up to the first scan
            if content[at + 1] == 0xFF:  # a fill byte
                at += 1
                continue
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        return "" if content.find(b"\xff\xd9", at) >= 0 else "the end marker of the JPEG file is missing"
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        end = content.rfind(b"IEND")  # and its checksum of four bytes
        return "" if 0 <= end <= len(content) - 8 else "the last chunk of the PNG file is missing"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        missing = int.from_bytes(content[4:8], "little") + 8 - len(content)
        return f"{missing:,} bytes of the WebP file are missing" if missing > 0 else ""
    return ""


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] -> uint8 [16, 16, 3], the whole image, by a triangle filter as wide as the scale."""
    from PIL import Image

    small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return np.asarray(small)


def _header(content: bytes) -> tuple[str, str, bool] | str:
    """(format, mode, is turned), without decoding; a sentence if the image claims too many pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return f"it claims {opened.width:,} x {opened.height:,} pixels"
            kind = opened.format or "other", opened.mode
            # PNG's getexif() would decode the image to look behind it.
            orientation = opened.getexif().get(ORIENTATION, 1) if "exif" in opened.info or kind[0] == "TIFF" else 1
            return *kind, orientation in range(2, 9)
    except Image.DecompressionBombError as error:
        return f"it claims too many pixels ({error})"
    except DAMAGED:  # the decoder will say what it is, or is not
        return "other", "", False


def _ends_grey(pixels: torch.Tensor) -> bool:
    """Whether the last block of [3, H, W] is missing; an image that is grey all over is whole."""
    height, width = ((size - 1) % BLOCK + 1 for size in pixels.shape[1:])
    return bool((pixels[:, -height:, -width:] == GREY).all()) and not bool((pixels == GREY).all())


def _digest(data: bytes | memoryview, salt: str = "") -> bytes:
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(salt.encode())
    return digest.digest()
