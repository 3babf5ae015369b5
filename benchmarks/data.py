"""Speed of the input pipeline: image files beside other libraries, and CIFAR-10 in memory beside its training step.

    python benchmarks/data.py [--cases NAME ...] [--data-root FOLDER] [--quick] [--results FILE]

The cases "crop" and "randaugment" read Imagenette (its training images, written out as files) at 224 pixels, as
`mixonomy bench data` does, with 0, 1 and 2 worker processes: spreads are half the interquartile range of repetitions.
The case "memory" takes batches of the recipe cifar10 (pad crop, flip, cutmix) to normalised floats, ours and one image
after the other by torchvision's transforms, both in one process, in turns, and the recipe's training step.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixonomy import devices, optim
from mixonomy.bench import data as bench
from mixonomy.bench import train, turns
from mixonomy.bench.image_files import prepared
from mixonomy.data import BadImages, Split, open_source, train_data
from mixonomy.data.loading import InMemoryData
from mixonomy.data.mix import mix
from mixonomy.evals.predictor import normalise
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipes import load_recipe
from rows import RESULTS, Origin, Row, append, make_row, middle, origin

CASES = ("crop", "randaugment", "memory")
CLASSES = 10
OURS, THEIRS = "ours, in memory", "torchvision, image by image"


def files_rows(
    name: str, folder: str, count: int, where: Origin, *, workers: int, rounds: int, turn_s: float, batch_size: int
) -> list[Row]:
    """Rows of one case on Imagenette with one number of workers."""
    case = bench.Case(folder, count, 224, batch_size, workers, name == "randaugment", turn_s)
    found = bench.compare(case, bench.SETTINGS, rounds=rounds, say=_say)
    rows = []
    for setting in bench.SETTINGS:
        numbers = found.numbers(setting)
        about: dict[str, Any] = {
            "study": "data",
            "model": f"{setting}, {workers} workers",
            "data": f"imagenette, {'crop, flip, RandAugment' if name == 'randaugment' else 'crop, flip'}",
        }
        note, n = numbers.get("note"), numbers.get("repetitions", 0)
        metrics = {
            "images_per_s": "images/s",
            "share_of_limit": "share",
            "ratio_default": "ratio",
            "ratio_best": "ratio",
        }
        for metric, unit in metrics.items():
            is_ratio_of_limit = setting == bench.LIMIT and unit == "ratio"
            if metric == "images_per_s" or (numbers.get(metric) is not None and not is_ratio_of_limit):
                spread = numbers.get(f"{metric}_spread")
                value = numbers[metric]
                rows.append(
                    make_row(where, **about, metric=metric, value=value, spread=spread, unit=unit, n=n, note=note)
                )
    return rows


def memory_rows(split: Split, where: Origin, *, rounds: int, for_s: float) -> list[Row]:
    """Rows of the in-memory pipeline of the recipe cifar10, of torchvision's, and of the training step."""
    device = torch.device("cpu")
    devices.prepare(device)  # as `mixonomy train` does
    recipe = load_recipe("cifar10")
    preprocessing = Preprocessing((32, 32), crop="squash")
    ours = train_data(split, recipe.augment, preprocessing, seed=0, device=device, workers=0, bad=BadImages())
    assert isinstance(ours, InMemoryData)
    ours.pixels.read(np.arange(len(split)))  # else the first epoch's batches would be decoded while they are timed
    batches = ours.batches(0, recipe.batch_size)

    def our_batch() -> tuple[torch.Tensor, torch.Tensor]:
        batch = next(batches)
        targets = optim.soft_targets(batch.labels, CLASSES, recipe.label_smoothing)
        return mix(normalise(batch.images, preprocessing), targets, batch.keys, recipe.augment)

    their_batch = by_torchvision(split, recipe.batch_size, float(recipe.augment.cutmix_prob), recipe.augment.pad or 4)
    settings = {OURS: our_batch, THEIRS: their_batch}
    shape = (recipe.batch_size, 3, 32, 32)
    for name, batch in settings.items():
        images, targets = batch()
        if images.shape != shape or targets.shape != (recipe.batch_size, CLASSES) or images.abs().max() > 1:
            raise ValueError(f"{name} gives {images.dtype} {list(images.shape)}; nothing was timed.")
    found: dict[str, list[list[float]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, batch in settings.items():
            found[name].append(turns.timed(batch, for_s=for_s))
    steps = []
    for _ in range(rounds):
        case = train.Case(recipe.model.model_dump(), (32, 32), recipe.batch_size, CLASSES, 2 * for_s, 256)
        steps += train.measure(case, train.SETTINGS[turns.OURS], device, 1e9).seconds
    rows = []
    data = f"cifar10, batch {recipe.batch_size}, pad crop, flip, cutmix"
    middles = {name: middle([seconds for turn in taken for seconds in turn]) for name, taken in found.items()}
    middles["training step"] = middle(steps)
    count = {name: sum(map(len, taken)) for name, taken in found.items()} | {"training step": len(steps)}
    for name, (seconds, spread) in middles.items():
        about: dict[str, Any] = {"study": "data", "model": name, "data": data, "n": count[name]}
        rows.append(make_row(where, **about, metric="batch_s", value=seconds, spread=spread, unit="s"))
        if name != "training step":
            share = seconds / middles["training step"][0]
            rows.append(make_row(where, **about, metric="share_of_step", value=share, unit="share"))
            ratio = middles[THEIRS][0] / seconds
            rows.append(make_row(where, **about, metric="ratio_default", value=ratio, unit="ratio"))
    return rows


def by_torchvision(split: Split, batch_size: int, cutmix_prob: float, pad: int) -> Any:
    """The function that makes a batch as a Dataset with torchvision's transforms and its CutMix would."""
    from PIL import Image
    from torch.utils.data import default_collate
    from torchvision import transforms
    from torchvision.transforms import v2

    from mixonomy.data.loading import read_image

    half = (0.5, 0.5, 0.5)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=pad),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(half, half),
        ]
    )
    count = min(len(split), 4 * batch_size)
    decoded = [read_image(split, index, 3) for index in range(count)]  # CIFAR10 of torchvision keeps pixels, too
    pixels = [np.ascontiguousarray(image.permute(1, 2, 0)) for image in decoded if isinstance(image, torch.Tensor)]
    cutmix = v2.RandomApply([v2.CutMix(num_classes=CLASSES)], p=cutmix_prob)
    random = np.random.default_rng(0)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        picked = random.integers(len(pixels), size=batch_size).tolist()
        samples = [(transform(Image.fromarray(pixels[i])), int(split.labels[i])) for i in picked]
        images, labels = cutmix(*default_collate(samples))
        if labels.ndim == 1:
            labels = torch.nn.functional.one_hot(labels, CLASSES).float()
        return images, labels

    return batch


