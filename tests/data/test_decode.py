"""Decoding: every usual kind of image file becomes upright uint8 pixels, as Pillow reads it.

Axes: c image channels, H and W pixels.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mixonomy.data.decode import decode


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 6, width: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_pillow(content: bytes, mode: str = "RGB") -> torch.Tensor:
    pixels = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert(mode))
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lossless_file_gives_its_exact_pixels(kind, options):
    image = noise()
    pixels = decode(encoded(image, kind, **options))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_jpeg_is_read_as_pillow_reads_it(options):
    content = encoded(noise(33, 47), "JPEG", quality=90, **options)
    assert (decode(content).int() - by_pillow(content).int()).abs().max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA"])
def test_every_mode_becomes_the_wanted_channels(mode, channels):
    content = encoded(noise().convert(mode))
    pixels = decode(content, channels)
    assert pixels.shape == (channels, 6, 10) and pixels.dtype == torch.uint8
    assert (pixels.int() - by_pillow(content, "RGB" if channels == 3 else "L").int()).abs().max() <= 1


def test_cmyk_jpeg_becomes_rgb():
    content = encoded(noise().resize((32, 32)).convert("CMYK"), "JPEG", quality=95)
    assert (decode(content).int() - by_pillow(content).int()).abs().max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_to_8_bits_not_cut_off(channels):
    values = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    pixels = decode(encoded(Image.fromarray(values)), channels)
    expected = torch.from_numpy((values / 257).astype(np.float32))
    assert (pixels.float() - expected).abs().max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(), kind, exif=exif)
    pixels, expected = decode(content), by_pillow(content)
    assert pixels.shape == expected.shape == ((3, 6, 10) if orientation < 5 else (3, 10, 6))
    assert (pixels.int() - expected.int()).abs().max() <= 2


def test_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 3)], ids=str)
def test_pixels_pass_through(shape, channels):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = decode(array, channels)
    expected = by_pillow(encoded(Image.fromarray(array)), "RGB" if channels == 3 else "L")
    assert (pixels.int() - expected.int()).abs().max() <= 1
    if channels == 3 or len(shape) == 2:
        assert torch.equal(pixels, expected)


def test_pixels_are_copied_so_that_nothing_writes_into_the_source():
    array = np.zeros((2, 2, 3), dtype=np.uint8)
    array.setflags(write=False)
    decode(array).fill_(9)
    assert not array.any()


JPEG, PNG = encoded(noise(64, 64), "JPEG"), encoded(noise(64, 64))


@pytest.mark.parametrize(
    "content",
    [b"", b"this is a text file that somebody named .jpg\n" * 20, JPEG[:200], JPEG[: len(JPEG) // 2], PNG[:100],
     PNG[: len(PNG) // 2], b"\xff\xd8\xff" + bytes(500), b"\x89PNG\r\n\x1a\n" + bytes(500)],
    ids=["empty", "text", "begin of jpeg", "half a jpeg", "begin of png", "half a png", "fake jpeg", "fake png"],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_no_whole_image_is_refused(content, channels):
    with pytest.raises(ValueError, match="not a readable image"):
        decode(content, channels)
