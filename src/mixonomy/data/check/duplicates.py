"""Groups of images that are the same picture: by their bytes, by their pixels, or nearly.

Axes: N images, P pairs, S pixels a side of a thumbnail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.check.hashes import MAX_DISTANCE, Indices, Pairs, close_pairs, distances, perceptual_hashes
from mixonomy.data.check.scan import Scan

# Of `differences`. Looking at pairs of CIFAR-10: those up to 0.2 were copies, some of those up to 0.3 were not.
MAX_DIFFERENCE = 0.2
# Among photographs, the most similar hundredth of unrelated pairs differ by 0.8 or more. Where it is less, as among
# handwritten digits or photographs of clothes, two images are alike without being copies, and the bound shrinks with
# the square of it (looking at pairs of Fashion-MNIST: with the first power, half of them were other products).
UNRELATED_SHARE, UNRELATED_DIFFERENCE = 0.01, 0.8
UNRELATED_PAIRS = 5000  # random pairs by which it is measured
MIN_DISTANCE = 3  # bits by which hashes of copies may differ under any bound
MIN_TEXTURE = 1.0  # of 255; below, the rounding of thumbnails is a third of what there is to see
MAX_GAIN = 4 / 3  # contrast by which a copy may differ
_CHUNK = 256  # pairs compared at a time, few enough for the processor's cache


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Args:
      groups: indices of images in ascending order, two or more each; no image is in two groups.
      max_difference: the bound of `differences` that was used for this data.
    """

    groups: tuple[Indices, ...]
    max_difference: float


def find_duplicates(scan: Scan) -> Duplicates:
    """Groups all readable images that are equal, or so alike that one must be a copy of the other."""
    readable = np.flatnonzero(scan.readable)
    _, firsts, same = np.unique(scan.pixels[readable], axis=0, return_index=True, return_inverse=True)
    # Of equal images one takes part in the search; the others follow it.
    equal = np.stack([readable[firsts[same.ravel()]], readable], axis=1)
    single = np.sort(readable[firsts])
    single = single[_textures_in_chunks(scan.thumbnails, single) >= MIN_TEXTURE]
    near, bound = _near_pairs(scan.thumbnails, single)
    roots = connected(len(scan), np.concatenate([equal, near]))
    order = np.argsort(roots, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return Duplicates(tuple(group for group in groups if len(group) > 1), bound)


def differences(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much pairs of thumbnails differ, as a share of what there is to see in them.

    The mean absolute difference after adjusting brightness and (within MAX_GAIN) contrast, divided by the smaller mean
    absolute deviation of a pixel from the mean of its channel: so a flat image is like another only if its faint
    texture is, and the colours of both must agree. 0 for equal images, 1 and more for unrelated ones.

    Args:
      left, right: uint8 [P, S, S, 3].
    Returns:
      float32 [P].
    """
    (a, mean_a), (b, mean_b) = _centred(left), _centred(right)
    spread_a, spread_b = (np.sqrt(np.einsum("pkc,pkc->p", x, x)) for x in (a, b))
    gain = np.clip(spread_a / np.maximum(spread_b, 1e-3), 1 / MAX_GAIN, MAX_GAIN)
    texture = np.minimum(_mean_size(a), gain * _mean_size(b))
    a += (mean_a - mean_a.mean(axis=1, keepdims=True))[:, None]
    b += (mean_b - mean_b.mean(axis=1, keepdims=True))[:, None]
    b *= gain[:, None, None]
    a -= b
    return (_mean_size(a) / np.maximum(texture, 1e-3)).astype(np.float32)


def textures(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean absolute deviation of a pixel from the mean of its channel. uint8 [P, S, S, 3] -> float32 [P]"""
    return _mean_size(_centred(thumbnails)[0])


def _centred(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixels without the mean of their channel, [P, S * S, 3], and those means, [P, 3]."""
    values = thumbnails.reshape(len(thumbnails), -1, 3).astype(np.float32)
    means = np.einsum("pkc->pc", values) / values.shape[1]
    values -= means[:, None]
    return values, means


def _mean_size(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean absolute value per row. [P, ...] -> [P]"""
    return np.abs(values).reshape(len(values), -1).mean(axis=1)


def connected(count: int, pairs: Pairs) -> Indices:
    """For each of `count` items the smallest one that pairs lead to. -> [count]"""
    roots = np.arange(count)
    while True:
        lower = np.minimum(roots[pairs[:, 0]], roots[pairs[:, 1]])
        new = roots.copy()
        for side in (0, 1):
            np.minimum.at(new, roots[pairs[:, side]], lower)
            np.minimum.at(new, pairs[:, side], lower)
        new = new[new]
        if np.array_equal(new, roots):
            return roots
        roots = new


def _near_pairs(thumbnails: NDArray[np.uint8], single: Indices) -> tuple[Pairs, float]:
    """Pairs of near-duplicates among these images, and the bound of their difference."""
    if len(single) < 2:
        return np.empty((0, 2), dtype=np.int64), MAX_DIFFERENCE
    hashes = np.concatenate([perceptual_hashes(thumbnails[part]) for part in _parts(single)])
    pairs = np.random.default_rng(0).integers(0, len(single), (UNRELATED_PAIRS, 2))
    unrelated = pairs[distances(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) > MAX_DISTANCE]
    bound = MAX_DIFFERENCE
    if len(unrelated):
        usual = np.quantile(_differences_in_chunks(thumbnails, single[unrelated]), UNRELATED_SHARE)
        bound *= min(1.0, float(usual) / UNRELATED_DIFFERENCE) ** 2
    # The hashes of closer copies are closer too; and where all images are alike, there are many close hashes.
    found = single[close_pairs(hashes, max(int(MAX_DISTANCE * bound / MAX_DIFFERENCE), MIN_DISTANCE))]
    return found[_differences_in_chunks(thumbnails, found) <= bound], bound


def _differences_in_chunks(thumbnails: NDArray[np.uint8], pairs: Pairs) -> NDArray[np.float32]:
    parts = [differences(thumbnails[part[:, 0]], thumbnails[part[:, 1]]) for part in _parts(pairs)]
    return np.concatenate([np.empty(0, dtype=np.float32), *parts])


def _textures_in_chunks(thumbnails: NDArray[np.uint8], indices: Indices) -> NDArray[np.float32]:
    parts = [textures(thumbnails[part]) for part in _parts(indices)]
    return np.concatenate([np.empty(0, dtype=np.float32), *parts])


def _parts(indices: Indices) -> list[Indices]:
    return [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
