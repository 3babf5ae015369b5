"""Decoding: every usual kind of image file becomes upright uint8 pixels, as Pillow reads it.

Axes: c image channels, H and W pixels.
"""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mixonomy.data.check.examine import examine
from mixonomy.data.decode import decode, decode_crop, jpeg_size


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


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_white(kind, channels):
    image = noise().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.array([0, 128, 255, 255, 0], dtype=np.uint8), (6, 2))))
    over = np.array(image).astype(np.float64)
    share = over[..., 3:] / 255
    expected = torch.from_numpy(over[..., :3] * share + 255 * (1 - share)).permute(2, 0, 1)
    pixels = decode(encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), channels)
    if channels == 1:
        expected = (expected * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    assert (pixels - expected).abs().max() <= 2


def test_transparent_colour_of_a_palette_shows_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    for kind in ("GIF", "PNG"):
        pixels = decode(encoded(image, kind, transparency=1))
        assert pixels[:, 0, 0].tolist() == [255, 0, 0] and pixels[:, 1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 65535, 60).astype(np.uint16), 65535),
        (np.linspace(0, 65535, 60).astype(np.int32), 65535),
        (np.linspace(0, 1, 60).astype(np.float32), 1),
        (np.linspace(0, 255, 60).astype(np.float32), 255),
    ],
    ids=["uint16", "int32", "unit floats", "byte floats"],
)
def test_tiff_of_more_than_8_bits_is_scaled(values, white):
    pixels = decode(encoded(Image.fromarray(values.reshape(6, 10)), "TIFF"), 1)
    expected = torch.from_numpy(values.reshape(1, 6, 10).astype(np.float64) * 255 / white)
    assert (pixels - expected).abs().max() <= 0.51


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_cut_off_file_is_refused(kind, share):
    content = encoded(noise(60, 80), kind)
    with pytest.raises(ValueError, match="not a readable image"):
        decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("at", ["header", "pixels"])
def test_damaged_avif_is_refused_though_its_decoder_raises_otherwise(at):
    content = bytearray(encoded(noise(60, 80), "AVIF"))
    place = content.index(b"pitm" if at == "header" else b"mdat") + 4
    content[place + (0 if at == "header" else 12) : place + 40] = bytes([255]) * (40 - (0 if at == "header" else 12))
    with pytest.raises(ValueError, match="not a readable image"):
        decode(bytes(content))
    assert examine(bytes(content)).problem == "unreadable"


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Failed to load the HEIC decoding library")

    monkeypatch.setattr("torchcodec.decoders.decode_image", missing)
    content = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64)
    with pytest.raises(
        ValueError, match=r"not a readable image \(HEIC needs the library libheif: `apt install libheif1`"
    ):
        decode(content)
    assert "libheif" in examine(content).reason


def test_more_pixels_than_pillow_allows_are_refused_before_they_are_decoded():
    small = encoded(Image.new("1", (8, 8)))
    header = small[12:16] + (20_000).to_bytes(4, "big") * 2 + small[24:29]
    huge = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    with pytest.raises(ValueError, match=r"not a readable image \(more than 178,956,970 pixels\)"):
        decode(huge)


def photograph(height: int, width: int, orientation: int = 1, **options) -> bytes:
    """A JPEG with coarse and fine structure."""
    random = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    for coarseness in (2, 8, 64):
        small = Image.fromarray(
            random.integers(0, 256, (height // coarseness + 1, width // coarseness + 1, 3), dtype=np.uint8)
        )
        pixels += (
            np.array(small.resize((width, height), Image.Resampling.BICUBIC)) * {2: 0.05, 8: 0.15, 64: 0.8}[coarseness]
        )
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=90, exif=exif, **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"orientation": 6}, {"comment": b"x" * 300}], ids=str)
def test_size_of_a_jpeg_is_read_without_opening_it(options):
    content = photograph(33, 47, **options)
    assert jpeg_size(content) == Image.open(io.BytesIO(content)).size[::-1] == (33, 47)
    assert jpeg_size(content[:20]) is None and jpeg_size(encoded(noise())) is None
    assert jpeg_size(content[:2] + b"\xff\xd8\x00\x00" * 3) is None
    for extra in (b"\xff", b"\xff\x01", b"\xff\xd7\xff\xff"):  # fill bytes, and markers without a length
        odd = content[:2] + extra + content[2:]
        assert jpeg_size(odd) == (33, 47) and torch.equal(decode(odd), decode(content))
    assert jpeg_size(content[:2] + b"\xff\xef\0\0" + content[2:]) is None  # a length that does not count itself


def test_only_the_formats_that_are_named_are_looked_into():
    for kind in ("PNG", "BMP", "JPEG2000"):
        assert decode(encoded(noise(), kind), formats=("PNG", "BMP", kind)).shape == (3, 6, 10)
        with pytest.raises(ValueError, match="no known format"):
            decode(encoded(noise(), kind), formats=("JPEG", "TIFF"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_of_a_large_jpeg_is_decoded_smaller_and_stays_nearly_the_same(orientation, channels):
    content = photograph(640, 960, orientation)
    whole = decode(content, channels)
    size = (960, 640) if orientation >= 5 else (640, 960)
    for box, scale in (((0, 0, *size), 4), ((101, 202, 401, 403), 4), ((64, 32, 200, 300), 2), ((5, 7, 190, 189), 1)):
        seen = []
        crop = decode_crop(content, channels, lambda found, box=box, seen=seen: seen.append(found) or box, (64, 64))
        assert seen == [size]
        top, left, height, width = (edge // scale * scale for edge in box)  # moved to whole pixels of the smaller size
        expected = whole[:, top : top + height, left : left + width]
        assert crop.shape == (channels, *(side // scale for side in box[2:]))
        small, reference = (
            torch.nn.functional.interpolate(x[None].float(), size=(64, 64), mode="bilinear", antialias=True)
            for x in (crop, expected)
        )
        assert (small - reference).abs().mean() <= (1.5 if scale > 1 else 0)


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_cut_off_large_jpeg_is_refused_when_cropped(share):
    content = photograph(640, 960)
    with pytest.raises(ValueError, match="not a readable image"):
        decode_crop(content[: int(len(content) * share)], 3, lambda size: (0, 0, *size), (64, 64))
