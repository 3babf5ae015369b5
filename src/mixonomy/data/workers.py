"""The processes that decode images: how many, how they start, what they share, and what is said where one ends."""

import gc
import math
import mmap
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mixonomy import devices, parallel

PREFETCH = 2  # batches that each worker may be ahead
WORKER_START = "fork" if sys.platform == "linux" else None  # None: the system's own way


def default_workers() -> int:
    """As many worker processes as cores this process may use, at most 8; the ranks of one machine divide its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // parallel.local_size(), 1), 8)


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader with so many processes; 0 for none."""
    if not workers:
        return {"num_workers": 0}
    return {
        "worker_init_fn": _start_worker,
        "num_workers": workers,
        "prefetch_factor": PREFETCH,
        "multiprocessing_context": WORKER_START,
    }


def _start_worker(_: int) -> None:
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):  # all processes get them, and to stop is the parent's, who saves
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _heed_parent_alone()
    gc.freeze()
    devices.prepare(torch.device("cpu"))


def _heed_parent_alone() -> None:
    """Ends at a SIGTERM of the parent only: a scheduler sends it to all processes, and the parent has still to save."""
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _left_alone() -> Iterator[None]:
    """Leaves all objects that there are now out of garbage collections, until the end.

    A full collection writes into every object that it looks at. In a process that shares its memory with others since
    they began as its copy, that copies every page with an object, in each that collects.
    """
    if gc.get_freeze_count():  # by another loader, or by the caller's program; not ours to end
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def alive(
    loader: DataLoader, otherwise: str = " or a smaller --batch-size, and the same command goes on"
) -> Iterator[Any]:
    """What the workers send.

    Args:
      otherwise: what else may help where memory is full, in words.
    Raises:
      ValueError: if one of them was ended from outside.
    """
    try:
        with _left_alone() if loader.num_workers else nullcontext():
            yield from loader
    except RuntimeError as error:
        if not is_of_a_worker(error):
            raise
        raise ValueError(ended_worker(otherwise)) from None


def is_of_a_worker(error: RuntimeError) -> bool:
    """Whether torch says by an error that a worker was ended, for which it has no type of its own.

    It raises it out of a signal handler, in whatever the process is doing: `alive` sees it only while it waits.
    """
    return "DataLoader worker" in str(error)


def ended_worker(otherwise: str = ", and the same command goes on") -> str:
    """The sentence for it; see `alive`."""
    return (
        "a process that decodes images was ended from outside, as happens when memory is full; give fewer "
        f"--workers (0 decodes without such processes){otherwise}."
    )


def shared_memory(shape: tuple[int, ...], workers: int) -> Tensor:
    """uint8 zeros that worker processes started later share with this one."""
    if not workers:
        return torch.zeros(shape, dtype=torch.uint8)
    if WORKER_START == "fork":  # memory without a name: containers often allow 64 MB of the other kind (/dev/shm)
        return torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)
    return torch.zeros(shape, dtype=torch.uint8).share_memory_()
