"""The model behind a server: loaded and tuned in its own thread, images decoded in others, answers by predict's code.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mixonomy.evals import Predictor
from mixonomy.inference import Fast, fast
from mixonomy.loading import load
from mixonomy.models import ModelInfo, info_of
from mixonomy.predicting import Classes, answers_of, default_batch_size, predictor_of
from mixonomy.preprocessing import Preprocessing
from mixonomy.serve.batching import Answer, Batcher, Closed
from mixonomy.serve.explain import Shuffler, can_be_permuted, grid_of, num_token_mlps
from mixonomy.serve.images import Refused, Upload, check_image, decoded, prepared
from mixonomy.serve.metrics import Metrics
from mixonomy.serve.settings import Settings

T = TypeVar("T")
MAX_RETRY_S = 60
SMALL_BYTES = 2**18  # reading the headers of fewer takes no longer than changing threads
MAX_BATCH = 64  # images at once if nothing else is asked for; more only make the first of them wait


@dataclass(frozen=True)
class Outcome:
    """What came of one image: classes, or why there are none.

    Args:
      classes, predicted: as of `mixonomy.Prediction`.
      decode_s, wait_s, model_s: seconds of decoding, of waiting for the model, and of its batch in it.
      batch_size: images in that batch.
      error: why the image could not be read.
    """

    name: str
    classes: Classes = ()
    predicted: Classes = ()
    decode_s: float = 0.0
    wait_s: float = 0.0
    model_s: float = 0.0
    batch_size: int = 0
    error: Refused | None = None


class Engine:
    """Answers images; begins to load the model at once and says by `is_ready` when that is done.

    Args:
      where: a run folder or anything `mixonomy.load` reads.
      device: auto, cpu, cuda, cuda:1 or mps.
      model: a loaded one, instead of loading.
    """

    def __init__(
        self, where: str, settings: Settings, metrics: Metrics, *, device: str = "auto", model: nn.Module | None = None
    ):
        self.where, self.settings, self.metrics, self.device = where, settings, metrics, device
        self.name = Path(where).name or where
        self.is_draining = self.is_stopping = False
        self._bytes = 0
        self._model = model
        workers = settings.workers or os.cpu_count() or 1
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        _with_one_thread(self._decoders, workers)
        self._batcher = Batcher(self._start, max_wait_s=settings.max_wait_ms / 1000, on_batch=metrics.on_batch)
        self.metrics.queue.set_function(lambda: self._batcher.pending)
        self.metrics.ready.set_function(lambda: float(self.is_ready))

    @property
    def loaded(self):
        """A future that is done once the model is ready, or holds why it never will be."""
        return self._batcher.ready

    @property
    def is_ready(self) -> bool:
        """Whether images are answered; while the server drains they still are, to those who have asked."""
        return self.loaded.done() and self.loaded.exception() is None and not self.is_stopping

    @property
    def info(self) -> ModelInfo:
        """Of the model, once it is loaded."""
        return self._info

    @property
    def model(self) -> nn.Module:
        """The model as it was loaded, once it is; to be called in `in_model_thread`."""
        assert self._model is not None
        return self._model

    @property
    def predictor(self) -> Predictor:
        """Which answers, by the fastest verified path."""
        return self._predictor

    @property
    def max_batch(self) -> int:
        """Images in a batch at most."""
        return self._batcher.max_batch

    @property
    def path(self) -> str:
        """The way the model is computed, such as "packed bf16"."""
        quick = self._predictor.model
        return f"{quick.backend} {quick.precision}" if isinstance(quick, Fast) else "exported file"

    def close(self) -> None:
        """Answers what was accepted, then ends the threads."""
        self.is_stopping = True
        self._decoders.shutdown()
        self._batcher.close()

    def check_bytes(self, count: int) -> None:
        """Refuses so many bytes of a request's body if all bodies together would be too large.

        Raises:
          Refused: with 503.
        """
        if self._bytes + count > self.settings.max_memory_bytes:
            raise Refused(503, "the server holds as many request bodies as it may; try again later.", 1)

    def reserve(self, count: int) -> None:
        """Takes room for bytes that have come; to be given back by `release`.

        Raises:
          Refused: as of `check_bytes`.
        """
        self.check_bytes(count)
        self._bytes += count

    def release(self, count: int) -> None:
        """Gives room back."""
        self._bytes -= count

    def check_room(self, count: int) -> None:
        """Refuses so many images if they would wait too long.

        Raises:
          Refused: if the queue has no room for them.
        """
        pending = self._batcher.pending
        if pending + count > self.settings.max_queue:
            rate = self._batcher.images_per_s
            seconds = min(max(round(pending / rate), 1), MAX_RETRY_S) if rate else 1
            raise Refused(429, f"the queue is full ({pending} images); try again in {seconds} s.", seconds)

    def check_ready(self) -> None:
        """Refuses everything while the model loads and once the server stops.

        Raises:
          Refused: with 503.
        """
        if not self.is_ready:
            word = "stopping" if self.is_stopping else "loading the model"
            raise Refused(503, f"the server is {word}; try again later.", 1 if self.is_stopping else 5)

    async def check(self, upload: Upload) -> None:
        """Refuses an image that cannot be read; decodes it only while the model loads, for an honest answer.

        Raises:
          Refused: saying why.
        """
        preprocessing = self._info.preprocessing if self.is_ready else Preprocessing((1, 1), crop="squash")
        max_pixels = self.settings.max_pixels
        await self.off_the_loop(lambda: check_image(upload.data, preprocessing, max_pixels=max_pixels), upload.data)
        if not self.is_ready and self._batcher.pending < self.settings.max_queue:
            self._batcher.announce(1)
            try:
                await self._in_decoder(lambda: decoded(upload.data, preprocessing, max_pixels=max_pixels))
            finally:
                self._batcher.give_up(1)

    async def off_the_loop(self, function: Callable[[], T], data: bytes) -> T:
        """The result of a function that reads these bytes; in a decoder's thread if they are many."""
        return function() if len(data) < SMALL_BYTES else await self._in_decoder(function)

    async def predict(self, uploads: Sequence[Upload], top: int) -> list[Outcome]:
        """Answers images in order, each on its own; all have room or none.

        Raises:
          Refused: if the queue is full or there is no model yet.
        """
        self.check_ready()
        self.check_room(len(uploads))
        self._batcher.announce(len(uploads))
        return await asyncio.gather(*(self._predict(upload, top) for upload in uploads))

    async def prepare(self, upload: Upload) -> Tensor:
        """An image as the model sees it, uint8 [c, *image_size], for what else is asked of it than its class.

        Raises:
          Refused: if there is no room or no model, or it cannot be read.
        """
        self.check_ready()
        self.check_room(1)
        self._batcher.announce(1)
        try:
            return await self._prepared(upload)
        finally:
            self._batcher.give_up(1)

    async def in_model_thread(self, function: Callable[[], T]) -> T:
        """The result of a function that uses the model, between two batches.

        Raises:
          Refused: if the server is stopping.
        """
        try:
            return await asyncio.wrap_future(self._batcher.call(function))
        except Closed:
            raise Refused(503, "the server is stopping; try again later.", 1) from None

    async def _predict(self, upload: Upload, top: int) -> Outcome:
        info, begun = self._info, time.perf_counter()
        try:
            pixels = await self._prepared(upload)
        except BaseException as error:
            self._batcher.give_up(1)
            if not isinstance(error, Refused):
                raise
            return Outcome(upload.name, error=error)
        decode_s = time.perf_counter() - begun
        answer: Answer = await asyncio.wrap_future(self._batcher.submit(pixels))
        for stage, seconds in (("decode", decode_s), ("wait", answer.wait_s), ("model", answer.model_s)):
            self.metrics.stages.labels(stage).observe(seconds)
        ((classes, predicted),) = answers_of(answer.probs[None], info, top)
        return Outcome(
            upload.name, classes, predicted, decode_s, answer.wait_s, answer.model_s, batch_size=answer.batch_size
        )

    async def _prepared(self, upload: Upload) -> Tensor:
        preprocessing, max_pixels = self._info.preprocessing, self.settings.max_pixels
        return await self._in_decoder(lambda: prepared(upload.data, preprocessing, max_pixels=max_pixels))

    async def _in_decoder(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    def _start(self) -> tuple[Callable[[Tensor], Tensor], int]:
        """Loads the model and tunes it for every size of batch; runs in the batcher's thread."""
        torch.set_num_threads(torch.get_num_threads())  # again, after the decoders' threads took one each
        model = self._model if self._model is not None else load(self.where)
        predictor = predictor_of(model, self.device)
        self._model, self._info = model, info_of(model)
        precision = predictor.precision
        if next(model.parameters(), None) is not None:  # else it is an exported file, which has its own engine
            predictor = replace(predictor, model=fast(model, precision=precision), precision="fp32")
        max_batch = self.settings.max_batch or min(default_batch_size(predictor), MAX_BATCH)
        sizes = [1 << power for power in range((max_batch - 1).bit_length())] + [max_batch]
        for size in sizes:
            probs = predictor(_noise(size, self._info.preprocessing))
        for _ in answers_of(probs, self._info, 1):  # so that a model with other outputs than names fails at the start
            pass
        rows, columns, patch_size = grid_of(model, self._info.preprocessing.image_size)
        self.facts = {
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_classes": probs.shape[1],
            "grid": (rows, columns),
            "patch_size": patch_size,
            "can_be_permuted": can_be_permuted(model),
            "num_token_mlps": num_token_mlps(model),
        }
        self.shuffler = Shuffler(model, predictor, precision)
        self._predictor = predictor
        return predictor, max_batch


def _with_one_thread(pool: ThreadPoolExecutor, workers: int) -> None:
    """Makes every thread of a pool run torch's operations by itself, beside the model's."""
    before, barrier = torch.get_num_threads(), threading.Barrier(workers)

    def one_thread() -> None:
        barrier.wait()
        torch.set_num_threads(1)

    for future in [pool.submit(one_thread) for _ in range(workers)]:
        future.result()
    torch.set_num_threads(before)


def _noise(count: int, preprocessing: Preprocessing) -> Tensor:
    """Smooth random images uint8 [B, c, H, W], to tune and warm up with."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, preprocessing.channels, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, preprocessing.image_size, mode="bilinear")
    return (255 * smooth).to(torch.uint8)
