"""The next training batch, and what all ranks must agree on with it: to stop, to save, how many images it has.

One exchange of a few numbers for a step, between CPUs, while a GPU computes the step before.

Axes: c image channels, H and W pixels, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixonomy import parallel
from mixonomy.data.batch import Batch, Whole


@dataclass(frozen=True)
class Drawn:
    """What comes next.

    Args:
      batch: this rank's part of the next batch; None where training stops before it.
      is_save_due: whether rank 0 wants a checkpoint after it.
    """

    batch: Batch | None
    is_save_due: bool = False


def draw(
    batches: Iterator[Batch],
    *,
    is_mixed: bool,
    is_stopping: Callable[[], bool],
    is_save_due: Callable[[], bool],
) -> Drawn:
    """Takes the next batch of the stream; with several ranks one that wants to stop stops them all before it.

    Args:
      is_mixed: whether images are mixed with their neighbours.
      is_stopping: whether this process was asked to stop, after which an error of reading is none: those who ask tell
        the processes that decode, too.
    Raises:
      ValueError: if a batch cannot be read, on all ranks.
    """
    batch, error = None, None
    try:
        batch = next(batches)
    except parallel.AGREED as found:
        error = None if is_stopping() else found
    if parallel.size() == 1:
        if error is not None:
            raise error
        return Drawn(batch, is_save_due())
    count = 0 if batch is None else len(batch.labels)
    key = 0 if batch is None or not count else int(batch.keys[:1].view("int64")[0])
    numbers = [count, key, is_stopping(), is_save_due(), error is not None]
    counts, keys, stops, saves, errors = zip(*parallel.gather_numbers(numbers), strict=True)
    if any(stops):
        return Drawn(None)
    if any(errors):
        parallel.fail_together(error)
    assert batch is not None, "there is no error"
    first_key = next((key for key, count in zip(keys, counts, strict=True) if count), 0) % 2**64
    before = _before(batch, counts) if is_mixed and sum(counts) else None
    return Drawn(replace(batch, whole=Whole(sum(counts), first_key, before)), bool(saves[0]))


def _before(batch: Batch, counts: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """The last image of the part before this one, and its label; of parts with images, the first follows the last."""
    ring = [rank for rank, count in enumerate(counts) if count]
    if parallel.rank() not in ring:
        return None
    images, labels = batch.images[-1:], batch.labels[-1:]
    if len(ring) == 1:
        return images, labels
    place = ring.index(parallel.rank())
    packed = torch.cat([images.flatten(), labels.contiguous().view(torch.uint8).flatten()])
    came = parallel.passed_on(packed, to=ring[(place + 1) % len(ring)], source=ring[place - 1])
    pixels, label = came.tensor_split([images.numel()])
    # Its own memory, since that of a label must begin at a multiple of its eight bytes.
    return pixels.view(images.shape), label.clone().view(labels.dtype).view(labels.shape)
