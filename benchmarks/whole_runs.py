"""What it costs to reach an accuracy: our recipe, beside the same model trained by the parts that timm has for it.

    python benchmarks/whole_runs.py --runs runs/whole --data-root ../shared/data
    python benchmarks/whole_runs.py --data cifar10 --settings ours "timm, Muon"

Each setting is a process of its own, on one thread. They take turns of some seconds while the others stand still, so
that whatever disturbs the machine disturbs all alike, and each is charged the processor's time that it used itself,
with start, decoding, augmentation and the scoring of all test images after every epoch. What counts is the first epoch
that scores the target. The schedule, whose length is given beforehand, is the same for all, see TARGETS. Before that
the two models' logits are compared. Rows of a setting are written when it has ended, with those of its ratio to
ours; the same command goes on with those that have not, from their start.

Same for all: model, batch, pad-crop, flip, label smoothing, linear decay of the rate, and no cutmix, which pays in
longer trainings only. timm's parts: MlpMixer, create_loader, LabelSmoothingCrossEntropy, create_optimizer_v2 and
create_scheduler_v2, in bfloat16 autocast, where the processor has units for it, without torch.compile: its fastest
setting of this step (`benchmarks/train.py`). timm with Muon has our rates, with AdamW one of its own.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mixonomy import devices
from mixonomy.bench.peers import randomise, timm_twin
from mixonomy.data import open_source
from mixonomy.models import create_from
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from rows import RESULTS, Row, append, make_row, middle, origin

# Data -> (test top-1 to reach, epochs of the schedule, channels).
TARGETS = {"digits": (0.90, 4, 1), "fashion-mnist": (0.90, 6, 1), "cifar10": (0.80, 10, 3)}
OURS = "ours"
SETTINGS = (OURS, "timm, Muon", "timm, AdamW")
ADAMW: dict[str, Any] = {"lr": 2e-3, "weight_decay": 0.05}
TURN_S = 20.0
TOLERANCE = 1e-4  # of the largest logit, in float32
FOUND = "found.json"  # in the folder of a setting that has ended

Epochs = list[tuple[float, float]]
"""The processor's seconds since the start, and test top-1, after each epoch."""


def write_files(name: str, root: str | None, prefix: Path) -> None:
    """Train and test, and test under the name of val, too: so test images are scored after every epoch."""
    source = open_source(name, root)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    channels = {"channels": str(TARGETS[name][2])}
    for split, names in (("train", ("train",)), ("test", ("val", "test"))):
        part = source.splits[split]
        images = [image if isinstance(image, bytes) else _png(image) for image in part.images]
        labels = [source.class_names[int(label)] for label in part.labels]
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(channels)
        for called in names:
            pq.write_table(table, f"{prefix}_{called}.parquet")


def recipe_of(name: str, prefix: Path) -> Recipe:
    """The recipe of the data set's name, scored after every epoch."""
    recipe = load_recipe(name.replace("-", "_"))
    return changed(
        recipe,
        data={"source": str(prefix)},
        augment={"cutmix_prob": 0.0},
        duration=f"{TARGETS[name][1]} epochs",
        eval_every="1 epochs",
    )


def built(name: str, recipe: Recipe) -> torch.nn.Module:
    """Our model of a recipe with fresh weights."""
    torch.manual_seed(recipe.seed)
    size, channels = recipe.height_width, TARGETS[name][2]
    assert size is not None, "only fine-tuning has none"
    return create_from(recipe.model, num_classes=10, image_size=size, in_channels=channels)


