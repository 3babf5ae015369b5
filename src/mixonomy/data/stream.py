"""The endless, resumable order of training samples, and the random numbers of each.

A position in the stream is one number, the samples seen so far. Which sample stands there, and which random
numbers its augmentation gets, are pure functions of (seed, epoch, index): workers, batch sizes and restarts change
nothing. (Mixup and dropout turn these keys into numbers by numpy and torch.)

Axes: B samples, N samples of the split.
"""

from dataclasses import dataclass

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
        key = mix64(np.array([seed], dtype=np.int64).astype(np.uint64) * _GOLDEN + np.uint64(1))
        key = mix64(key + (epochs.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        return mix64(key + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(keys: UInts, count: int, purpose: int = 0) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each key; another purpose gives other numbers. [B] -> [B, count]."""
    with np.errstate(over="ignore"):
        offsets = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(purpose << 32)) * _GOLDEN
        return (mix64(keys[:, None] + offsets) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """A permutation of range(N), a pure function of its arguments. -> [N]"""
    return np.argsort(_order_keys(seed, epoch, np.arange(num_samples, dtype=np.int64)), kind="stable")


def _order_keys(seed: int, epoch: int, visits: NDArray[np.int64]) -> UInts:
    # The sort key gets an epoch of its own kind, so that order and augmentation share no numbers.
    return sample_keys(seed ^ 0x5EED, np.full(len(visits), epoch, dtype=np.int64), visits)


def balanced_epoch(seed: int, epoch: int, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """N draws in which every class comes equally often (to one), and within a class every sample (to one).

    A pure function of its arguments.

    Args:
      labels: int64 [N], the class of each sample.
    Returns:
      (indices, rounds), each int64 [N]: which sample, and how often the epoch had it before.
    """
    num_samples, classes = len(labels), np.unique(labels)
    share, extra = divmod(num_samples, len(classes))
    favoured = epoch_order(seed, epoch, len(classes))[:extra]  # classes that get one draw more
    parts = []
    for number, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        count = share + int(number in favoured)
        rounds = np.repeat(np.arange(-(-count // len(members))), len(members))
        visits = np.tile(members, rounds[-1] + 1 if len(rounds) else 0) + num_samples * rounds
        within = np.lexsort((_order_keys(seed, epoch, visits), rounds))  # each round in an order of its own
        parts.append(visits[within][:count])
    visits = np.concatenate(parts)
    rounds, indices = np.divmod(visits[np.argsort(_order_keys(~seed, epoch, visits), kind="stable")], num_samples)
    return indices, rounds


@dataclass(frozen=True)
class Visits:
    """Samples of the stream, one after the other.

    Args:
      indices: int64 [B], which sample of the split.
      keys: [B], the random key of each visit.
    """

    indices: NDArray[np.int64]
    keys: UInts


class Order:
    """Which sample stands at each position of the endless stream.

    Args:
      labels: int64 [N]; if given, every class comes equally often.
    """

    def __init__(self, seed: int, num_samples: int, labels: NDArray[np.int64] | None = None):
        self.seed, self.num_samples, self.labels = seed, num_samples, labels
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def at(self, position: int, count: int) -> Visits:
        """The `count` samples from a position on."""
        epochs, offsets = np.divmod(np.arange(position, position + count), self.num_samples)
        indices, rounds = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            at = epochs == epoch
            indices[at], rounds[at] = (part[offsets[at]] for part in self._epoch(epoch))
        # A sample that comes twice in an epoch is augmented in another way.
        return Visits(indices, sample_keys(self.seed, epochs, indices + self.num_samples * rounds))

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if epoch not in self._epochs:
            if self.labels is None:
                made = epoch_order(self.seed, epoch, self.num_samples), np.zeros(self.num_samples, dtype=np.int64)
            else:
                made = balanced_epoch(self.seed, epoch, self.labels)
            self._epochs = {**{e: self._epochs[e] for e in self._epochs if e == epoch - 1}, epoch: made}
        return self._epochs[epoch]
