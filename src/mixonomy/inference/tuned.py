"""Tries the ways to run a model on this machine at first use, keeps the fastest that is right, and remembers which.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.choices import PrecisionOrAuto
from mixonomy.inference import paths
from mixonomy.inference.exported import ExportedModel

CACHE = Path.home() / ".cache/mixonomy/fast.json"
CHECKED_IMAGES = 4
TIMED_TURNS, TIMED_S = 5, 1.0  # at most so many turns of each path, and no more after so many seconds
TURN_S = 0.1  # a turn of calls that last less is several: threads of the path before still wait for work, and slow them
MIN_CALIBRATION = 64  # images; ranges and agreement of fewer say little
MAX_CHANGED = 0.01
LAST_RESORT = "eager fp32"


class Tried(NamedTuple):
    """What came of a path.

    Args:
      seconds: median of a call; None if it was not timed.
      difference: largest difference from the float32 logits, as a share of the largest of them.
      problem: why it is not used, if so.
    """

    seconds: float | None = None
    difference: float | None = None
    problem: str | None = None


def fast(
    model: nn.Module,
    calibration: Tensor | None = None,
    *,
    precision: PrecisionOrAuto = "auto",
    max_changed: float = MAX_CHANGED,
    compile: bool = False,
    cache: str | Path | None = CACHE,
) -> "Fast":
    """The fastest verified inference path for a model on this machine; called like the model.

    At the first call with a batch of another size (of 1, 2, 4, 8, ... images) or shape, the few paths that suit the
    device are compared with the float32 logits and timed on the images given; the choice is remembered on disk. A path
    that fails or differs is not used; the last resort is the model as it is, in float32.

    Args:
      model: images float [B, c, H, W] -> logits [B, K], in float32, on its device; put into evaluation mode. Later
        changes of its weights are not followed.
      calibration: float [N, c, H, W], at least 64 images prepared as for the model. They allow 8-bit integers on a
        CPU, which are used only if the likeliest class of no more than `max_changed` of these images changes.
      precision: of the other paths: "auto" is bf16 where the device multiplies it in hardware, else fp32.
      max_changed: share of the calibration images.
      compile: also try torch.compile; tuning then takes a minute or so, and a C++ compiler on a CPU.
      cache: file of remembered choices; None to remember nothing.
    Raises:
      ValueError: if the calibration images are too few or of the wrong kind, or the share is none.
    """
    if isinstance(model, ExportedModel):
        raise ValueError(f"{model.path} is exported: its runtime has chosen how to run it; call it as it is.")
    return Fast(model, calibration, precision=precision, max_changed=max_changed, compile=compile, cache=cache)


class Fast(nn.Module):
    """See `fast`.

    Args:
      backend, precision: of the path that the last call took, such as "packed" and "bf16"; empty before the first.
      tried: by shape of the images, what came of every path; empty for a remembered choice.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Tensor | None,
        *,
        precision: PrecisionOrAuto,
        max_changed: float,
        compile: bool,
        cache: str | Path | None,
    ):
        super().__init__()
        if not 0 <= max_changed <= 1:
            raise ValueError(f"max_changed is {max_changed}; give a share from 0 to 1.")
        if calibration is not None:
            _check_calibration(calibration)
        self.model, self.device = model.eval(), next(model.parameters()).device
        devices.prepare(self.device)
        self.calibration, self.max_changed = calibration, max_changed
        self.cache = None if cache is None else Path(cache)
        self.names = paths.paths_for(
            self.device,
            devices.resolve_precision(precision, self.device),
            has_calibration=calibration is not None,
            compile=compile,
        )
        self.backend = self.precision = ""
        self.tried: dict[tuple[int, ...], dict[str, Tried]] = {}
        self._facts = self._all_facts()
        self._built: dict[str, paths.Forward] = {}
        self._chosen: dict[tuple[int, ...], str] = {}
        self.eval()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """float [B, c, H, W] -> logits float32 [B, K]."""
        if not len(images):
            return self.model(images).float()
        shape = (1 << (len(images) - 1).bit_length(), *images.shape[1:])
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(shape, images)
            self._built = {name: path for name, path in self._built.items() if name in self._chosen.values()}
        name = self._chosen[shape]
        self.backend, self.precision = name.split()
        return self._path(name)(images)

    def _choose(self, shape: tuple[int, ...], images: Tensor) -> str:
        key = hashlib.sha256(f"{shape} {self._facts}".encode()).hexdigest()[:24]
        name = self._remembered().get(key)
        if name in self.names and self._check(name, images).problem is None:
            return name
        tried = {name: self._check(name, images) for name in self.names}
        usable = [name for name, result in tried.items() if result.problem is None]
        seconds = in_turns([self._path(name) for name in usable], images) if usable else []
        tried |= {name: tried[name]._replace(seconds=s) for name, s in zip(usable, seconds, strict=True)}
        self.tried[shape] = tried
        self.names = usable  # what failed once is not tried again
        best = min(usable, key=lambda name: tried[name].seconds or 0.0, default=LAST_RESORT)
        self._remember(key, best)
        return best

    def _check(self, name: str, images: Tensor) -> Tried:
        """Compares a path with the model in float32 on a few of the images."""
        some = images[:CHECKED_IMAGES]
        try:
            found = self._path(name)(some)
        except Exception as error:  # whatever is wrong with a path, there is another
            return Tried(problem=" ".join(str(error).split())[:200] or type(error).__name__)
        differs = paths.difference(found, self.model(some).float())
        tolerance = paths.TOLERANCE[name.split()[1]]
        problem = None if differs <= tolerance else f"differs by {differs:.2g} of the largest logit"
        return Tried(difference=differs, problem=problem)

    def _path(self, name: str) -> paths.Forward:
        if name not in self._built:
            self._built[name] = self._gated(paths.build(name, self.model, self.calibration), name)
        return self._built[name]

    def _gated(self, path: paths.Forward, name: str) -> paths.Forward:
        if name.endswith("int8") and self.calibration is not None:
            changed = [(path(x).argmax(1) != self.model(x).argmax(1)) for x in self.calibration.split(32)]
            share = float(torch.cat(changed).float().mean())
            if share > self.max_changed:
                raise ValueError(f"changes the answer for {share:.1%} of the calibration images")
        return path

    def _all_facts(self) -> str:
        """Everything but the shape that a choice depends on."""
        sizes = [(name, tuple(p.shape), str(p.dtype)) for name, p in self.model.named_parameters()]
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else devices.cpu_name()
        versions = (torch.__version__, version("mixonomy"))
        return repr((str(self.model), sizes, where, torch.get_num_threads(), self.names, self.max_changed, versions))

    def _remembered(self) -> dict[str, str]:
        try:
            found = json.loads(self.cache.read_text()) if self.cache is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, key: str, name: str) -> None:
        if self.cache is None:
            return
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            partial = self.cache.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps({**self._remembered(), key: name}, indent=1))
            partial.replace(self.cache)
        except OSError as error:  # it is tuned again next time
            warnings.warn(f"the choice cannot be kept in {self.cache} ({error.strerror})", stacklevel=2)


def in_turns(calls: list[Callable[[Tensor], Tensor]], images: Tensor) -> list[float]:
    """Median seconds of each, in turns, so that a disturbance meets all alike; of a turn its later half counts."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call(images)
    start = time.perf_counter()
    while len(seconds[0]) < TIMED_TURNS and (len(seconds[0]) < 2 or time.perf_counter() - start < TIMED_S * len(calls)):
        for call, so_far in zip(calls, seconds, strict=True):
            turn = [_seconds_of(call, images)]
            while sum(turn) < TURN_S:
                turn.append(_seconds_of(call, images))
            so_far.append(median(turn[len(turn) // 2 :]))
    return [median(each) for each in seconds]


def _seconds_of(call: Callable[[Tensor], Tensor], images: Tensor) -> float:
    begun = time.perf_counter()
    call(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _check_calibration(images: Tensor) -> None:
    if not images.is_floating_point() or images.ndim != 4:
        raise ValueError(f"calibration is {images.dtype} {list(images.shape)}; give float images [N, c, H, W].")
    if len(images) < MIN_CALIBRATION:
        raise ValueError(f"calibration has {len(images)} images; give at least {MIN_CALIBRATION}.")
