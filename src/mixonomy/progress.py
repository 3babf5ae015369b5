"""What a person sees while a command runs: a bar on a terminal, plain lines elsewhere. All of it on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PLAIN_SECONDS = 10.0  # between two plain lines


class Console:
    """Says things to a person; `quiet` says nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._bar: object | None = None

    def say(self, text: str) -> None:
        """Prints one line."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)  # type: ignore[attr-defined]
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, total: int, done: int, unit: str = "step") -> Iterator["Meter"]:
        """A meter that counts from `done` to `total`."""
        if self.quiet or not sys.stderr.isatty():
            yield Meter(self, total, done, unit)
            return
        from rich.console import Console as Rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(unit),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Rich(stderr=True)) as bar:
            self._bar = bar
            try:
                yield _BarMeter(bar, bar.add_task("", total=total, completed=done))
            finally:
                self._bar = None


class Meter:
    """Plain lines, at most one every ten seconds, with the time left."""

    def __init__(self, console: Console, total: int, done: int, unit: str):
        self.console, self.total, self.first, self.unit = console, total, done, unit
        self.start = self.last = time.monotonic()

    def update(self, done: int, text: str) -> None:
        """Shows that `done` of the total are done."""
        now = time.monotonic()
        if now - self.last < PLAIN_SECONDS:
            return
        self.last = now
        if done > self.first:  # else nothing tells how long the rest takes
            left = round((now - self.start) / (done - self.first) * (self.total - done))
            self.console.say(f"{self.unit} {done}/{self.total}  {text}  {left // 60} min {left % 60} s left")


class _BarMeter(Meter):
    def __init__(self, bar: object, task: object):
        self.bar, self.task = bar, task

    def update(self, done: int, text: str) -> None:
        self.bar.update(self.task, completed=done, description=text)  # type: ignore[attr-defined]
