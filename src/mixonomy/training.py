"""The one training loop: a recipe in, a run folder out. Fine-tuning is another recipe, not another loop."""

import json
import shutil
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixonomy import data, devices, parallel, runs
from mixonomy.checkpoint import Checkpoints, Progress
from mixonomy.durations import num_steps
from mixonomy.experiment import Opened, Runtime, Setup, set_up
from mixonomy.models import ModelInfo, TrainedOn, info_of, save_model, set_info
from mixonomy.probing import probe
from mixonomy.progress import Console
from mixonomy.recipe import Recipe
from mixonomy.stopping import Interrupted, stop_on_signals
from mixonomy.tracking import Trackers
from mixonomy.train_state import TrainState

LOG_STEPS = 10
FEW_IMAGES = 20_000  # of which a pre-trained start learns more; BiT's hyper-rule calls such data sets small
HEADLINES = {"top1": "top-1", "map": "mean average precision"}
REMEDY = "A lower --lr, --optim.clip 1 or --precision fp32 usually helps."


class Diverged(ValueError):
    """The loss or the weights are no finite numbers any more.

    Args:
      what: happened, and when.
      kept: where the last good checkpoint is, if it is kept.
      seconds: of training until then.
    """

    def __init__(self, what: str, kept: Path | None = None, seconds: float = 0.0):
        super().__init__(what if kept is None else f"{what}; the last good checkpoint is kept in {kept}. {REMEDY}")
        self.what, self.seconds = what, seconds


