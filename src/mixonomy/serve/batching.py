"""Micro-batches: images of many requests go through the model together, and none waits longer than a bound.

Axes: c image channels, H and W pixels, K classes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
SMOOTH = 0.9  # weight of the past in the mean rate


class Closed(Exception):
    """The batcher takes no more images."""


@dataclass(frozen=True)
class Answer:
    """What came of one image.

    Args:
      probs: float64 [K].
      wait_s: from when it was decoded until its batch began.
      model_s: of its batch in the model.
      batch_size: images in that batch.
    """

    probs: Tensor
    wait_s: float
    model_s: float
    batch_size: int


@dataclass
class _Item:
    pixels: Tensor
    future: Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """One thread that owns the model: takes what is there when it is free, at most `max_batch` images.

    A batch that could be larger waits for images that are announced, which are decoding, at most `max_wait_s` from
    when its first was ready. So an image that is alone is never held up, and under load batches fill while the model
    is busy, without waiting at all.

    Args:
      start: called first in the thread; gives the model, uint8 [B, c, H, W] -> float64 probabilities [B, K].
      max_batch: chosen by `start` if None, which then returns it.
      on_batch: is told the images and seconds of every batch, in the thread.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Callable[[Tensor], Tensor], int]],
        *,
        max_wait_s: float,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        self.max_wait_s, self.on_batch = max_wait_s, on_batch
        self.ready: Future[None] = Future()
        self.images_per_s = 0.0
        self._start = start
        self._items: deque[_Item] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._announced = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Images that are announced or wait; not those in the model."""
        return self._announced + len(self._items)

    def announce(self, count: int) -> None:
        """Says that so many images are being decoded; each must be submitted or given up."""
        with self._changed:
            self._announced += count

    def give_up(self, count: int) -> None:
        """Takes back so many announced images."""
        with self._changed:
            self._announced -= count
            self._changed.notify()

    def submit(self, pixels: Tensor) -> Future[Answer]:
        """Queues an image uint8 [c, H, W] that was announced.

        Raises:
          Closed: after `close`.
        """
        item = _Item(pixels, Future())
        with self._changed:
            self._announced -= 1
            if self._is_closed:
                raise Closed
            self._items.append(item)
            self._changed.notify()
        return item.future

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Runs something else that needs the model in its thread, between two batches.

        Raises:
          Closed: after `close`.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._is_closed:
                raise Closed
            self._calls.append(run)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answers what is queued, then ends the thread; does not wait for a model that is still being loaded."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self.ready.done():
            self._thread.join()

    def _run(self) -> None:
        try:
            self.model, self.max_batch = self._start()
        except BaseException as error:
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        while True:
            batch, call = self._next()
            if batch:
                self._answer(batch)
            if call is not None:
                call()
            if not batch and call is None:
                return

    def _next(self) -> tuple[list[_Item], Callable[[], None] | None]:
        """The next batch and the next call; neither once all is done and the batcher is closed."""
        with self._changed:
            while not (self._items or self._calls or self._is_closed):
                self._changed.wait()
            while self._announced and 0 < len(self._items) < self.max_batch and not self._calls:
                left = self._items[0].since + self.max_wait_s - time.perf_counter()
                if left <= 0 or not self._changed.wait(left):
                    break
            batch = [self._items.popleft() for _ in range(min(len(self._items), self.max_batch))]
            return batch, self._calls.popleft() if self._calls else None

    def _answer(self, batch: list[_Item]) -> None:
        batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if not batch:
            return
        begun = time.perf_counter()
        try:
            probs = self.model(torch.stack([item.pixels for item in batch]))
        except Exception as error:  # of whatever kind: those who wait must hear of it, and the thread goes on
            for item in batch:
                item.future.set_exception(error)
            return
        seconds = time.perf_counter() - begun
        rate = len(batch) / seconds
        self.images_per_s = SMOOTH * self.images_per_s + (1 - SMOOTH) * rate if self.images_per_s else rate
        self.on_batch(len(batch), seconds)
        for item, row in zip(batch, probs, strict=True):
            item.future.set_result(Answer(row, begun - item.since, seconds, len(batch)))
