"""Checkpoints of a training run: everything that the next step depends on, written so that nothing is ever half there.

One checkpoint is one .safetensors file: tensors under "model/", "average/", "best/" and "optimizer/", and a JSON text
in its header with the format, the position and a checksum of both. Random numbers need no state: they are
pure functions of the seed and the step.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mixonomy import parallel
from mixonomy.models.files import write_safetensors

FORMAT = 1
KEEP = 2  # the newest, and the one before it in case the newest is damaged


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
      step: optimizer steps done.
      seen: training samples seen; the position in the stream.
      seconds: spent training so far, over all starts.
      best_score, best_step: validation score of the weights to keep so far (the best, or the last); None before it.
      bad_images: name -> why it could not be read, of those that were left out so far.
      log_bytes: length of metrics.jsonl at this point; what comes after it was written by steps that are redone.
    """

    step: int = 0
    seen: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int | None = None
    log_bytes: int = 0
    bad_images: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints/ folder of a run; writes in a thread, one checkpoint at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writing: Future[None] | None = None

    def save(self, tensors: dict[str, Tensor], progress: Progress, *, are_copies: bool = False) -> None:
        """Copies the tensors now and writes them soon; waits for the write before this one.

        Args:
          are_copies: nobody changes the tensors meanwhile, and they are in the memory of the CPU: they are not copied.
        Raises:
          OSError: if the write before this one failed.
        """
        self.wait()
        copies = {name: tensor.detach().to("cpu", copy=not are_copies).contiguous() for name, tensor in tensors.items()}
        pool = ThreadPoolExecutor(1)
        self._writing = pool.submit(self._write, copies, progress)
        pool.shutdown(wait=False)  # the thread ends with this write

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk.

        Raises:
          OSError: if it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def newest(self) -> tuple[dict[str, Tensor], Progress, list[str]] | None:
        """The newest checkpoint that is whole: (tensors, progress, what was wrong with newer ones).

        Returns:
          None if there is no checkpoint yet.
        Raises:
          ValueError: if there are checkpoints and all are damaged, or one is of a newer format.
        """
        for left in self.folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            left.unlink()
        damaged: list[str] = []
        for path in reversed(self._paths()):
            try:
                return *_read(path), damaged
            except _Damaged as error:
                damaged.append(str(error))
        if damaged:
            raise ValueError(f"no usable checkpoint: {'; '.join(damaged)}; start again in another --out.")
        return None

    def keep_newest(self) -> None:
        """Removes all checkpoints but the newest, once the run is done; it holds the last and the best weights."""
        self.wait()
        for path in self._paths()[:-1]:
            path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def _write(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        content = {"format": FORMAT, "progress": asdict(progress), "sha256": _checksum(tensors, progress)}
        path = self.folder / f"step-{progress.step:09d}.safetensors"
        write_safetensors(path, tensors, {"mixonomy": json.dumps(content)})
        # Of a later step is what was too damaged to go on from; it must not take the place of the one before this.
        paths = self._paths()
        done = paths.index(path) + 1
        for other in (*paths[: max(done - KEEP, 0)], *paths[done:]):
            other.unlink()


def optimizer_tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state, by "PARAMETER/KEY" (a parameter is in one optimizer only)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizers(
    tensors: dict[str, Tensor], model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """The reverse of `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    owners = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        owners[id(parameter)].state[parameter][key] = parallel.as_shared(tensor.to(parameter.device), parameter)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with "PREFIX/", without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


class _Damaged(Exception):
    """A checkpoint that is not what was written."""


class _Newer(Exception):
    """A checkpoint that a later version wrote."""


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})["mixonomy"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if content["format"] > FORMAT:
            raise _Newer
        progress, checksum = Progress(**content["progress"]), content["sha256"]
    except _Newer:
        raise ValueError(
            f"{path} has format {content['format']}, this version reads up to {FORMAT}; update mixonomy."
        ) from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _Damaged(f"{path.name} cannot be read ({error})") from None
    if _checksum(tensors, progress) != checksum:
        raise _Damaged(f"{path.name} does not match its checksum")
    return tensors, progress


def _checksum(tensors: dict[str, Tensor], progress: Progress) -> str:
    """SHA-256 over the progress, and names, shapes and bytes of the tensors in the order of the names."""
    digest = hashlib.sha256(json.dumps(asdict(progress)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
