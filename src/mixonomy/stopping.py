"""What a training does when it is asked to stop: by Ctrl-C, or before a scheduler takes the machine away."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mixonomy import parallel

PREEMPTED = 75  # exit status after SIGTERM or SIGUSR1, all saved; sysexits.h: "temporary failure, try again"
SCHEDULERS = ("SIGTERM", "SIGUSR1")  # the second is none of Windows'


class Interrupted(Exception):
    """Training was asked to stop, and has saved where it stands.

    Args:
      is_preempted: whether by SIGTERM or SIGUSR1, as from a scheduler, and not by Ctrl-C.
    """

    def __init__(self, what: str, *, is_preempted: bool = False):
        super().__init__(what)
        self.is_preempted = is_preempted


class Stop(threading.Event):
    """Set when the process was asked to stop."""

    is_preempted = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C, SIGTERM and SIGUSR1 set the event, so that the step is finished and saved.

    A second Ctrl-C stops at once, but not under torchrun, which sends on to its processes what they have got already.
    """
    stop = Stop()

    def handle(number: int, _: object) -> None:
        stop.set()
        is_ctrl_c = number == signal.SIGINT
        stop.is_preempted = stop.is_preempted or not is_ctrl_c
        at_once = is_ctrl_c and parallel.size() == 1
        if at_once:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if not parallel.launched_rank():
            again = "; Ctrl-C again stops at once, back to the last checkpoint" if at_once else ""
            print(f"\nfinishing this step and saving{again}", file=sys.stderr)

    with _handled(("SIGINT", *SCHEDULERS), handle) as before:
        yield stop


@contextmanager
def leaving_when_preempted() -> Iterator[None]:
    """Before and after the steps, where there is nothing to save, SIGTERM and SIGUSR1 end the process at once."""
    with _handled(SCHEDULERS, lambda *_: sys.exit(PREEMPTED)):
        yield


@contextmanager
def _handled(names: tuple[str, ...], handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Handles signals so, in the main thread, until the end; gives their handlers before."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in names if is_main and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, handler)
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
