"""What it costs to reach an accuracy: our recipe, beside the same model trained by the parts that timm has for it.

    python benchmarks/whole_runs.py --runs runs/whole --data-root ../shared/data
    python benchmarks/whole_runs.py --data cifar10 --settings ours "timm, Muon"

Each setting is a process of its own, on one thread. They take turns of some seconds while the others stand still, so
that whatever disturbs the machine disturbs all alike, and each is charged the processor's time that it used itself,
with start, decoding, augmentation and the scoring of all test images after every epoch. What counts is the first epoch
that scores the target. The schedule, whose length is given beforehand, is the same for all, see TARGETS.

Same for all: model, batch, pad-crop, flip, label smoothing, linear decay of the rate, and no cutmix, which pays in
longer trainings only. timm's parts: MlpMixer, create_loader, LabelSmoothingCrossEntropy, create_optimizer_v2 and
create_scheduler_v2, in bfloat16 autocast without torch.compile, its fastest setting of this step
(`benchmarks/train.py`). timm with Muon has our rates, with AdamW one of its own.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mixonomy.bench.peers import timm_twin
from mixonomy.data import open_source
from mixonomy.models import create_from
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from rows import RESULTS, Row, append, make_row, origin

# Data -> (test top-1 to reach, epochs of the schedule, channels).
TARGETS = {"digits": (0.90, 4, 1), "fashion-mnist": (0.90, 4, 1), "cifar10": (0.80, 8, 3)}
SETTINGS = ("ours", "timm, Muon", "timm, AdamW")
ADAMW: dict[str, Any] = {"lr": 2e-3, "weight_decay": 0.05}
TURN_S = 20.0


def write_files(name: str, root: str | None, prefix: Path) -> None:
    """Train, and test under the name of val: so test images are scored after every epoch."""
    source = open_source(name, root)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    channels = {"channels": str(TARGETS[name][2])}
    for split, called in (("train", "train"), ("test", "val")):
        part = source.splits[split]
        images = [image if isinstance(image, bytes) else _png(image) for image in part.images]
        labels = [source.class_names[int(label)] for label in part.labels]
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(channels)
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
    torch.manual_seed(recipe.seed)
    assert recipe.augment is not None and isinstance(recipe.image_size, int)
    size = (recipe.image_size, recipe.image_size)
    model = timm_twin(create_from(recipe.model, num_classes=10, image_size=size, in_channels=channels))
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
        crops = [RandomCrop(recipe.image_size, padding=recipe.augment.pad), RandomHorizontalFlip()]
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
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss_of(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step_update(epoch * steps + i + 1)
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
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


def in_turns(processes: dict[str, Any], scores: dict[str, Path], target: float) -> dict[str, list[tuple[float, float]]]:
    """Lets each run for TURN_S while the others stand still, until all have ended or reached the target.

    Returns:
      setting -> the processor's seconds and test top-1 after each epoch.
    Raises:
      ValueError: if a process fails.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for process in processes.values():
        process.send_signal(signal.SIGSTOP)
    running = dict(processes)
    while running:
        for name, process in list(running.items()):
            process.send_signal(signal.SIGCONT)
            until = time.monotonic() + TURN_S
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.2)
                tops = _tops(scores[name])
                if len(tops) > len(found[name]):
                    times = psutil.Process(process.pid).cpu_times()
                    found[name].append((times.user + times.system, tops[-1]))
                    print(f"{name}: epoch {len(tops)}, top-1 {tops[-1]:.4f}, {found[name][-1][0]:.0f} s", flush=True)
            is_done = any(top >= target for _, top in found[name])
            if process.poll() is None and not is_done:
                process.send_signal(signal.SIGSTOP)
                continue
            if process.poll():
                raise ValueError(f"{name} failed; see what it said above.")
            process.kill()
            del running[name]
    return found


def rows_of(data: str, setting: str, found: list[tuple[float, float]]) -> list[Row]:
    """Seconds until the target, if it was reached, and the last score."""
    target, epochs, _ = TARGETS[data]
    reached = next(((s, e) for e, (s, top) in enumerate(found, 1) if top >= target), None)
    about: dict[str, Any] = {"study": "whole_runs", "model": setting, "data": f"{data} to {100 * target:.0f} %"}
    note = f"schedule of {epochs} epochs, " + (f"reached after {reached[1]}" if reached else "not reached")
    where = origin()
    return [
        make_row(where, **about, metric="core_s", value=reached and reached[0], unit="s", n=1, note=note),
        make_row(where, **about, metric="core_s_per_epoch", value=found[-1][0] / len(found), unit="s", n=len(found)),
        make_row(where, **about, metric="top1", value=found[-1][1], unit="share", n=1),
    ]


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
    for data in options.data:
        prefix = options.runs / data
        outs = {name: options.runs / f"{data} {name}".replace(", ", "-").replace(" ", "-") for name in options.settings}
        if options.one is not None:
            library, _, optimizer = options.one.partition(", ")
            if library == "ours":
                train_ours(data, prefix, outs["ours"])
            else:
                train_timm(data, prefix, outs[options.one], optimizer)
            return 0
        if any(out.exists() for out in outs.values()):
            print(f"{options.runs} holds runs of {data} already; give another --runs.", file=sys.stderr)
            return 1
        write_files(data, options.data_root, prefix)
        shared = [sys.executable, __file__, "--runs", str(options.runs), "--data", data, "--settings"]
        processes = {
            name: subprocess.Popen([*shared, name, "--one", name], env={**os.environ, "OMP_NUM_THREADS": "1"})
            for name in options.settings
        }
        try:
            found = in_turns(processes, outs, TARGETS[data][0])
        finally:
            for process in processes.values():
                process.kill()
        append(options.results, [row for name, each in found.items() for row in rows_of(data, name, each)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
