"""The one training loop: a recipe in, a run folder out. Fine-tuning is another recipe, not another loop."""

import copy
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixonomy import data, devices, optim, runs
from mixonomy.checkpoint import Checkpoints, Progress, optimizer_tensors, restore_optimizers, under
from mixonomy.data.mix import mix
from mixonomy.data.stream import mix64
from mixonomy.durations import num_steps
from mixonomy.evals import Classification, Predictor, classify, normalise
from mixonomy.models import ModelInfo, create_from, info_of, load_weights, save_model, set_info
from mixonomy.preprocessing import Preprocessing
from mixonomy.progress import Console
from mixonomy.recipe import Recipe
from mixonomy.tracking import Trackers

LOG_STEPS = 10


class Interrupted(Exception):
    """Training was asked to stop, and has saved where it stands."""


@dataclass(frozen=True)
class Runtime:
    """What may differ between two starts of the same run, since it changes no numbers (the device: only rounding).

    Args:
      device: "auto", "cuda", "cuda:1", "mps" or "cpu".
      workers: processes that decode images that do not fit in memory; as many as cores if None.
      data_root: folder of the known data sets; $MIXONOMY_DATA if None.
      checkpoint_minutes: longest time between two checkpoints; there is one at each evaluation too.
      track: names of extra trackers, such as "tensorboard".
    """

    device: str = "auto"
    workers: int | None = None
    data_root: str | None = None
    checkpoint_minutes: float = 5.0
    track: tuple[str, ...] = ()


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Trains by the recipe, or goes on where the run in `out` stopped, or returns the result of a finished run.

    Args:
      recipe: the experiment.
      out: the run folder.
      model: a module of the user's own, images float [B, c, H, W] -> logits [B, K]; the recipe's model if None.
      command: how the run was started, for run.json.
    Returns:
      The scores on test data, and what the run cost; the content of result.json.
    Raises:
      ValueError: for a recipe that does not fit the data or the folder, and for a loss that is not finite.
      Interrupted: after Ctrl-C, once everything is saved.
    """
    runtime, console, folder = runtime or Runtime(), console or Console(quiet=True), runs.RunFolder(out)
    device = devices.resolve_device(runtime.device)
    devices.prepare(device)
    source = data.open_source(recipe.data.source, runtime.data_root)
    plan = data.plan_splits(source, recipe.data.val_share)
    preprocessing = _preprocessing(recipe, source.channels)
    num_classes = len(source.class_names)
    torch.manual_seed(recipe.seed)
    is_own = model is not None
    if model is None:
        model = create_from(
            recipe.model, num_classes=num_classes, image_size=recipe.height_width, in_channels=source.channels
        )
    facts = {
        "model": type(model).__name__,
        "params": sum(p.numel() for p in model.parameters()),
        "images": len(plan.train),
        "classes": num_classes,
    }

    if folder.exists():
        folder.check_same(recipe, facts)
        if (result := folder.result()) is not None:
            console.say(f"{folder.path} is finished; this is its result.")
            return result
        precision: devices.Precision = folder.info()["precision"]
    else:
        precision = devices.resolve_precision(recipe.precision, device)
        start = {"recipe": json.loads(recipe.model_dump_json()), "facts": facts, "precision": precision}
        folder.start({**start, "device": str(device), "command": command, **runs.environment()})

    arguments = {} if is_own else info_of(model).arguments
    set_info(model, ModelInfo(arguments, preprocessing, source.class_names, recipe.loss, precision))
    total = num_steps(recipe.duration, batch_size=recipe.batch_size, num_examples=len(plan.train))
    every = num_steps(recipe.eval_every, batch_size=recipe.batch_size, num_examples=len(plan.train))
    console.say(
        f"{recipe.name}: {recipe.model.name if not is_own else facts['model']}, {facts['params']:,} parameters, "
        f"{source.name}: {plan.describe()}, {total:,} steps of {recipe.batch_size}, {precision} on {device}"
    )
    model.to(device)
    training = _Training(recipe, model, preprocessing, num_classes, device, precision, total)
    workers = data.default_workers() if runtime.workers is None else runtime.workers
    batches = data.train_data(
        plan.train, recipe.augment, preprocessing, seed=recipe.seed, device=device, workers=workers
    )
    val = data.EvalData(plan.val, preprocessing, workers=workers) if plan.val else None
    checkpoints = Checkpoints(folder.checkpoints)
    progress = training.restore(checkpoints, console)
    best = training.best

    def save(progress: Progress) -> None:
        _check_disk(folder.path, training.num_bytes)
        checkpoints.save(training.tensors(), progress)

    with (
        Trackers(folder.path, progress.log_bytes, runtime.track) as trackers,
        console.progress(total, progress.step) as meter,
        _stop_on_ctrl_c() as stop,
    ):
        stream = batches.batches(progress.seen, recipe.batch_size)
        losses: list[Tensor] = []
        saved_at = clock = time.monotonic()
        logged = progress
        while progress.step < total:
            losses.append(training.step(next(stream), progress.step))
            now = time.monotonic()
            progress = replace(
                progress,
                step=progress.step + 1,
                seen=progress.seen + recipe.batch_size,
                seconds=progress.seconds + now - clock,
            )
            clock = now
            is_eval = progress.step % every == 0 or progress.step == total
            is_save = is_eval or stop.is_set() or now - saved_at > 60 * runtime.checkpoint_minutes
            if is_save or progress.step % LOG_STEPS == 0:
                loss = _mean_of_finite(losses, progress.step, folder)
                row = {
                    "step": progress.step,
                    "seen": progress.seen,
                    "epoch": progress.seen / len(plan.train),
                    "loss": loss,
                }
                speed = (progress.seen - logged.seen) / max(progress.seconds - logged.seconds, 1e-9)
                row |= {
                    "lr": training.lr(progress.step - 1),
                    "images_per_s": speed,
                    "seconds": progress.seconds,
                }
                trackers.write(row)
                meter.update(progress.step, f"loss {loss:.3f}  {speed:,.0f} images/s")
                losses, logged = [], progress
            if is_eval and val is not None:
                scores = dict(training.evaluate(val).scores())
                trackers.write({"step": progress.step} | {f"val/{name}": value for name, value in scores.items()})
                console.say(
                    f"epoch {progress.seen / len(plan.train):.1f}: loss {loss:.3f}, "
                    f"validation top-1 {scores['top1']:.2%}, {speed:,.0f} images/s"
                )
                if recipe.keep == "best" and (progress.best_top1 is None or scores["top1"] > progress.best_top1):
                    progress = replace(progress, best_top1=scores["top1"], best_step=progress.step)
                    best = training.remember_best()
            if is_save:
                progress = replace(progress, log_bytes=trackers.flush())
                save(progress)
                saved_at = time.monotonic()
            if stop.is_set() and progress.step < total:
                checkpoints.wait()
                raise Interrupted(
                    f"stopped after step {progress.step} of {total}, all saved; the same command goes on from there."
                )
            clock = time.monotonic()
        checkpoints.wait()

    trained = training.averaged
    if best is not None:
        load_weights(trained, best, "the best checkpoint")
    scored = training.evaluate(data.EvalData(plan.test, preprocessing, workers=workers))
    save_model(trained, folder.model)
    worst = [{**vars(m), "name": plan.test.names[m.index]} for m in scored.worst()]
    runs.write_json(folder.test, {**scored.to_dict(), "worst": worst, "split": plan.test_name})
    result = {
        **dict(scored.scores()),
        "split": plan.test_name,
        "val_top1": progress.best_top1,
        "best_step": progress.best_step,
        "steps": total,
        "seen": progress.seen,
        "params": facts["params"],
        "images_per_s": progress.seen / progress.seconds,
        "seconds": progress.seconds,
        "model": recipe.model.name if not is_own else facts["model"],
        "data": recipe.data.source,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "out": str(folder.path),
    }
    folder.finish(result)
    checkpoints.clear()
    return result


class _Training:
    """The things that a step changes: model, average, optimizers; and how a step and an evaluation are done."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        preprocessing: Preprocessing,
        num_classes: int,
        device: torch.device,
        precision: devices.Precision,
        total: int,
    ):
        self.recipe, self.model, self.preprocessing = recipe, model, preprocessing
        self.num_classes, self.device, self.total = num_classes, device, total
        self.precision: devices.Precision = precision
        self.warmup = num_steps(
            recipe.optim.warmup,
            batch_size=recipe.batch_size,
            num_examples=recipe.batch_size,
            total_steps=total,
        )
        self.optimizers = optim.make_optimizers(model, recipe.optim)
        self.average = copy.deepcopy(model).requires_grad_(False) if recipe.optim.ema else None
        self.best: dict[str, Tensor] | None = None
        self.forward = _compiled(model) if recipe.compile else model

    @property
    def averaged(self) -> nn.Module:
        """The module whose weights count: the average where there is one."""
        return self.average if self.average is not None else self.model

    def lr(self, step: int) -> float:
        """The learning rate of a step (of the first optimizer)."""
        return self.recipe.optim.lr * self._factor(step)

    def step(self, batch: data.Batch, step: int) -> Tensor:
        """One optimizer step; returns the loss, still on the device."""
        config = self.recipe.optim
        # Dropout and stochastic depth are pure functions of (seed, step), so a resumed run repeats them.
        torch.manual_seed(int(mix64(np.array([self.recipe.seed << 32 | step], dtype=np.uint64))[0] >> np.uint64(1)))
        optim.set_lr(self.optimizers, self._factor(step))
        images = normalise(batch.images.to(self.device, non_blocking=True), self.preprocessing)
        labels = batch.labels.to(self.device, non_blocking=True)
        targets = optim.soft_targets(labels, self.num_classes, self.recipe.label_smoothing)
        images, targets = mix(images, targets, batch.keys, self.recipe.augment)
        self.model.train()
        loss_sum = torch.zeros((), device=self.device)
        pieces = config.accumulate
        for x, y in zip(images.chunk(pieces), targets.chunk(pieces), strict=True):
            with devices.autocast(self.device, self.precision):
                logits = self.forward(x)
            loss = optim.classification_loss(logits, y, self.recipe.loss) / pieces
            loss.backward()
            loss_sum += loss.detach()
        if config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                    list(self.average.parameters()), list(self.model.parameters()), 1.0 - config.ema
                )
                for mean, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                    mean.copy_(buffer)
        return loss_sum

    def evaluate(self, images: data.EvalData) -> Classification:
        """Scores a split with the weights that count."""
        predictor = Predictor(self.averaged, self.preprocessing, self.device, self.precision, self.recipe.loss)
        return classify(predictor, images.batches(), self.num_classes)

    def remember_best(self) -> dict[str, Tensor]:
        """Keeps a copy of the weights that count."""
        self.best = {name: t.detach().to("cpu", copy=True) for name, t in self.averaged.state_dict().items()}
        return self.best

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.model, self.optimizers),
        }
        parts |= {"average": self.average.state_dict()} if self.average is not None else {}
        parts |= {"best": self.best} if self.best is not None else {}
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def restore(self, checkpoints: Checkpoints, console: Console) -> Progress:
        """Goes back to the newest whole checkpoint, or stays at the start."""
        found = checkpoints.newest()
        if found is None:
            return Progress()
        tensors, progress, damaged = found
        for problem in damaged:
            console.say(f"{problem}; the checkpoint before it is taken.")
        load_weights(self.model, under("model", tensors), "the checkpoint")
        if self.average is not None:
            load_weights(self.average, under("average", tensors), "the checkpoint")
        restore_optimizers(under("optimizer", tensors), self.model, self.optimizers)
        self.best = under("best", tensors) or None
        console.say(f"going on from step {progress.step} of {self.total}")
        return progress

    @property
    def num_bytes(self) -> int:
        """Size of a checkpoint."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def _factor(self, step: int) -> float:
        config = self.recipe.optim
        return optim.lr_factor(step, total=self.total, warmup=self.warmup, schedule=config.schedule, end=config.end)


def _preprocessing(recipe: Recipe, channels: int) -> Preprocessing:
    half = (0.5,) * channels
    return Preprocessing(
        recipe.height_width,
        channels=channels,
        crop=recipe.data.eval_crop,
        resize=recipe.data.eval_resize,
        mean=half,
        std=half,
    )


def _compiled(model: nn.Module) -> Any:
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise ValueError("compile=True needs a C++ compiler (g++ or clang++), and none is found; install one.")
    return torch.compile(model)


def _mean_of_finite(losses: list[Tensor], step: int, folder: runs.RunFolder) -> float:
    """The mean loss of the last steps.

    Raises:
      ValueError: naming the first step whose loss was not finite.
    """
    values = torch.stack(losses).tolist()
    for i, value in enumerate(values):
        if not np.isfinite(value):
            raise ValueError(
                f"the loss became {value} at step {step - len(values) + 1 + i}; the last good checkpoint is kept in "
                f"{folder.checkpoints}. A lower --lr, --optim.clip 1 or --precision fp32 usually helps."
            )
    return sum(values) / len(values)


def _check_disk(path: Path, num_bytes: int) -> None:
    """Refuses to begin a checkpoint that will not fit."""
    free = shutil.disk_usage(path).free
    if free < 1.05 * num_bytes:
        raise ValueError(
            f"the disk of {path} has {free / 1e6:.0f} MB left and a checkpoint needs {num_bytes / 1e6:.0f} MB; "
            f"make room, then the same command goes on."
        )


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the step is finished and saved; the second stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        print(
            "\nfinishing this step and saving; Ctrl-C again stops at once, back to the last checkpoint",
            file=sys.stderr,
        )

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
