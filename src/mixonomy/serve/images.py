"""Pictures that strangers send: which formats are read at all, how large they may be, and the parts of a form.

Axes: c image channels, H and W pixels.
"""

import io
import warnings
from dataclasses import dataclass

import python_multipart
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from torch import Tensor

from mixonomy.data.decode import DAMAGED, decode, jpeg_size
from mixonomy.data.transforms import evaluation_crop
from mixonomy.preprocessing import Preprocessing

# Those whose size can be read before their pixels are, by readers that start no other program (EPS would).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
MAX_SCANS = 64  # of a progressive JPEG, each a pass over all pixels; cameras and editors write about ten
SCAN = b"\xff\xda"  # "start of scan", which compressed data cannot hold. Source: ITU-T T.81, annex B
TILE = (322, 323)  # TIFF's tags of a tile's width and length, each tile of which is decoded whole
MAX_NAME = 200  # characters of a file's name that are repeated in the answer
MAX_HEADERS = 8  # of one part of a form


class Refused(ValueError):
    """A request that gets no answer.

    Args:
      status: of HTTP.
      retry_s: after which time it may be answered, if it ever will be.
    """

    def __init__(self, status: int, message: str, retry_s: int | None = None):
        super().__init__(message)
        self.status, self.retry_s = status, retry_s


@dataclass(frozen=True)
class Upload:
    """One file of a request: the name that the client gave it, which is never opened, and its bytes."""

    name: str
    data: bytes


def uploads_of(body: bytes, content_type: str, *, max_images: int) -> list[Upload]:
    """The files in a request's body.

    Args:
      content_type: multipart/form-data for any number of files; all else stands for one image.
      max_images: in it.
    Raises:
      Refused: if it holds no image or too many, or is no form.
    """
    kind, parameters = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        uploads = [Upload("image", body)] if body else []
    else:
        uploads = _parts(body, parameters.get(b"boundary", b""), max_images)
    if not uploads:
        raise Refused(422, "no image in the request; send one as the body, or several as files of a form.")
    return uploads


def _parts(body: bytes, boundary: bytes, max_images: int) -> list[Upload]:
    """The parts of a form that are files, or fields called image or images."""
    found: list[Upload] = []
    headers: dict[bytes, bytes] = {}
    field, value, content = bytearray(), bytearray(), bytearray()
    is_whole = False

    def on_part_begin() -> None:
        if len(found) >= max_images:
            raise Refused(413, f"more than {max_images} parts in one form; send fewer images at a time.")
        headers.clear()
        content.clear()

    def on_header_end() -> None:
        headers[bytes(field).lower()] = bytes(value)
        field.clear()
        value.clear()

    def on_part_end() -> None:
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        name = options.get(b"filename", options.get(b"name", b"image")).decode("utf-8", "replace")
        found.append(Upload(name[:MAX_NAME], bytes(content)))

    def on_end() -> None:
        nonlocal is_whole
        is_whole = True

    callbacks = {
        "on_part_begin": on_part_begin,
        "on_header_field": lambda data, start, end: field.extend(data[start:end]),
        "on_header_value": lambda data, start, end: value.extend(data[start:end]),
        "on_header_end": on_header_end,
        "on_part_data": lambda data, start, end: content.extend(data[start:end]),
        "on_part_end": on_part_end,
        "on_end": on_end,
    }
    if not boundary:
        raise Refused(400, "the form's content type names no boundary; send multipart/form-data with one.")
    try:
        parser = python_multipart.MultipartParser(boundary, callbacks, max_header_count=MAX_HEADERS)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Refused(400, "the form cannot be read; send multipart/form-data with each image as a file.") from None
    if not is_whole:
        raise Refused(400, "the form is cut off; its last boundary is missing.")
    return found


def check_image(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> None:
    """Refuses what is no image or too large, from its first bytes: no pixel is decoded.

    Raises:
      Refused: with 415, 422 or 413, naming what is allowed.
    """
    height, width = _size_of(data, max_pixels)
    if data.startswith(b"\xff\xd8"):
        if jpeg_size(data) not in (None, (height, width)):  # else decoders might not agree on it either
            raise Refused(422, "not a readable image (it is a JPEG of two sizes).")
        if data.count(SCAN) > MAX_SCANS:
            raise Refused(413, f"the JPEG has more than {MAX_SCANS} scans; save it with fewer.")
    _check_size(height, width, preprocessing, max_pixels)


def _size_of(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) as Pillow reads it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large ones, and odd metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if isinstance(image, TiffImageFile):
                    columns, rows = (image.tag_v2.get(tag, 0) for tag in TILE)
                    if columns * rows > max_pixels:
                        raise Refused(
                            413, f"the TIFF has tiles of {rows} x {columns} pixels; at most {max_pixels:,} are allowed."
                        )
                return image.height, image.width
    except Refused:
        raise
    except Image.UnidentifiedImageError:
        raise Refused(415, f"not a readable image; send {NAMES}.") from None
    except Image.DecompressionBombError:
        raise Refused(413, "the image has too many pixels.") from None
    except DAMAGED:
        raise Refused(422, "not a readable image (it is damaged).") from None


def _check_size(height: int, width: int, preprocessing: Preprocessing, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise Refused(422, "not a readable image (it has no pixels).")
    if height * width > max_pixels:
        raise Refused(413, f"the image has {height} x {width} pixels; at most {max_pixels:,} in all are allowed.")
    if preprocessing.crop == "resmall":
        rows, columns = preprocessing.image_size
        scale = preprocessing.resize * max(rows / min(height, width), columns / min(height, width))
        if height * width * scale**2 > max_pixels:
            raise Refused(
                413, f"the image has {height} x {width} pixels, too long and narrow for this model; cut it first."
            )


def decoded(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Tensor:
    """The pixels of an image that `check_image` let through, uint8 [c, H, W], by the formats that it looked into.

    Raises:
      Refused: if it cannot be decoded, or turns out to be larger than it said.
    """
    try:
        pixels = decode(data, preprocessing.channels, formats=FORMATS)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    _check_size(pixels.shape[1], pixels.shape[2], preprocessing, max_pixels)
    return pixels


def prepared(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Tensor:
    """The image as the model sees it, uint8 [c, *image_size]: what `mixonomy.predict` makes of the same file.

    Raises:
      Refused: as of `decoded`.
    """
    pixels = decoded(data, preprocessing, max_pixels=max_pixels)
    try:
        return evaluation_crop(pixels, preprocessing)
    except ValueError as error:
        raise Refused(422, str(error)) from None
