"""What the paper's pre-training runs cost on many GPUs: measured parts, and what follows from them.

    python benchmarks/many_gpus.py [--parts images checkpoints cost] [--quick] [--results FILE]

images       Photographs of ImageNet's usual size and kind (see `memory.py`), as they are and packed to a shorter side
             of 256: bytes per image, and how many one worker on one core decodes and augments in a second, with crop
             and flip as the recipe jft does and with RandAugment as imagenet1k does.
checkpoints  A checkpoint of each model with AdamW's state, as training writes it: bytes, seconds for which training
             waits, seconds until it is on disk, seconds to read it with its checksum, and the most memory beyond the
             model and its optimizer. The classes are JFT's.
cost         Calculated: for the paper's runs (table 4) on 8, 64 and 256 GPUs the seconds of a step that each part
             needs, of which the longest counts since they overlap, and days. Measured rows of the part images are
             read from the results, those of `train.py` for the same on a CPU; the rest is `Cluster`, assumptions
             that options change.
"""

import argparse
import re
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memory import write_photographs
from mixonomy.bench.limits import flops_of
from mixonomy.bench.turns import held_bytes, most_bytes
from mixonomy.checkpoint import Checkpoints, Progress
from mixonomy.data import BadImages, Split, open_source
from mixonomy.data.loading import WorkerData, order_of
from mixonomy.data.shards.index import NAME, open_index
from mixonomy.data.shards.pack import Options, pack
from mixonomy.durations import num_steps
from mixonomy.models import create
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment, Recipe
from mixonomy.recipes import load_recipe
from rows import RESULTS, Row, append, make_row, middle, origin, read

PARTS = ("images", "checkpoints", "cost")
SHORT_SIDE = 256
AS_IT_IS, PACKED = "500 x 375 pixels", f"shorter side {SHORT_SIDE}"
MODELS = ("mixer-s/16", "mixer-b/16", "mixer-l/16", "mixer-h/14")
YEAR_S = 365 * 86_400
TRAIN_PASSES = 3  # a backward pass has twice the products of a forward pass


@dataclass(frozen=True)
class Data:
    """A data set of the paper.

    Args:
      images: of training.
      classes: of its head.
      models: that the paper trained on it (table 3).
    Source: MLP-Mixer paper, section 3; ILSVRC2012's train has 1,281,167 images, ImageNet-21k 21,843 classes, JFT-300M
    18,291 (Sun et al. 2017).
    """

    images: int
    classes: int
    models: tuple[str, ...]