def check_twin(name: str, recipe: Recipe) -> None:
    """Compares the logits of both libraries' models for the same weights.

    Raises:
      ValueError: if they differ.
    """
    model = built(name, recipe).eval()
    randomise(model, seed=0)
    images = torch.randn(8, TARGETS[name][2], *recipe.height_width or (), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(images), timm_twin(model)(images)
    differs = float((ours - theirs).abs().max() / ours.abs().max())
    if not differs <= TOLERANCE:
        raise ValueError(f"timm's model for {name} differs by {differs:.1e} of the largest logit; nothing was trained.")


def train_ours(name: str, prefix: Path, out: Path) -> None:
    """Notes the scores in metrics.jsonl of the run folder."""
    from mixonomy.training import train

    train(recipe_of(name, prefix), out, is_trial=True)


def train_timm(name: str, prefix: Path, out: Path, optimizer_name: str) -> None:
    """Notes the scores as ours does."""
    from timm.data.loader import create_loader
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.scheduler.scheduler_factory import create_scheduler_v2
    from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

    recipe, (_, epochs, channels) = recipe_of(name, prefix), TARGETS[name]
    model, size = timm_twin(built(name, recipe)), recipe.height_width
    assert size is not None and recipe.augment is not None
    device = torch.device("cpu")
    precision = devices.resolve_precision("auto", device)
    loaders: dict[str, Any] = {}
    for split in ("train", "val"):
        is_training = split == "train"
        images: Any = _Images(Path(f"{prefix}_{split}.parquet"))  # timm names its own classes, and takes any
        loaders[split] = create_loader(
            images,
            (channels, *size),
            recipe.batch_size if is_training else 500,
            is_training=is_training,
            use_prefetcher=False,
            num_workers=0,
            persistent_workers=False,
        )
        crops = [RandomCrop(size, padding=recipe.augment.pad), RandomHorizontalFlip()]
        plain = [ToTensor(), Normalize(0.5, 0.5)]
        images.transform = Compose([*crops, *plain] if is_training else plain)
    if optimizer_name == "Muon":
        lr, rest_lr = recipe.optim.lr, recipe.optim.rest_lr
        assert lr is not None and rest_lr is not None, "the recipes give both"
        same: dict[str, Any] = {"adjust_lr_fn": "original", "fallback_lr_scale": rest_lr / lr}  # as torch's Muon
        optimizer = create_optimizer_v2(model, "nmuon", lr=lr, weight_decay=recipe.optim.weight_decay, **same)
    else:
        optimizer = create_optimizer_v2(model, "adamw", **ADAMW)
    steps = len(loaders["train"])
    # A polynomial of degree 1 is linear.
    scheduler, _ = create_scheduler_v2(
        optimizer, "poly", num_epochs=epochs, decay_rate=1.0, warmup_epochs=1, warmup_prefix=False,
        step_on_epochs=False, updates_per_epoch=steps,
    )  # fmt: skip
    assert scheduler is not None
    loss_of = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    out.mkdir(parents=True, exist_ok=True)
    for epoch in range(epochs):
        model.train()
        for i, (images, labels) in enumerate(loaders["train"]):
            with devices.autocast(device, precision):
                logits = model(images)
            loss_of(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step_update(epoch * steps + i + 1)
        model.eval()
        with torch.no_grad(), devices.autocast(device, precision):
            right = [(model(images).argmax(1) == labels).float() for images, labels in loaders["val"]]
        with (out / "metrics.jsonl").open("a") as file:
            print(json.dumps({"epoch": epoch + 1, "val/top1": float(torch.cat(right).mean())}), file=file)


class _Images(torch.utils.data.Dataset[Any]):
    """Decoded images and labels in memory, as a data set that timm's loader takes."""

    def __init__(self, path: Path):
        columns = pq.read_table(path).to_pydict()
        names = sorted(set(columns["label"]))
        self.images = [Image.open(io.BytesIO(image)) for image in columns["image"]]
        for image in self.images:
            image.load()
        self.labels, self.transform = [names.index(label) for label in columns["label"]], None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        assert self.transform is not None, "create_loader sets one"
        return self.transform(self.images[index]), self.labels[index]


def in_turns(
    processes: Mapping[str, Any], scores: Mapping[str, Path], target: float, ended: Callable[[str, Epochs], None]
) -> list[str]:
    """Lets each run for TURN_S while the others stand still, until all have ended or reached the target.

    Args:
      ended: told of each setting when it has reached the target, or all its epochs.
    Returns:
      Settings that failed.
    """
    found: dict[str, Epochs] = {name: [] for name in processes}
    failed = []
    # By os.kill, not Popen's methods, which forget the times of a process that has ended.
    for process in processes.values():
        os.kill(process.pid, signal.SIGSTOP)
    running = dict(processes)
    while running:
        for name, process in list(running.items()):
            os.kill(process.pid, signal.SIGCONT)
            until = time.monotonic() + TURN_S
            has_ended = is_done = False
            while not (has_ended or is_done) and time.monotonic() < until:
                time.sleep(0.2)
                # Asked before its scores are read: then there are no more.
                has_ended = psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
                for top in _tops(scores[name])[len(found[name]) :]:
                    times = psutil.Process(process.pid).cpu_times()
                    found[name].append((times.user + times.system, top))
                    print(f"{name}: epoch {len(found[name])}, top-1 {top:.4f}, {found[name][-1][0]:.0f} s", flush=True)
                is_done = any(top >= target for _, top in found[name])
            if not (has_ended or is_done):
                os.kill(process.pid, signal.SIGSTOP)
                continue
            del running[name]
            process.kill()
            status = process.wait()
            if is_done or (status == 0 and found[name]):
                ended(name, found[name])
            else:
                print(f"{name} failed; see what it said above.", file=sys.stderr)
                failed.append(name)
    return failed


def rows_of(data: str, setting: str, found: Epochs) -> list[Row]:
    """Seconds until the target, if it was reached, and the last score."""
    epochs = TARGETS[data][1]
    seconds, at = reached(data, found)
    note = f"schedule of {epochs} epochs, " + ("not reached" if at is None else f"reached after {at}")
    each, spread = middle(epoch_seconds(found))
    about, where = _about(data, setting), origin()
    return [
        make_row(where, **about, metric="core_s", value=seconds, unit="s", n=1, note=note),
        make_row(where, **about, metric="core_s_per_epoch", value=each, spread=spread, unit="s", n=len(found)),
        make_row(where, **about, metric="top1", value=found[-1][1], unit="share", n=1),
    ]


def ratio_rows(data: str, done: Mapping[str, Mapping[str, Any]], settings: Sequence[str]) -> list[Row]:
    """How many times as long as ours a setting took to the target and, with the spread over epochs, for an epoch.

    Args:
      done: of ours and each of `settings` what FOUND holds, "commit" and "epochs"; a note names commits that differ.
    """
    rows, where = [], origin()
    ours = reached(data, done[OURS]["epochs"])[0]
    for setting in settings:
        each = done[setting]["epochs"]
        theirs = reached(data, each)[0]
        ratio = theirs / ours if theirs is not None and ours is not None else None
        missed = dict.fromkeys(name for name, seconds in ((OURS, ours), (setting, theirs)) if seconds is None)
        notes = [f"not reached by {' and '.join(missed)}"] if missed else []
        if done[setting]["commit"] != done[OURS]["commit"]:
            notes.append(f"at commit {done[setting]['commit']}, and ours at {done[OURS]['commit']}")
        note, about = "; ".join(notes) or None, _about(data, setting)
        rows.append(make_row(where, **about, metric="ratio_ours", value=ratio, unit="ratio", n=1, note=note))
        pairs = zip(epoch_seconds(each), epoch_seconds(done[OURS]["epochs"]), strict=False)  # one may have ended sooner
        ratios = [a / b for a, b in pairs]
        value, spread = middle(ratios)
        about |= {"value": value, "spread": spread, "n": len(ratios)}
        rows.append(make_row(where, **about, metric="ratio_ours_per_epoch", unit="ratio"))
    return rows


def reached(data: str, found: Epochs) -> tuple[float, int] | tuple[None, None]:
    """The processor's seconds and the number of epochs until the target; None twice if it was not reached."""
    target = TARGETS[data][0]
    return next(((seconds, epoch) for epoch, (seconds, top) in enumerate(found, 1) if top >= target), (None, None))


def epoch_seconds(found: Epochs) -> list[float]:
    """The processor's seconds of each epoch, of the first with the start."""
    return [after - before for before, after in pairwise([0.0, *(seconds for seconds, _ in found)])]


def _about(data: str, setting: str) -> dict[str, Any]:
    target, epochs, _ = TARGETS[data]
    return {"study": "whole_runs", "model": setting, "data": f"{data} to {100 * target:.0f} %, {epochs} epochs"}


def _tops(folder: Path) -> list[float]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["val/top1"] for line in lines if '"val/top1"' in line]


def _png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=TARGETS, default=["fashion-mnist", "cifar10"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/whole"))
    parser.add_argument("--results", type=Path, default=RESULTS / "whole_runs.jsonl")
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)  # what a process of a setting is called with
    options = parser.parse_args()
    if options.one is not None:
        [data] = options.data
        train_one(data, options.one, options.runs / data, _folder(options.runs, data, options.one))
        return 0
    failed = []
    for data in options.data:
        failed += compare(data, options.settings, options.runs, options.data_root, options.results)
    return 1 if failed else 0


def train_one(data: str, setting: str, prefix: Path, out: Path) -> None:
    """What the process of a setting does."""
    if setting == OURS:
        train_ours(data, prefix, out)
    else:
        train_timm(data, prefix, out, setting.partition(", ")[2])


def compare(data: str, settings: Sequence[str], runs: Path, data_root: str | None, results: Path) -> list[str]:
    """Trains each setting that has not ended, writes its rows, and those of its ratio to ours.

    Returns:
      Settings that failed.
    """
    outs = {name: _folder(runs, data, name) for name in settings}
    left = [name for name, out in outs.items() if not (out / FOUND).exists()]
    failed = []
    if left:
        write_files(data, data_root, runs / data)
        check_twin(data, recipe_of(data, runs / data))
        for name in left:
            shutil.rmtree(outs[name], ignore_errors=True)  # what was interrupted was not charged to the end

        def ended(name: str, found: Epochs) -> None:
            (outs[name] / FOUND).write_text(json.dumps({"commit": origin().commit, "epochs": found}))
            append(results, rows_of(data, name, found))
            done = {each: json.loads((out / FOUND).read_text()) for each, out in outs.items() if (out / FOUND).exists()}
            if OURS in done:  # of each pair when its second has ended: rows are not written again later
                append(results, ratio_rows(data, done, list(done) if name == OURS else [name]))

        shared = [sys.executable, __file__, "--runs", str(runs), "--data", data, "--one"]
        processes = {
            name: subprocess.Popen([*shared, name], env={**os.environ, "OMP_NUM_THREADS": "1"}) for name in left
        }
        try:
            failed = in_turns(processes, outs, TARGETS[data][0], ended)
        finally:
            for process in processes.values():
                process.kill()
    return failed


def _folder(runs: Path, data: str, setting: str) -> Path:
    return runs / f"{data} {setting}".replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    raise SystemExit(main())
