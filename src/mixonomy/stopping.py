"""What a training does when it is asked to stop: by Ctrl-C, or before a scheduler takes the machine away."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mixonomy import parallel

PREEMPTED = 75  # exit status after one of OUTSIDE, all saved; sysexits.h: "temporary failure, try again"
OUTSIDE = ("SIGTERM", "SIGUSR1", "SIGHUP")  # of schedulers, and of a terminal that closes; Windows has the first


class Interrupted(Exception):
    """Training was asked to stop, and has saved where it stands.

    Args:
      is_preempted: whether by a signal of OUTSIDE, as from a scheduler, and not by Ctrl-C.
    """

    def __init__(self, what: str, *, is_preempted: bool = False):
        super().__init__(what)
        self.is_preempted = is_preempted


def stopped(stop: Interrupted) -> int:
    """The exit status of a command that was interrupted, and one sentence, which of several ranks the first says."""
    if not parallel.launched_rank():
        print(stop, file=sys.stderr)
    return PREEMPTED if stop.is_preempted else 130


class Stop:
    """Whether the process was asked to stop. It has no lock: a second signal may come while the first is handled."""

    def __init__(self):
        self._is_set = self.is_preempted = False

    def set(self, *, is_preempted: bool) -> None:
        """Asks to stop."""
        self._is_set, self.is_preempted = True, self.is_preempted or is_preempted

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._is_set


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and the signals of OUTSIDE set it, so that the step is finished and saved.

    A second Ctrl-C stops at once, but not under torchrun, which sends on to its processes what they have got already.
    """
    stop = Stop()

    def handle(number: int, _: object) -> None:
        is_ctrl_c = number == signal.SIGINT
        stop.set(is_preempted=not is_ctrl_c)
        at_once = is_ctrl_c and parallel.size() == 1
        if at_once:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if not parallel.launched_rank():
            again = "; Ctrl-C again stops at once, back to the last checkpoint" if at_once else ""
            # Nobody may read it any more, or the signal came in the middle of another line: not worth the run.
            with contextlib.suppress(OSError, RuntimeError):
                print(f"\nfinishing this step and saving{again}", file=sys.stderr, flush=True)

    with _handled(("SIGINT", *OUTSIDE), handle) as before:
        yield stop


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Between trainings, where there is nothing of theirs to save, Ctrl-C and the signals of OUTSIDE raise Interrupted.

    A training inside handles them in its own way until it ends, see `stop_on_signals`.
    """

    def handle(number: int, _: object) -> None:
        raise Interrupted(
            "stopped between two trainings; the same command goes on from there", is_preempted=number != signal.SIGINT
        )

    with _handled(("SIGINT", *OUTSIDE), handle):
        yield


@contextmanager
def leaving_when_preempted() -> Iterator[None]:
    """Before and after the steps, where there is nothing to save, the signals of OUTSIDE end the process at once."""
    with _handled(OUTSIDE, lambda *_: sys.exit(PREEMPTED)):
        yield


@contextmanager
def _handled(names: tuple[str, ...], handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Handles signals so, in the main thread, until the end; gives their handlers before.

    SIGHUP that the process was started to ignore, as by `nohup`, it goes on to ignore.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in names if is_main and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    numbers = [n for n in numbers if signal.Signals(n).name != "SIGHUP" or before[n] != signal.SIG_IGN]
    try:
        for number in numbers:
            signal.signal(number, handler)
        yield before
    finally:
        for number in numbers:
            signal.signal(number, before[number])