DATA = {
    "imagenet1k": Data(1_281_167, 1000, ("mixer-b/16", "mixer-l/16")),
    "imagenet21k": Data(14_197_122, 21_843, ("mixer-b/16", "mixer-l/16")),
    "jft": Data(300_000_000, 18_291, MODELS),
}
GPUS = (8, 64, 256)


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines; each is an option of this command.

    Args:
      peak_flops: of a GPU in dense bf16, per second: NVIDIA H100 SXM, whose data sheet says 1,979 with sparsity.
      utilisation: share of it that a training step reaches.
      node_gpus, gpu_cores: GPUs of a machine, CPU cores for each: DGX H100, two CPUs of 56 cores for eight GPUs.
      node_link: bytes per second and direction that a GPU exchanges within a machine: NVLink 4, half of 900 GB/s.
      network: the same between machines: one 400 Gbit/s adapter for each GPU, as DGX H100 has.
      store: bytes per second at which one machine reads shards; an assumption of ours.
      gradient_bytes: of a parameter, in the sum over ranks: float32.
    """

    peak_flops: float = 989.4e12
    utilisation: float = 0.4
    node_gpus: int = 8
    gpu_cores: int = 14
    node_link: float = 450e9
    network: float = 50e9
    store: float = 4e9
    gradient_bytes: int = 4

    def describe(self) -> str:
        """All of it, for the note of a row."""
        return ", ".join(f"{field.name} {getattr(self, field.name):g}" for field in fields(self))


@dataclass(frozen=True)
class Step:
    """Seconds of one step on so many GPUs that each part would need alone."""

    compute_s: float
    decode_s: float
    store_s: float
    allreduce_s: float

    @property
    def seconds(self) -> float:
        """Of the part that takes longest: they go on at the same time."""
        return max(vars(self).values())


def step_on(
    gpus: int, *, batch_size: int, flops: float, params: int, decoded_per_s: float, image_bytes: float, on: Cluster
) -> Step:
    """The parts of a step.

    Args:
      flops: of the training step for one image.
      params: of the model.
      decoded_per_s: images that one core decodes and augments in a second.
      image_bytes: of one image in its shard.
    Source of the sum over ranks: a ring sends and receives 2 (n - 1) / n times the gradient (Patarasuk and Yuan 2009).
    """
    nodes = -(-gpus // on.node_gpus)
    link = on.node_link if nodes == 1 else on.network
    return Step(
        batch_size * flops / (gpus * on.peak_flops * on.utilisation),
        batch_size / (decoded_per_s * on.gpu_cores * gpus),
        batch_size * image_bytes / (nodes * on.store),
        2 * (gpus - 1) / gpus * params * on.gradient_bytes / link,
    )


def decoding(split: Split, augment: Augment, seconds: float, rounds: int) -> tuple[float, float | None]:
    """Images per second that one worker makes, and their spread over the rounds."""
    data = WorkerData(split, augment, Preprocessing((224, 224)), order_of(split, 0), 1, BadImages())
    rates, batches = [], data.batches(0, 64)
    for _ in range(4):  # as far as a worker is ahead
        next(batches)
    for _ in range(rounds):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += len(next(batches).labels)
        rates.append(count / (time.perf_counter() - start))
    batches.close()
    return middle(rates)


def checkpoint_of(name: str, classes: int, folder: Path) -> dict[str, tuple[float, str]]:
    """Writes and reads a checkpoint of a model with the state of AdamW: metric -> (value, unit)."""
    tensors: dict[str, Tensor] = {}
    for key, shape in shapes_of(name, classes).items():
        parts = (f"model/{key}", f"optimizer/{key}/exp_avg", f"optimizer/{key}/exp_avg_sq")
        tensors |= {part: torch.empty(shape).uniform_() for part in parts}
        tensors[f"optimizer/{key}/step"] = torch.tensor(1000.0)
    checkpoints, seconds = Checkpoints(folder), {}

    def write() -> None:
        start = time.perf_counter()
        checkpoints.save(tensors, Progress(step=1))
        seconds["stall_s"] = time.perf_counter() - start
        checkpoints.wait()
        seconds["write_s"] = time.perf_counter() - start

    before = held_bytes()
    peak = most_bytes(write) - before
    [path] = folder.glob("*.safetensors")
    size = path.stat().st_size
    tensors.clear()
    start = time.perf_counter()
    found = checkpoints.newest()
    seconds["read_s"] = time.perf_counter() - start
    assert found is not None and not found[2]
    path.unlink()
    return {
        **{metric: (value, "s") for metric, value in seconds.items()},
        "checkpoint_bytes": (size, "B"),
        "extra_bytes": (peak, "B"),
    }


def shapes_of(name: str, classes: int) -> dict[str, torch.Size]:
    """Shapes of a model's tensors."""
    return {key: tensor.shape for key, tensor in on_paper(name, classes).state_dict().items()}


def on_paper(name: str, classes: int) -> torch.nn.Module:
    """A model without any memory for its weights."""
    with torch.device("meta"):
        return create(name, num_classes=classes, image_size=224)


def measured(rows: list[Row], model: str, metric: str) -> float:
    """The newest measured number.

    Raises:
      SystemExit: if there is none.
    """
    found = [row["value"] for row in rows if row["model"] == model and row["metric"] == metric]
    if not found:
        raise SystemExit(f"there is no {metric} of {model!r} in the results; run --parts images first.")
    return found[-1]


def cpu_flops(rows: list[Row]) -> float:
    """Operations per second and core of the newest measured training of S/16 on a CPU."""
    row = [r for r in rows if r["model"] == "mixer-s/16: ours" and r["metric"] == "images_per_s" and r["value"]][-1]
    cores = re.search(r"(\d+) of \d+ cores", row["device"])
    assert cores is not None, "a row of a CPU says how many cores it had"
    one = flops_of(on_paper("mixer-s/16", 1000), torch.empty(1, 3, 224, 224, device="meta"))
    return row["value"] * one * TRAIN_PASSES / int(cores[1])