def show(rows: Sequence[Row]) -> None:
    """Prints one line per row."""
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:,.4g}"
        print(f"{row['data']:50}{row['model']:32}{row['metric']:16}{value:>10} {row['unit']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--turn-s", type=float, default=3.0, help="seconds of a turn")
    parser.add_argument("--quick", action="store_true", help="few images, one round, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "data.jsonl")
    options = parser.parse_args()
    where = origin()
    rounds, turn_s = (1, 0.0) if options.quick else (options.rounds, options.turn_s)
    num_images, batch_size = (32, 8) if options.quick else (4096, 64)
    try:
        if set(options.cases) != {"memory"}:
            with tempfile.TemporaryDirectory() as folder:
                source = open_source("imagenette", options.data_root)
                count = prepared(source, Path(folder), num_images=num_images, batch_size=batch_size)
                about: dict[str, Any] = {"rounds": rounds, "turn_s": turn_s, "batch_size": batch_size}
                for name in [name for name in options.cases if name != "memory"]:
                    for workers in options.workers:
                        rows = files_rows(name, folder, count, where, workers=workers, **about)
                        append(options.results, rows)  # one by one: what was measured stays, whatever happens next
                        show(rows)
        if "memory" in options.cases:
            split = open_source("cifar10", options.data_root).splits["train"]
            if options.quick:
                split = split.pick(np.arange(1024))
            rows = memory_rows(split, where, rounds=rounds, for_s=turn_s)
            append(options.results, rows)
            show(rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
