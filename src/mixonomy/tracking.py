"""Where the numbers of a run go: always metrics.jsonl, and trackers that the user asks for."""

import json
import os
import secrets
from pathlib import Path
from typing import Any, Protocol

from mixonomy.models.files import errors_name

WANDB_PROJECT = "mixonomy"  # where $WANDB_PROJECT names no other


class Tracker(Protocol):
    """Takes rows of numbers; each has a "step"."""

    def write(self, row: dict[str, Any]) -> None: ...
    def close(self, *, is_failed: bool) -> None: ...


class TensorBoard:
    """Event files beside metrics.jsonl, and the recipe as a text; needs the extra `mixonomy[track]`."""

    def __init__(self, folder: Path, next_step: int, recipe: dict[str, Any]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("tracking by tensorboard needs it installed: pip install 'mixonomy[track]'.") from None
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)
        if next_step == 1:
            self.writer.add_text("recipe", f"```json\n{json.dumps(recipe, indent=1)}\n```", 0)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])

    def close(self, *, is_failed: bool) -> None:
        self.writer.close()


class WandB:
    """A run at Weights & Biases, its files in wandb/ of the run folder; needs the extra `mixonomy[track]`.

    What their client reads from the environment counts here too: WANDB_MODE=offline or disabled, WANDB_PROJECT,
    WANDB_ENTITY, WANDB_API_KEY. A resumed run goes on under the id it began with. Their step counter only grows, so
    rows carry "step" as a number of their own: steps that a resume does again give the same points again.
    """

    def __init__(self, folder: Path, next_step: int, recipe: dict[str, Any]):
        try:
            import wandb
        except ImportError:
            raise ValueError("tracking by wandb needs it installed: pip install 'mixonomy[track]'.") from None
        (folder / "wandb").mkdir(exist_ok=True)
        id_file = folder / "wandb" / "id.txt"
        if not id_file.exists() or next_step == 1:  # from the first step on it is another run
            id_file.write_text(secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                name=folder.resolve().name,
                id=id_file.read_text(),
                resume="allow",
                dir=folder,
                config=recipe,
                settings=wandb.Settings(console="off"),  # standard output is the user's
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"wandb cannot start ({reason}); set WANDB_MODE=offline to upload later.") from None
        self.run.define_metric("*", step_metric="step")

    def write(self, row: dict[str, Any]) -> None:
        self.run.log(row)

    def close(self, *, is_failed: bool) -> None:
        self.run.finish(exit_code=int(is_failed))


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}


class Trackers:
    """metrics.jsonl and the chosen trackers, open for the length of a run.

    Args:
      folder: of the run.
      log_bytes: where metrics.jsonl goes on; what stands after it is cut off, it will be written again.
      names: of TRACKERS.
      next_step: the first step whose numbers are to come.
      recipe: as JSON values, which the others show beside the numbers.
    Raises:
      ValueError: for an unknown name.
    """

    def __init__(
        self,
        folder: Path,
        log_bytes: int,
        names: tuple[str, ...] = (),
        *,
        next_step: int = 1,
        recipe: dict[str, Any] | None = None,
    ):
        unknown = [name for name in names if name not in TRACKERS]
        if unknown:
            raise ValueError(f"unknown tracker {unknown[0]!r}; use {', '.join(TRACKERS)}.")
        self._others: list[Tracker] = [TRACKERS[name](folder, next_step, recipe or {}) for name in names]
        self._path = path = folder / "metrics.jsonl"
        self._file = open(path, "r+b" if path.exists() else "w+b")
        self._file.truncate(min(log_bytes, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with errors_name(self._path):
            self._file.close()
        for other in self._others:
            other.close(is_failed=error is not None)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row everywhere."""
        with errors_name(self._path):
            self._file.write((json.dumps(row) + "\n").encode())
            self._file.flush()
        for other in self._others:
            other.write(row)

    def flush(self) -> int:
        """Puts metrics.jsonl on disk; returns its length in bytes."""
        with errors_name(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell()
