"""Images in shards: random access through the index, each compared with its checksum."""

import errno
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixonomy.data.shards.index import BLOCK, Index
from mixonomy.data.shards.store import Range, Store
from mixonomy.data.shuffle import PIECE, WINDOW


@dataclass(frozen=True, eq=False)
class ShardImages:
    """The images of a split, which are successive ones of the index."""

    index: Index
    store: Store
    images: range

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> bytes:
        """The bytes of an image file.

        Raises:
          OSError: if the shard is gone, ends before, or the bytes are not those that were packed.
        """
        columns, at = self.index.columns, self.images[index]
        shard, *stat = self.index.shard(int(columns["shard_ends"].searchsorted(at, side="right")))
        wanted = Range(shard, int(columns["blocks"][at]) * BLOCK, int(columns["lengths"][at]), *stat)
        content = self.store.read(wanted)
        if len(content) < wanted.length:
            raise OSError(errno.EIO, f"shard {wanted.shard} ends before it; the shard was cut off")
        checksums = columns.get("checksums")
        if checksums is not None and zlib.crc32(content) != int(checksums[at]):
            raise OSError(errno.EIO, f"its bytes in shard {wanted.shard} do not match their checksum")
        return content

    def read_ahead(self, indices: NDArray[np.int64], /) -> None:
        """See `InSequence`."""
        self.store.read_ahead(self._ranges(indices))

    def prefetch(self, stretches: Sequence[range], /) -> None:
        """See `InSequence`."""
        wanted = [one for stretch in stretches if stretch for one in self._stretch(stretch)]
        if wanted:
            mean = sum(one.length for one in wanted) / sum(map(len, stretches))
            self.store.prefetch(wanted, round(2 * PIECE * WINDOW * mean))

    def num_bytes(self, index: int) -> int:
        """Of an image file, without reading it."""
        return int(self.index.columns["lengths"][self.images[index]])

    def _stretch(self, stretch: range) -> Iterator[Range]:
        """The bytes from the first image of a stretch to the last, shard by shard."""
        columns = self.index.columns
        at, last = self.images[stretch.start], self.images[stretch.stop - 1]
        while at <= last:
            number = int(columns["shard_ends"].searchsorted(at, side="right"))
            until = min(last, int(columns["shard_ends"][number]) - 1)
            start = int(columns["blocks"][at]) * BLOCK
            end = int(columns["blocks"][until]) * BLOCK + int(columns["lengths"][until])
            shard, *stat = self.index.shard(number)
            yield Range(shard, start, end - start, *stat)
            at = until + 1

    def _ranges(self, indices: NDArray[np.int64]) -> list[Range]:
        columns, at = self.index.columns, indices + self.images.start
        shards = map(self.index.shard, columns["shard_ends"].searchsorted(at, side="right").tolist())
        starts, lengths = columns["blocks"][at].astype(np.int64) * BLOCK, columns["lengths"][at]
        return [
            Range(shard, start, length, *stat)
            for (shard, *stat), start, length in zip(shards, starts.tolist(), lengths.tolist(), strict=True)
        ]
