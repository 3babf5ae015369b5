"""One image: what is kept of it, and that what is incomplete is found even where a decoder fills the gap."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mixonomy.data.check import examine as module
from mixonomy.data.check.examine import cut_off, examine


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"quality": 80})],
    ids=str,
)
@pytest.mark.parametrize("lost", [0, 1, 10, 300])
def test_files_that_are_cut_off_are_found_whatever_the_decoder_says(picture, encoded, kind, options, lost, monkeypatch):
    whole = encoded(picture(0), kind, **options)
    monkeypatch.setattr(module, "decode", lambda image, channels: pytest.fail("not to be asked") if lost else _white())
    assert examine(whole[: len(whole) - lost]).problem == ("truncated" if lost else "")


def _white():
    import torch

    return torch.full((3, 8, 8), 255, dtype=torch.uint8)


def test_end_marker_of_a_preview_is_not_taken_for_that_of_the_image(picture, encoded):
    preview = b"Exif\0\0" + encoded(picture(1, 16, 16), "JPEG")
    whole = encoded(picture(0), "JPEG")
    with_preview = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview + whole[2:]
    assert cut_off(with_preview) == ""
    assert "end marker" in cut_off(with_preview[:-40])
    assert cut_off(with_preview + b"trailing bytes") == ""


def test_jpeg_whose_end_was_lost_and_closed_again_ends_grey(picture, encoded):
    whole = encoded(picture(0), "JPEG")
    assert not examine(whole).ends_grey
    mended = examine(whole[: len(whole) // 2] + b"\xff\xd9")
    assert mended.problem == "" and mended.ends_grey
    assert not examine(encoded(Image.new("RGB", (40, 40), (128, 128, 128)), "JPEG")).ends_grey


@pytest.mark.parametrize(
    "content", [b"", b"some text\n" * 30, b"\x89PNG\r\n\x1a\n" + bytes(100) + b"IEND\xaeB`\x82"], ids=len
)
def test_what_is_no_image_is_unreadable(content):
    facts = examine(content)
    assert facts.problem == "unreadable" and "not a readable image" in facts.reason and facts.thumbnail is None


def test_png_that_claims_a_huge_size_is_not_decoded(monkeypatch):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    monkeypatch.setattr(module, "decode", lambda image, channels: pytest.fail("not to be decoded"))
    facts = examine(bomb)
    assert facts.problem == "huge" and "3600000000 pixels" in facts.reason


def test_limit_of_pixels_is_pillows():
    assert module.MAX_PIXELS == 2 * (Image.MAX_IMAGE_PIXELS or 0)


def test_facts_of_a_turned_image_are_those_of_the_upright_one(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright = picture(0)
    turned = examine(encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif))
    plain = examine(encoded(upright))
    assert (turned.width, turned.height) == (plain.width, plain.height) == (96, 72)
    assert turned.is_turned and not plain.is_turned
    assert turned.pixels == plain.pixels and turned.content != plain.content
    np.testing.assert_array_equal(turned.thumbnail, plain.thumbnail)


def test_format_and_mode_are_the_files_and_pixels_have_their_own(picture, encoded):
    assert (examine(encoded(picture(0).convert("L"), "JPEG")).format) == "JPEG"
    assert examine(encoded(picture(0).convert("P"), "GIF")).mode == "P"
    array = np.array(picture(0))
    facts, file = examine(array), examine(encoded(picture(0)))
    assert (facts.format, facts.mode) == ("pixels", "RGB")
    assert facts.pixels == file.pixels
    assert examine(array[:, :, 0]).mode == "L"


def test_equal_bytes_in_another_shape_are_other_pixels():
    flat = np.arange(64 * 3, dtype=np.uint8)
    assert examine(flat.reshape(4, 16, 3)).pixels != examine(flat.reshape(16, 4, 3)).pixels


def test_damaged_exif_data_is_no_problem(picture, encoded):
    content = encoded(picture(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert examine(content).problem == ""
