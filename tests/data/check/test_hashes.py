"""The hash changes little where the picture does; the search finds what comparing all pairs finds."""

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from mixonomy.data.check import hashes as module
from mixonomy.data.check.hashes import MAX_DISTANCE, close_pairs, distances, perceptual_hashes


def clustered(count: int, seed: int) -> np.ndarray:
    """Hashes of which many are a few flipped bits away from others."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, count // 8, dtype=np.uint64)
    out = rng.choice(centres, count)
    for _ in range(9):
        flips = rng.random(count) < 0.4
        out[flips] ^= np.uint64(1) << rng.integers(0, 64, flips.sum(), dtype=np.uint64)
    out[::50] = out[0]
    return out


def test_distances_count_bits():
    left, right = clustered(200, 0), clustered(200, 1)
    expected = [(int(a) ^ int(b)).bit_count() for a, b in zip(left, right, strict=True)]
    assert distances(left, right).tolist() == expected


@pytest.mark.parametrize("max_distance", [0, 3, 4, 7, 8, MAX_DISTANCE])
def test_search_finds_exactly_the_pairs_that_comparing_all_finds(max_distance):
    hashes = clustered(600, 2)
    i, j = np.triu_indices(len(hashes), 1)
    near = distances(hashes[i], hashes[j]) <= max_distance
    expected = np.stack([i[near], j[near]], axis=1)
    assert len(expected) > 5
    np.testing.assert_array_equal(close_pairs(hashes, max_distance), expected)


def test_search_in_small_chunks_finds_the_same(monkeypatch):
    hashes = clustered(600, 3)
    whole = close_pairs(hashes)
    monkeypatch.setattr(module, "CHUNK_PAIRS", 7)
    np.testing.assert_array_equal(close_pairs(hashes), whole)


def test_of_very_many_equal_hashes_each_is_paired_but_not_all_with_all(monkeypatch):
    monkeypatch.setattr(module, "MAX_BUCKET", 5)
    pairs = close_pairs(np.zeros(400, dtype=np.uint64))
    assert set(pairs.ravel().tolist()) == set(range(400)) and len(pairs) < 400 * 6


def test_search_of_none_and_of_one_finds_nothing():
    for count in (0, 1):
        assert close_pairs(np.zeros(count, dtype=np.uint64)).shape == (0, 2)


def test_bits_are_the_signs_of_the_lowest_frequencies_of_scipys_cosine_transform():
    thumbnails = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    amplitudes = dctn(thumbnails.mean(axis=3), axes=(1, 2))
    u, v = np.mgrid[:16, :16]
    inside = (u**2 + v**2 < 73) & (u + v > 0)  # 60 of the 64; the border has ties
    for own, amplitude in zip(perceptual_hashes(thumbnails), amplitudes, strict=True):
        values = np.sort(amplitude[inside])
        ones = int((amplitude[inside] > np.median(values)).sum())
        assert abs(int(own).bit_count() - 32) == 0 and abs(ones - inside.sum() // 2) <= 1


def test_brightness_and_contrast_change_no_bit(picture):
    dark = np.array(picture(0).resize((16, 16)))[None] // 4
    bright = dark * 3 + 40
    assert perceptual_hashes(dark)[0] == perceptual_hashes(bright)[0]


def test_small_copy_is_close_and_other_pictures_are_far(picture):
    def hashed(image: Image.Image) -> np.ndarray:
        return perceptual_hashes(np.array(image.resize((16, 16), Image.Resampling.BILINEAR))[None])

    small = picture(0).resize((48, 36))
    assert distances(hashed(picture(0)), hashed(small))[0] <= 3
    others = np.concatenate([hashed(picture(seed)) for seed in range(1, 40)])
    assert distances(np.repeat(hashed(picture(0)), len(others)), others).min() > MAX_DISTANCE
