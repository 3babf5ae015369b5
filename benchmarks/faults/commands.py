"""Commands of mixonomy as a person starts them: in a process of their own, watched, and ended from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 60.0  # within which a command that meets a fault has to end


class CaseFailed(Exception):
    """A case that shows nothing, since what has to come before did not; the message says what."""


class Hung(CaseFailed):
    """A command that did not end in time; it was killed."""


class CannotMount(Exception):
    """This process may not mount file systems; the message says why."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
      status: exit status; -N where signal N ended it.
      seconds: from its start.
      text: its standard error.
    """

    status: int
    seconds: float
    text: str

    @property
    def sentence(self) -> str:
        """The last line of standard error."""
        lines = self.text.strip().splitlines()
        return lines[-1] if lines else ""

    def problems(self, wanted: str, status: int = 1) -> list[str]:
        """What is wrong with an end that should be one sentence, or where the status is 0, a success that says so.

        Args:
          wanted: a regular expression that the last line must have, or any line of a success.
        """
        found = [] if self.status == status else [f"status {self.status} in place of {status}: {self.text[-600:]}"]
        if "Traceback" in self.text:
            found.append(f"a traceback: {self.text[-1500:]}")
        place = self.text if status == 0 else self.sentence
        if not re.search(wanted, place):
            found.append(f"nothing like {wanted!r} in {place[-600:]!r}")
        if status and not self.sentence.startswith("mixonomy "):
            found.append(f"the last line is not the error: {self.sentence!r}")
        return found


class Command:
    """A running `mixonomy ...`; its standard error goes to a file, so that it never waits for a reader."""

    def __init__(self, words: Sequence[str], log: Path):
        self.words, self.log, self.start = [*words], log, time.monotonic()
        self.orphans: list[int] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mixonomy", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    def ended(self, limit_s: float) -> Ended:
        """Waits for its end.

        Raises:
          Hung: if that does not come within so many seconds from now.
        """
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Hung(f"{' '.join(self.words)} had not ended after {limit_s:.0f} s") from None
        return Ended(status, time.monotonic() - self.start, self.log.read_text(errors="replace"))

    def until(self, happened: Callable[[], bool], limit_s: float) -> bool:
        """Waits until something has happened; False if the command ended before.

        Raises:
          Hung: if neither is so within so many seconds.
        """
        last = time.monotonic() + limit_s
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > last:
                self.kill()
                raise Hung(f"{' '.join(self.words)} did not come to what was waited for in {limit_s:.0f} s")
            time.sleep(0.001)
        return True

    def surely(self, happened: Callable[[], bool], limit_s: float) -> None:
        """Waits until something has happened without which a case shows nothing.

        Raises:
          Hung: as in `until`.
          CaseFailed: if the command ended before.
        """
        if not self.until(happened, limit_s):
            raise CaseFailed(f"it ended too early: {self.log.read_text(errors='replace')[-600:]}")

    def kill(self) -> None:
        """SIGKILL, to this process alone: what it started, `orphans`, has to find out by itself."""
        self.orphans = self.children()
        self.process.kill()
        self.process.wait()

    def children(self) -> list[int]:
        """Process ids of what it started: the workers."""
        try:
            lists = [path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/children")]
        except OSError:
            return []
        return [int(word) for text in lists for word in text.split()]


def run(words: Sequence[str], log: Path, limit_s: float = LIMIT_S) -> Ended:
    """Runs a command to its end; see `Command`."""
    return Command(words, log).ended(limit_s)


def alive(pids: Sequence[int]) -> list[int]:
    """Those of some processes that have not ended."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def kill_process(pid: int) -> None:
    """SIGKILL to a process of a command."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def mounted(folder: Path, num_bytes: int) -> Iterator[None]:
    """A file system in memory of so many bytes at a folder, until the end.

    Raises:
      CannotMount: if this process may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def remount(folder: Path, options: str) -> None:
    """Changes what is mounted at a folder: its size, or whether it may be written."""
    _mount("-o", f"remount,{options}", str(folder))


def _mount(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMount("there is no command `mount`") from None
    if done.returncode:
        raise CannotMount(" ".join(done.stderr.split()))