@dataclass(frozen=True)
class Lengths:
    """What a recipe's durations are in steps; `patience` is None without early stopping."""

    total: int
    every: int
    warmup: int
    freeze: int
    probe_every: int
    patience: int | None

    @classmethod
    def of(cls, recipe: Recipe, num_images: int) -> "Lengths":
        """Of so many training images.

        Raises:
          ValueError: for a warm-up longer than the training, or a frozen start as long.
        """
        length = {"batch_size": recipe.batch_size, "num_examples": num_images}
        total, every = num_steps(recipe.duration, **length), num_steps(recipe.eval_every, **length)
        warmup = num_steps(recipe.optim.warmup, **length, total_steps=total)
        if warmup > total:
            raise ValueError(
                f"the warm-up of {warmup} steps is longer than the training of {total}; shorten it, as by "
                f'--optim.warmup "10 %".'
            )
        freeze = 0 if recipe.freeze is None else num_steps(recipe.freeze, **length, total_steps=total)
        if freeze >= total:
            raise ValueError(f"freeze is {freeze} steps and the training {total}; shorten it, or give --tune head.")
        probe_every = every if recipe.probe.every is None else num_steps(recipe.probe.every, **length)
        patience = None if recipe.early_stop is None else num_steps(recipe.early_stop, **length)
        return cls(total, every, warmup, freeze, probe_every, patience)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
    is_trial: bool = False,
    also: dict[str, Any] | None = None,
    opened: Opened | None = None,
) -> dict[str, Any]:
    """Trains by the recipe, or goes on where the run in `out` stopped, or returns the result of a finished run.

    Under torchrun all its processes call this, and share the work; the first one reads and writes the folder.

    Args:
      recipe: the experiment.
      out: the run folder.
      model: a module of the user's own, images float [B, c, H, W] -> logits [B, K]; the recipe's model if None.
      command: how the run was started, for run.json.
      is_trial: whether the validation images are scored at the end in place of the test images, which stay unseen.
      also: what result.json holds beside the scores.
      opened: the recipe's data, where it is open already.
    Returns:
      The scores on test data, and what the run cost; the content of result.json.
    Raises:
      ValueError: for a recipe that does not fit the data or the folder.
      Diverged: where the loss or the weights are no finite numbers any more.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    runtime, console, folder = runtime or Runtime(), console or Console(quiet=True), runs.RunFolder(out)
    if parallel.launched_rank():
        console = Console(quiet=True)
    device = devices.resolve_device(runtime.device)
    with parallel.started(device), ExitStack() as until_the_end:
        return _train(recipe, folder, model, runtime, console, command, is_trial, also or {}, opened, until_the_end)


def _train(
    recipe: Recipe,
    folder: runs.RunFolder,
    model: nn.Module | None,
    runtime: Runtime,
    console: Console,
    command: str,
    is_trial: bool,
    also: dict[str, Any],
    opened: Opened | None,
    until_the_end: ExitStack,
) -> dict[str, Any]:
    if (result := parallel.first(lambda: _result_without_data(folder, recipe, model, is_trial))) is not None:
        return _finished(folder, result, console)
    with parallel.together():
        setup = set_up(recipe, runtime, model, opened)
    for note in setup.notes:
        console.say(note)
    device, source, plan, preprocessing = setup.device, setup.source, setup.plan, setup.preprocessing
    if is_trial:
        if plan.val is None:
            raise ValueError(
                f"{source.name} has no validation images here, by which to compare values; give --data.val-share."
            )
        plan = replace(plan, test=plan.val, test_name="val")
    model, name, arguments, workers = setup.model, setup.name, setup.arguments, setup.workers
    num_classes = len(source.class_names)
    facts = {
        "model": name,
        "params": sum(p.numel() for p in model.parameters()),
        "images": len(plan.train),
        "classes": num_classes,
        "data": source.digest(),
        **({} if setup.init is None else {"init_sha256": setup.init}),
        **({"is_trial": True} if is_trial else {}),
    }

    def begun() -> tuple[dict[str, Any] | None, devices.Precision]:
        """The result of a finished run, or the precision of one that begins or goes on."""
        until_the_end.enter_context(folder.locked())
        if folder.has_progress():
            folder.check_same(recipe, facts)
            return folder.result(), folder.info()["precision"]
        precision = devices.resolve_precision(recipe.precision, device)
        start = {"recipe": json.loads(recipe.model_dump_json()), "facts": facts, "precision": precision}
        start |= {"device": str(device), "ranks": parallel.size(), "command": command}
        folder.start({**start, **runs.environment()})
        return None, precision

    with parallel.together():
        if parallel.share(facts) != facts:
            raise ValueError("the data or the weights to start from are others here than for the first rank.")
    result, precision = parallel.first(begun)
    if result is not None:
        return _finished(folder, result, console)
    set_info(
        model,
        ModelInfo(
            arguments,
            preprocessing,
            source.class_names,
            setup.loss,
            precision,
            TrainedOn(
                recipe.data.source,
                recipe.data.val_share,
                facts["data"],
                recipe.data.train_on_val,
                recipe.data.train_images,
            ),
            thresholds=(0.5,) * num_classes if source.is_multilabel else (),
        ),
    )

    with parallel.together():
        length = Lengths.of(recipe, len(plan.train))
        other = None if recipe.probe.source is None else data.open_source(recipe.probe.source, runtime.data_root)
        if length.patience is not None and plan.val is None:
            raise ValueError("early_stop needs validation data; give --data.val-share, or leave early_stop out.")
    total = length.total
    with parallel.together():
        images = setup.train_data(recipe)
    spread = "" if parallel.size() == 1 else f", {parallel.size()} ranks ({'FSDP2' if recipe.optim.shard else 'DDP'})"
    images_of = f"{len(plan.train):,} training and {len(plan.test):,} held-out images" if is_trial else plan.describe()
    console.say(
        f"{recipe.name}: {facts['model']}, {facts['params']:,} parameters, {source.name}: {images_of}, "
        f"{images.kind}, {total:,} steps of {recipe.batch_size}, {precision} on {device}{spread}"
    )
    if arguments and recipe.init is None and source.channels == 3 and len(plan.train) < FEW_IMAGES:
        console.say(
            f"from scratch: on {len(plan.train):,} images a trained model is a better start, as with --init "
            f"timm:mixer_b16_224.goog_in21k or a run of your own on more images; see `mixonomy list weights`"
        )
    val = data.EvalData(plan.val, preprocessing, workers=workers, bad=setup.bad) if plan.val else None
    with parallel.together():
        state = setup.state(recipe, precision, total, length.warmup, length.freeze)
    checkpoints = Checkpoints(folder.checkpoints)
    until_the_end.callback(checkpoints.wait)  # a checkpoint that was begun is finished, whatever happens
    progress = state.restore(checkpoints, console)
    setup.bad.errors |= progress.bad_images
    if not arguments and not progress.step and not parallel.rank():  # weights that no seed can bring back
        checkpoints.save(state.tensors(), progress)
        checkpoints.wait()
    if arguments and device.type == "cpu" and not recipe.compile and not parallel.rank():  # a GPU may lack the memory
        minutes = state.expected_seconds(total - progress.step) / 60
        console.say(
            "about " + (f"{minutes:,.0f} minutes" if minutes >= 1.5 else "a minute or less") + " on this machine"
        )

    state.distribute()

    def opened_trackers() -> AbstractContextManager[Trackers | None]:
        if parallel.rank():
            return nullcontext()
        of_recipe = recipe.model_dump(mode="json")
        at = progress.step + 1
        return Trackers(folder.path, progress.log_bytes, runtime.track, next_step=at, recipe=of_recipe)

    with parallel.together():
        trackers_of_first = opened_trackers()
    with (
        trackers_of_first as trackers,
        console.progress(total, progress.step) as meter,
        stop_on_signals() as stop,
        closing(images.batches(progress.seen, recipe.batch_size)) as batches,
    ):
        losses: list[Tensor] = []
        mean_loss = 0.0
        begin, logged, saved_at = progress.step, progress, time.monotonic()
        logged_epoch = progress.seen // len(plan.train)
        is_mixed = bool(recipe.augment.mixup or recipe.augment.cutmix_prob)
        clock = time.monotonic()
        while progress.step < total and not _has_waited(progress, length.patience):
            drawn = data.draw(
                batches,
                is_mixed=is_mixed,
                is_stopping=stop.is_set,
                is_save_due=lambda at=saved_at: time.monotonic() - at > 60 * runtime.checkpoint_minutes,
            )
            if drawn.batch is not None:
                if _count(drawn.batch):
                    # A model that does not fit the data says so at once; later steps need no such exchange.
                    with parallel.together() if progress.step == begin else nullcontext():
                        losses.append(state.step(drawn.batch, progress.step))
                progress = replace(progress, step=progress.step + 1, seen=progress.seen + recipe.batch_size)
            # Read once: what is said to be saved is saved. Several ranks stop together, before a step.
            is_stop = drawn.batch is None or (parallel.size() == 1 and stop.is_set())
            is_new = drawn.batch is not None
            is_eval = is_new and (progress.step % length.every == 0 or progress.step == total)
            is_probe = (
                is_new and other is not None and (progress.step % length.probe_every == 0 or progress.step == total)
            )
            is_save = is_eval or is_stop or drawn.is_save_due
            if is_save or is_probe or progress.step % LOG_STEPS == 0:
                if losses:  # waits for the device, so the time is true
                    with parallel.together():
                        mean_loss = _mean_of_finite(losses, progress, clock, folder)
                progress = replace(progress, seconds=progress.seconds + max(time.monotonic() - clock, 1e-9))
                epoch = progress.seen / len(plan.train)
                if progress.step > logged.step:
                    speed = (progress.seen - logged.seen) / (progress.seconds - logged.seconds)
                    row = {"step": progress.step, "seen": progress.seen, "epoch": epoch, "loss": mean_loss}
                    row |= {"lr": state.lr, "images_per_s": speed, "seconds": progress.seconds}
                    _write(trackers, row)
                    meter.update(progress.step, f"loss {mean_loss:.3f}  {speed:,.0f} images/s")
                losses, logged = [], progress
                if is_eval and val is not None:
                    with parallel.together():
                        checkpoints.wait()  # no process is forked while a thread writes
                        scored = state.evaluate(val)
                    scores = parallel.share(dict(scored.scores()))
                    _write(trackers, {"step": progress.step} | {f"val/{name}": of for name, of in scores.items()})
                    new = scores[scored.headline]
                    said = f"validation {HEADLINES[scored.headline]} {new:.2%}"
                    console.say(f"epoch {epoch:.1f}: loss {mean_loss:.3f}, {said}, {speed:,.0f} images/s")
                    # Of equal scores the later counts: few validation images cannot tell them apart.
                    is_better = progress.best_score is None or new >= progress.best_score
                    if is_better and recipe.keep == "best":
                        state.remember_best()
                    if is_better or recipe.keep == "last":
                        progress = replace(progress, best_score=new, best_step=progress.step)
                if is_probe and other is not None:
                    with parallel.together():
                        checkpoints.wait()
                        scores = _probed(state, other, recipe, runtime, workers)
                    _write(trackers, {"step": progress.step} | {f"probe/{name}": value for name, value in scores})
                if is_save:
                    setup.bad.share()
                    progress = replace(progress, bad_images=dict(setup.bad.errors))
                    progress = _saved(checkpoints, state, progress, trackers, folder)
                    saved_at = time.monotonic()
                if is_eval or progress.seen // len(plan.train) > logged_epoch:
                    _check_bad(setup, recipe)
                    logged_epoch = progress.seen // len(plan.train)
                clock = time.monotonic()  # evaluation and saving are not training
            if is_stop and progress.step < total:
                with parallel.together():
                    checkpoints.wait()
                where = f"step {progress.step} of {total}"
                raise Interrupted(
                    f"stopped after {where}, all saved; the same command goes on from there.",
                    is_preempted=any(parallel.gather(stop.is_preempted)),
                )
        with parallel.together():
            checkpoints.wait()

    if progress.step < total:
        said = f"no better validation score for {recipe.early_stop}"
        console.say(f"stopped early after step {progress.step:,} of {total:,}: {said}")
    state.gather()
    state.take_best()
    with parallel.together():
        on_val = state.calibrate(val)
    info = replace(info_of(model), temperature=state.temperature, thresholds=state.thresholds)
    set_info(state.averaged, info)
    with parallel.together():
        scored = state.evaluate(data.EvalData(plan.test, preprocessing, workers=workers, bad=setup.bad))
    _check_bad(setup, recipe)
    if setup.bad.errors:
        console.say(f"{len(setup.bad.errors):,} images could not be read and were left out; result.json names them.")
    tested = runs.with_names(scored.to_dict(), plan.test.names)
    if plan.val is not None:
        on_val = runs.with_names(on_val, plan.val.names)
    about = {"split": plan.test_name, "train_counts": plan.train.counts(num_classes).tolist()}
    result = {
        **dict(scored.scores()),
        "split": plan.test_name,
        f"val_{scored.headline}": progress.best_score,
        "best_step": progress.best_step,
        "temperature": state.temperature,
        "bad_images": [{"name": name, "error": error} for name, error in sorted(setup.bad.errors.items())],
        "steps": progress.step,
        "seen": progress.seen,
        "params": facts["params"],
        "images_per_s": progress.seen / progress.seconds,
        "seconds": progress.seconds,
        "model": facts["model"],
        "data": recipe.data.source,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "out": str(folder.path),
        **also,
    }

    def finish() -> None:
        save_model(state.averaged, folder.model)
        runs.write_json(folder.test, {**tested, **on_val, **about})
        folder.finish(result)
        checkpoints.keep_newest()

    parallel.first(finish)
    return parallel.share(result)


def _result_without_data(
    folder: runs.RunFolder, recipe: Recipe, model: nn.Module | None, is_trial: bool
) -> dict[str, Any] | None:
    """The result of a finished run, where that needs no data; None of another."""
    if not is_trial and folder.has_progress():
        folder.check_no_trial()
    if model is not None or not folder.exists() or (result := folder.result()) is None:
        return None
    folder.check_recipe(recipe)
    return result


def _check_bad(setup: Setup, recipe: Recipe) -> None:
    """See `Setup.check_bad`; of the images that any rank has found."""
    setup.bad.share()
    with parallel.together():
        setup.check_bad(recipe)


def _count(batch: data.Batch) -> int:
    """Images of the whole batch that can be read."""
    return len(batch.labels) if batch.whole is None else batch.whole.count


def _write(trackers: Trackers | None, row: dict[str, Any]) -> None:
    """Writes a row, on the rank that writes."""
    with parallel.together():
        if trackers is not None:
            trackers.write(row)


def _saved(
    checkpoints: Checkpoints,
    state: TrainState,
    progress: Progress,
    trackers: Trackers | None,
    folder: runs.RunFolder,
) -> Progress:
    """Begins a checkpoint, on the rank that writes; returns what it says of progress."""
    tensors = state.tensors()

    def save() -> Progress:
        assert trackers is not None, "the first rank has them"
        _check_finite(tensors, progress, folder)
        _check_disk(folder.path, tensors)
        logged = replace(progress, log_bytes=trackers.flush())
        checkpoints.save(tensors, logged, are_copies=state.tensors_are_copies)
        return logged

    return parallel.first(save)


def _probed(
    state: TrainState, other: data.Source, recipe: Recipe, runtime: Runtime, workers: int
) -> list[tuple[str, float]]:
    """Few-shot scores of the weights that count, on other data."""
    bad, shots = data.BadImages(recipe.data.on_bad_image), recipe.probe.shots
    test_images = recipe.probe.test_images
    found = probe(
        state.usable(), other, shots=shots, device=runtime.device, workers=workers, bad=bad, test_images=test_images
    )
    return parallel.share(list(found.scores()))


def _has_waited(progress: Progress, patience: int | None) -> bool:
    """Whether validation data has not scored better for so many steps; a function of the checkpoint alone."""
    if patience is None or progress.best_step is None:
        return False
    return progress.step - progress.best_step >= patience


def _finished(folder: runs.RunFolder, result: dict[str, Any], console: Console) -> dict[str, Any]:
    console.say(f"{folder.path} is finished; this is its result.")
    parallel.first(Checkpoints(folder.checkpoints).keep_newest)
    return result


def _mean_of_finite(losses: list[Tensor], progress: Progress, clock: float, folder: runs.RunFolder) -> float:
    """The mean loss of the last steps.

    Args:
      clock: since when the seconds of `progress` do not count yet, see `time.monotonic`.
    Raises:
      Diverged: naming the first step whose loss was not finite.
    """
    values = parallel.summed(torch.stack(losses)).tolist()
    for i, value in enumerate(values):
        if not np.isfinite(value):
            seconds = progress.seconds + time.monotonic() - clock
            what = f"the loss became {value} at step {progress.step - len(values) + 1 + i}"
            raise Diverged(what, folder.checkpoints, seconds)
    return sum(values) / len(values)


def _check_finite(tensors: dict[str, Tensor], progress: Progress, folder: runs.RunFolder) -> None:
    """Refuses to save weights that the last update made useless: a good checkpoint would make room for them."""
    for name, tensor in tensors.items():
        if name.startswith(("model/", "average/")) and tensor.is_floating_point() and not tensor.isfinite().all():
            what = f"the weights are no longer finite after step {progress.step} ({name})"
            raise Diverged(what, folder.checkpoints, progress.seconds)


def _check_disk(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuses to begin a checkpoint that will not fit."""
    free, needed = shutil.disk_usage(path).free, sum(t.numel() * t.element_size() for t in tensors.values())
    if free < 1.05 * needed:
        raise ValueError(
            f"the disk of {path} has {free / 1e6:.0f} MB left and a checkpoint needs {needed / 1e6:.0f} MB; "
            f"make room, then the same command goes on."
        )
