"""A perceptual hash of 64 bits, and the search for pairs whose hashes differ in few bits, without comparing all.

Axes: N images, P pairs.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 11  # bits, of copies cut by 5 % and of CIFAR-sized ones saved as poor JPEG; unrelated images: about 32
BANDS = 4  # of 16 bits
MAX_BUCKET = 256  # images of one bucket with which one image is compared
CHUNK_PAIRS = 2_000_000  # pairs that are compared at a time, which bounds memory

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]
Pairs = NDArray[np.int64]
"""[P, 2], the smaller index first, without repetition, in ascending order."""


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> Hashes:
    """One bit for each of the 64 lowest frequencies of the grey thumbnail: is its amplitude above their median?

    Brightness and contrast do not change the bits, except where they make pixels black or white.

    Args:
      thumbnails: uint8 [N, S, S, 3].
    Returns:
      uint64 [N].
    Source: ph_dct_imagehash of the pHash library (Zauner 2010, "Implementation and benchmarking of perceptual image
    hash functions", section 3.2.1), which takes the square of frequencies 1 to 8 of a larger image; here those of
    frequency 0 in one direction, which carry more of a picture, take the place of the highest.
    """
    size = thumbnails.shape[1]
    transform = _cosines(size)
    u, v = np.divmod(np.arange(size * size), size)
    lowest = np.argsort(u**2 + v**2, kind="stable")[1:65]  # without the mean
    # Neighbouring frequencies go to different bands, so that no band is less telling than another.
    lowest = lowest.reshape(16, BANDS).T.ravel()
    out = np.empty(len(thumbnails), dtype=np.uint64)
    for start in range(0, len(thumbnails), 4096):
        grey = thumbnails[start : start + 4096].mean(axis=3, dtype=np.float32)
        amplitudes = (transform @ grey @ transform.T).reshape(len(grey), -1)[:, lowest]  # [n, 64]
        bits = amplitudes > np.median(amplitudes, axis=1, keepdims=True)
        out[start : start + 4096] = np.packbits(np.ascontiguousarray(bits), axis=1, bitorder="little").view("<u8")[:, 0]
    return out


def distances(left: Hashes, right: Hashes) -> NDArray[np.int64]:
    """How many bits differ. Source: population count of Warren, "Hacker's Delight", figure 5-2, on 64 bits."""
    x = left ^ right
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)


def close_pairs(hashes: Hashes, max_distance: int = MAX_DISTANCE) -> Pairs:
    """All pairs whose hashes differ in few bits.

    If two hashes of four bands differ in at most 11 bits, then one band differs in at most two. So each image is
    compared with those that have the same band, or one with two bits flipped, and with no others. Of a bucket with
    more than MAX_BUCKET images, each meets only so many: of thousands of images that look alike, every one is still
    paired with some, but not with all.

    Args:
      max_distance: in bits, 0 to MAX_DISTANCE.
    Source: Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index hashing".
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        keys = ((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        for left, right in _neighbours(keys, hashes, max_distance // BANDS):
            close = distances(hashes[left], hashes[right]) <= max_distance
            found.append(np.stack([left[close], right[close]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _neighbours(keys: Indices, hashes: Hashes, max_flips: int) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of images whose 16-bit keys are equal or differ in few bits, in chunks; each pair once."""
    order = np.lexsort((hashes, keys))
    sizes = np.bincount(keys, minlength=2**16)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(len(keys))
    sorted_keys = keys[order]
    # Of equal keys: the images behind oneself in the bucket.
    yield from _expanded(order, places, places + 1, starts[sorted_keys + 1] - places - 1)
    for flip in range(1, 2**16):
        if flip.bit_count() <= max_flips:
            low = np.flatnonzero(sorted_keys < sorted_keys ^ flip)
            other = sorted_keys[low] ^ flip
            yield from _expanded(order, low, starts[other], sizes[other])


def _expanded(order: Indices, left: Indices, firsts: Indices, counts: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of place left[i] with each of the counts[i] places from firsts[i] on, as indices of images."""
    some = np.flatnonzero(counts)
    left, firsts, counts = left[some], firsts[some], np.minimum(counts[some], MAX_BUCKET)
    for start, stop in _runs(np.cumsum(counts)):
        n = counts[start:stop]
        steps = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        yield order[np.repeat(left[start:stop], n)], order[np.repeat(firsts[start:stop], n) + steps]


def _runs(totals: Indices) -> Iterator[tuple[int, int]]:
    """Cuts rows with these running totals into runs of about CHUNK_PAIRS."""
    start = 0
    while start < len(totals):
        done = totals[start - 1] if start else 0
        stop = max(int(np.searchsorted(totals, done + CHUNK_PAIRS)), start + 1)
        yield start, stop
        start = stop


def _cosines(size: int) -> NDArray[np.float32]:
    """The discrete cosine transform (type II, without scaling) as a matrix [frequency, place]."""
    frequency, place = np.arange(size)[:, None], np.arange(size)[None]
    return np.cos(math.pi * frequency * (2 * place + 1) / (2 * size)).astype(np.float32)
