"""The endless, resumable order of training samples, and the random numbers of each.

A position in the stream is one number, the samples seen so far. Which sample stands there, and which random
numbers its augmentation gets, are pure functions of (seed, epoch, index): workers, batch sizes and restarts change
nothing. (Mixup's Beta draw, dropout and the per-sample path turn these keys into numbers by numpy and torch.)

Axes: B samples, N samples of the split.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: UInts) -> UInts:
    """A bijective scrambling of 64-bit integers whose outputs look independent.

    Source: splitmix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample_keys(seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> UInts:
    """One 64-bit key per sample visit; a pure function of (seed, epoch, index). [B], [B] -> [B]."""
    with np.errstate(over="ignore"):
        key = mix64(np.array([seed], dtype=np.uint64) * _GOLDEN + np.uint64(1))
        key = mix64(key + (epochs.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        return mix64(key + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(keys: UInts, count: int, purpose: int = 0) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each key; another purpose gives other numbers. [B] -> [B, count]."""
    with np.errstate(over="ignore"):
        offsets = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(purpose << 32)) * _GOLDEN
        return (mix64(keys[:, None] + offsets) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """A permutation of range(N), a pure function of its arguments. -> [N]"""
    every = np.arange(num_samples, dtype=np.int64)
    # The sort key gets an epoch of its own kind, so that order and augmentation share no numbers.
    keys = sample_keys(seed ^ 0x5EED, np.full(num_samples, epoch, dtype=np.int64), every)
    return np.argsort(keys, kind="stable")


def samples_at(seed: int, position: int, count: int, num_samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The (epochs, indices) of the `count` samples from a position on; each is int64 [B]."""
    positions = np.arange(position, position + count)
    epochs, offsets = np.divmod(positions, num_samples)
    indices = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        at = epochs == epoch
        indices[at] = epoch_order(seed, int(epoch), num_samples)[offsets[at]]
    return epochs, indices
