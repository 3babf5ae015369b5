"""Permutations that are computed where they are asked for, and from them an order that reads mostly in sequence.

Nothing here is as long as the data: an order of 3 billion samples is three numbers.

Axes: B samples, N samples of the split.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.stream import Order, UInts, Visits, mix64, sample_keys

PIECE = 256  # samples that lie one after the other: of photographs about 28 MB, long enough for disks and object stores
WINDOW = 64  # pieces whose samples are mixed: 16,384 samples from 64 places, about what shuffle buffers hold
ROUNDS = 12  # with 8 the places of a handful of samples are not equally likely
_ORDER_SEED = 0x5EED  # as in `stream`: the order and the augmentation share no numbers


@dataclass(frozen=True)
class Permutation:
    """A bijection of range(N) onto itself that looks random, one for each key.

    A Feistel network over the smallest power of two that holds N; numbers beyond N are sent through it again until they
    fall below (cycle walking, less than two passes on average).
    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3.

    Args:
      key: 64 bits.
      size: N, up to 2^62.
    """

    key: int
    size: int

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] -> [B], each in range(N)."""
        found = self._once(places.astype(np.uint64))
        while (beyond := found >= self.size).any():
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def _once(self, x: UInts) -> UInts:
        bits = max((self.size - 1).bit_length(), 2)
        low, high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        masks = [(np.uint64(1) << width) - np.uint64(1) for width in (low, high)]
        left, right = x >> low, x & masks[0]  # `high` and `low` bits wide; each round they change places
        keys = mix64(np.arange(1, ROUNDS + 1, dtype=np.uint64) + np.uint64(self.key))
        with np.errstate(over="ignore"):
            for number, key in enumerate(keys):
                left, right = right, (left ^ mix64(right + key)) & masks[(number + 1) % 2]
        return left << low | right


@dataclass(frozen=True)
class WindowedOrder:
    """Which sample stands at each position of the endless stream, for samples that lie in files one after the other.

    Each epoch cuts the samples, from another place on, into pieces of `PIECE` successive ones and puts the pieces into
    a random order; the samples of `WINDOW` pieces in a row are then mixed. So at any time samples of 64 short
    stretches of the data are read, and each sample comes once in an epoch.
    """

    seed: int
    num_samples: int

    def at(self, position: int, count: int) -> Visits:
        """The `count` samples from a position on."""
        epochs, offsets = np.divmod(np.arange(position, position + count), self.num_samples)
        indices = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            at = epochs == epoch
            indices[at] = self._epoch(epoch, offsets[at])
        return Visits(indices, sample_keys(self.seed, epochs, indices))

    def stretches(self, position: int, count: int) -> list[range]:
        """Pieces of the data, one for each 256 positions, that are read at about these positions of the stream.

        Before their window is mixed they lie there: taken for all positions, each piece comes once in an epoch.
        """
        found = []
        while count > 0:
            epoch, offset = divmod(position, self.num_samples)
            here = min(count, self.num_samples - offset)
            starts = np.arange(-(-offset // PIECE) * PIECE, offset + here, PIECE)
            lengths = np.minimum(PIECE, self.num_samples - starts)
            for first, length in zip(self._indices(epoch, starts).tolist(), lengths.tolist(), strict=True):
                beyond = max(first + length - self.num_samples, 0)
                found += [range(first, first + length - beyond), *([range(beyond)] if beyond else [])]
            position, count = position + here, count - here
        return found

    def _epoch(self, epoch: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples at some places of an epoch. [B] -> [B]"""
        length = PIECE * WINDOW
        # The last window takes what is left over, so that no window is short, unless there is one alone.
        last = max(self.num_samples // length - 1, 0)
        windows = np.minimum(offsets // length, last)
        places = np.empty_like(offsets)
        for window in np.unique(windows).tolist():
            at, start = windows == window, window * length
            size = length if window < last else self.num_samples - start
            places[at] = start + Permutation(self._key(epoch, window + 2), size)(offsets[at] - start)
        return self._indices(epoch, places)

    def _indices(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples at some places of an epoch before its windows are mixed. [B] -> [B]"""
        pieces, within = np.divmod(places, PIECE)
        num_pieces = self.num_samples // PIECE
        whole = pieces < num_pieces  # the rest, shorter than a piece, stays where it is: last
        if whole.any():
            pieces[whole] = Permutation(self._key(epoch, 0), num_pieces)(pieces[whole])
        shift = self._key(epoch, 1) % self.num_samples  # so that pieces have other bounds in each epoch
        return (pieces * PIECE + within + shift) % self.num_samples

    def _key(self, epoch: int, purpose: int) -> int:
        return int(sample_keys(self.seed ^ _ORDER_SEED, np.array([epoch]), np.array([purpose]))[0])


SampleOrder = Order | WindowedOrder
"""What decides which sample stands at each position."""
