"""RandAugment's operations beside Pillow's and torchvision's, and what a magnitude means.

Axes: c image channels, H and W pixels.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional

from mixonomy.data import randaugment as ra
from mixonomy.data import stream

HERE, THERE = ra.Draws(0.3, 0.5, 0.25), ra.Draws(0.8, 0.5, 0.25)  # one sign and the other


def planes(channels: int = 3, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth blobs with some noise, not from 0 to 255."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(40, 200, (5, 7, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels += random.integers(-15, 16, pixels.shape)
    return np.ascontiguousarray(pixels.clip(10, 230).astype(np.uint8).transpose(2, 0, 1)[:channels])


def by_pillow(pixels: np.ndarray, change) -> np.ndarray:
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    out = np.asarray(change(image))
    return out[None] if out.ndim == 2 else out.transpose(2, 0, 1)


def enhanced(kind, strength):
    return lambda image: kind(image).enhance(1.8 * strength + 0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    ("operation", "change", "tolerance"),
    [
        (ra.autocontrast, lambda _: ImageOps.autocontrast, 1),
        (ra.equalize, lambda _: ImageOps.equalize, 0),
        (ra.invert, lambda _: ImageOps.invert, 0),
        (ra.color, lambda s: enhanced(ImageEnhance.Color, s), 2),
        (ra.brightness, lambda s: enhanced(ImageEnhance.Brightness, s), 1),
        (ra.sharpness, lambda s: enhanced(ImageEnhance.Sharpness, s), 2),
        (ra.posterize, lambda s: lambda image: ImageOps.posterize(image, max(int(4 * s), 1)), 0),
        (ra.solarize, lambda s: lambda image: ImageOps.solarize(image, int(256 * s)), 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_change_of_colours_is_pillows(operation, change, tolerance, strength, channels):
    pixels = planes(channels)
    out = operation(pixels, strength, HERE)
    assert out.dtype == np.uint8 and out.shape == pixels.shape
    assert np.abs(out.astype(int) - by_pillow(pixels, change(strength)).astype(int)).max() <= tolerance


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_contrast_is_about_one_grey_level(strength):
    pixels = planes()
    expected = 196 + (1.8 * strength + 0.1) * (pixels.astype(float) - 196)
    assert np.abs(ra.contrast(pixels, strength, HERE) - expected.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5, 3.0])
def test_solarize_add_lifts_the_dark_half(strength):
    pixels = planes()
    expected = np.where(pixels < 128, np.minimum(pixels.astype(int) + int(110 * strength), 255), pixels)
    assert np.array_equal(ra.solarize_add(pixels, strength, HERE), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("draws", [HERE, THERE], ids=["one side", "other side"])
def test_rotation_and_shear_are_torchvisions(draws, channels):
    pixels = planes(channels)
    sign = 1 if draws is HERE else -1
    fill = [128.0] * channels
    turned = functional.rotate(torch.from_numpy(pixels), sign * 45.0, fill=fill).numpy()
    assert (ra.rotate(pixels, 1.5, draws) == turned).mean() > 0.97  # pixels half-way between two may fall to either
    for operation, axis in ((ra.shear_x, 2), (ra.shear_y, 1)):
        out = operation(pixels, 1.5, draws)
        moved = pixels if axis == 2 else pixels.swapaxes(1, 2)
        lines = out if axis == 2 else out.swapaxes(1, 2)
        for line in range(moved.shape[1]):
            at = np.floor(np.arange(moved.shape[2]) + 0.5 + sign * 0.45 * (line + 0.5)).astype(int)
            is_inside = (at >= 0) & (at < moved.shape[2])
            expected = np.where(is_inside, moved[:, line, at.clip(0, moved.shape[2] - 1)], 128)
            assert (lines[:, line] == expected).mean() > 0.95


def test_translation_moves_by_its_share_of_the_side_and_brings_in_grey():
    pixels = planes(height=224, width=112)
    down, up = ra.translate_y(pixels, 1.5, HERE), ra.translate_y(pixels, 1.5, THERE)
    assert np.array_equal(down[:, 150:], pixels[:, :74]) and (down[:, :150] == 128).all()
    assert np.array_equal(up[:, :74], pixels[:, 150:]) and (up[:, 74:] == 128).all()
    right = ra.translate_x(pixels, 1.0, HERE)
    assert np.array_equal(right[:, :, 50:], pixels[:, :, :62]) and (right[:, :, :50] == 128).all()
    assert (ra.translate_y(pixels, 3.0, HERE) == 128).all()


def test_cutout_greys_a_box_around_its_place():
    pixels = np.zeros((3, 224, 224), dtype=np.uint8)
    out = ra.cutout(pixels, 1.5, ra.Draws(0.0, 0.5, 0.125))
    expected = pixels.copy()
    expected[:, 112 - 60 : 112 + 60, 0 : 28 + 60] = 128
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("operation", ra.OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (40, 56)], ids=str)
@pytest.mark.parametrize("magnitude", [0, 30])
def test_every_operation_takes_every_size_and_leaves_its_input_alone(operation, size, magnitude):
    pixels = planes(3, *size)
    before = pixels.copy()
    out = operation(pixels, magnitude / ra.MAX_LEVEL, THERE)
    assert out.dtype == np.uint8 and out.shape == pixels.shape
    assert np.array_equal(pixels, before)


def test_each_layer_applies_one_of_16_operations_equally_often(monkeypatch):
    applied = []
    fakes = tuple(
        lambda pixels, strength, draws, number=number: applied.append((number, strength, draws)) or pixels + number
        for number in range(16)
    )
    assert len(set(ra.OPERATIONS)) == 16
    monkeypatch.setattr(ra, "OPERATIONS", fakes)
    keys = stream.sample_keys(0, np.zeros(3000, np.int64), np.arange(3000))
    for draws in stream.uniforms(keys, 2 * ra.DRAWS).tolist():
        before = len(applied)
        out = ra.randaugment(np.zeros((1, 1, 1), np.int64), draws, 15)
        (first, strength, one), (second, _, two) = applied[before:]
        assert strength == 1.5 and out.item() == first + second and one != two
    counts = Counter(number for number, _, _ in applied)
    assert sorted(counts) == list(range(16))
    assert max(abs(count - 6000 / 16) for count in counts.values()) < 4 * (6000 / 16) ** 0.5
    pairs = Counter((applied[i][0], applied[i + 1][0]) for i in range(0, 6000, 2))
    assert len(pairs) == 256  # the layers choose independently
    signs = np.array([draws.sign < 0.5 for _, _, draws in applied])
    assert signs.mean() == pytest.approx(0.5, abs=0.03)