def decode_row(recipe: Recipe) -> str:
    """The model of the measured row whose augmentation a recipe has."""
    return f"{PACKED}: crop, flip{', RandAugment' if recipe.augment.randaugment_layers else ''}"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="of the part checkpoints")
    parser.add_argument("--quick", action="store_true", help="few images, the smallest model, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "many_gpus.jsonl")
    for field in fields(Cluster):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    options = parser.parse_args()
    where = origin()
    on = Cluster(**{field.name: getattr(options, field.name) for field in fields(Cluster)})

    def keep(model: str, data: str, found: dict[str, tuple[Any, ...]], note: str | None = None) -> None:
        rows = []
        for metric, (value, unit, *more) in found.items():
            spread, n = more or (None, 1)
            about: dict[str, Any] = {"study": "many_gpus", "model": model, "data": data, "metric": metric, "unit": unit}
            rows.append(make_row(where, **about, value=value, spread=spread, n=n, note=note))
            print(f"{model:44}{data:36}{metric:18}{value:>16,.6g} {unit}")
        append(options.results, rows)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "images" in options.parts:
            images_part(folder, 200 if options.quick else options.photographs, options, keep)
        if "checkpoints" in options.parts:
            for name in MODELS[:1] if options.quick else options.models:
                (folder / "checkpoints").mkdir(exist_ok=True)
                classes = DATA["jft"].classes
                keep(name, f"AdamW, {classes:,} classes", checkpoint_of(name, classes, folder / "checkpoints"))
    if "cost" in options.parts:
        rows, per_core = read(options.results), cpu_flops(read(RESULTS / "train.jsonl"))
        for data_name, data in DATA.items():
            for name in data.models:
                recipe = load_recipe(data_name, name)
                model = on_paper(name, data.classes)
                flops = flops_of(model, torch.empty(1, 3, 224, 224, device="meta")) * TRAIN_PASSES
                params = sum(parameter.numel() for parameter in model.parameters())
                steps = num_steps(recipe.duration, batch_size=recipe.batch_size, num_examples=data.images)
                about = f"{data_name}, {recipe.duration}"
                found = {"step_flops": (float(flops), "FLOP"), "params": (params, "count"), "steps": (steps, "count")}
                years = float(flops) * steps * recipe.batch_size / per_core / YEAR_S
                keep(name, about, {**found, "cpu_core_years": (years, "core-years")})
                decoded_per_s = measured(rows, decode_row(recipe), "decoded_per_s")
                for gpus in GPUS:
                    step = step_on(
                        gpus, batch_size=recipe.batch_size, flops=flops, params=params, on=on,
                        decoded_per_s=decoded_per_s,
                        image_bytes=measured(rows, PACKED, "image_bytes"),
                    )  # fmt: skip
                    days = steps * step.seconds / 86_400
                    parts: dict[str, tuple[Any, ...]] = {key: (value, "s") for key, value in vars(step).items()}
                    parts |= {"images_per_s": (recipe.batch_size / step.seconds, "images/s"), "days": (days, "days")}
                    cores = on.peak_flops * on.utilisation / flops / decoded_per_s
                    parts |= {"gpu_hours": (24 * days * gpus, "h"), "decode_cores": (cores, "cores")}
                    keep(name, f"{about}, {gpus} GPUs", parts, on.describe())
    return 0


def images_part(folder: Path, count: int, options: argparse.Namespace, keep: Any) -> None:
    """The part images."""
    data = "photographs with grain"
    write_photographs(folder / "photographs", count, options.data_root)
    source = open_source(str(folder / "photographs"))
    for name, short_side in ((AS_IT_IS, None), (PACKED, SHORT_SIDE)):
        out = folder / f"shards-{short_side}"
        pack(source, out, Options(short_side=short_side), workers=2)
        lengths = open_index(out / NAME).columns["lengths"]
        size = sum(path.stat().st_size for path in out.glob("*.tar"))
        keep(name, data, {"image_bytes": (size / len(lengths), "B", None, len(lengths))})
        split = open_source(f"shards:{out}").splits["train"]
        for recipe in (load_recipe("jft"), load_recipe("imagenet1k")):
            augment = recipe.augment
            what = f"{name}: crop, flip{', RandAugment' if augment.randaugment_layers else ''}"
            seconds, rounds = (0.2, 1) if options.quick else (3.0, 5)
            rate, spread = decoding(split, augment, seconds, rounds)
            keep(what, data, {"decoded_per_s": (rate, "images/s", spread, rounds)})


if __name__ == "__main__":
    raise SystemExit(main())
