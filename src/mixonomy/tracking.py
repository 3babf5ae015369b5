"""Where the numbers of a run go: always metrics.jsonl, and trackers that the user asks for."""

import json
import os
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes rows of numbers; each has a "step"."""

    def write(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files beside metrics.jsonl; needs the extra `mixonomy[track]`."""

    def __init__(self, folder: Path, next_step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("tracking by tensorboard needs it installed: pip install 'mixonomy[track]'.") from None
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


TRACKERS = {"tensorboard": TensorBoard}


class Trackers:
    """metrics.jsonl and the chosen trackers, open for the length of a run.

    Args:
      folder: of the run.
      log_bytes: where metrics.jsonl goes on; what stands after it is cut off, it will be written again.
      next_step: the first step whose numbers are to come.
      names: of TRACKERS.
    Raises:
      ValueError: for an unknown name.
    """

    def __init__(self, folder: Path, log_bytes: int, names: tuple[str, ...] = (), *, next_step: int = 1):
        unknown = [name for name in names if name not in TRACKERS]
        if unknown:
            raise ValueError(f"unknown tracker {unknown[0]!r}; use {', '.join(TRACKERS)}.")
        path = folder / "metrics.jsonl"
        self._file = open(path, "r+b" if path.exists() else "w+b")
        self._file.truncate(min(log_bytes, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)
        self._others: list[Tracker] = [TRACKERS[name](folder, next_step) for name in names]

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for other in self._others:
            other.close()

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row everywhere."""
        self._file.write((json.dumps(row) + "\n").encode())
        self._file.flush()
        for other in self._others:
            other.write(row)

    def flush(self) -> int:
        """Puts metrics.jsonl on disk; returns its length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()
