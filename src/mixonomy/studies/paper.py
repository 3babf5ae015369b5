"""The paper's tables and figures beside ours; for what was not run, what it takes and by which command.

Published numbers and ours are rows of results/, which the package brings along. Model sizes (table 1) and
hyper-parameters (table 4) are no measurements: those stand beside what this very code has.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mixonomy.bench.turns import OURS
from mixonomy.durations import parse
from mixonomy.models import create
from mixonomy.models.create import FAMILIES
from mixonomy.recipe import Recipe
from mixonomy.recipes import load_recipe
from mixonomy.report.study_page import Found, Table
from mixonomy.rows import Row, read
from mixonomy.studies.compared import cores_of
from mixonomy.studies.paired import relative
from mixonomy.studies.study import values_of

NAME = "paper"
KINDS = {"mixer-b/16": "Mixer", "BiT-R50x1": "ResNet"}  # of figure 4 -> ours in `mixonomy study permutation`
IN_PACKAGE, IN_REPOSITORY = Path(__file__).parents[1] / "results", Path(__file__).parents[3] / "results"
WEB = "web images with text"  # ALIGN's data
RECIPES = {"ImageNet-1k": "imagenet1k", "ImageNet-21k": "imagenet21k", "JFT-300M": "jft", WEB: "jft"}
# Published weights by which entries can be scored without pre-training; see `mixonomy list weights`.
WEIGHTS = {
    ("mixer-b/16", "ImageNet-1k"): "timm:mixer_b16_224.goog_in21k_ft_in1k",
    ("mixer-l/16", "ImageNet-1k"): "timm:mixer_l16_224.goog_in21k_ft_in1k",
    ("mixer-b/16", "ImageNet-21k"): "timm:mixer_b16_224.goog_in21k",
    ("mixer-l/16", "ImageNet-21k"): "timm:mixer_l16_224.goog_in21k",
}
TIMM = {
    "BiT-R50x1": "timm:resnetv2_50x1_bit",
    "BiT-R152x2": "timm:resnetv2_152x2_bit",
    "BiT-R152x4": "timm:resnetv2_152x4_bit",
    "ALIGN (EffNet-L2)": "timm:efficientnet_l2",
}
# Models that timm does not have -> the nearest that it has.
NEAREST = {
    "BiT-R50x2": "timm:resnetv2_50x3_bit",
    "BiT-R152x1": "timm:resnetv2_101x1_bit",
    "BiT-R200x3": "timm:resnetv2_152x4_bit",
    "HaloNet (H4, base 128, Conv-12)": "timm:halonet50ts",
    "NFNet-F4+": "timm:nfnet_f4",
    "MPL (EffNet-B6-Wide)": "timm:efficientnet_b6",
}
# What is said of a model's training, where this project cannot train it so.
METHODS = {
    "MPL (EffNet-B6-Wide)": "pseudo-labels of a teacher that learns with it, for which there is no command",
    "ALIGN (EffNet-L2)": "1.8 billion captions and a model of text, for which there is no command",
}
FIGURES = (
    ("figure 2, right", "accuracy against the size of the pre-training data", "scale"),
    ("figure 3", "accuracy against throughput and pre-training cost", "compare"),
    ("figure 4", "input permutations", "permutation"),
    ("figures 5 and 6", "token-mixing units drawn", "weights"),
    ("figure 7", "stem kernels drawn", "weights"),
)


@dataclass(frozen=True)
class Entry:
    """One number of the paper.

    Args:
      table: such as "table 3".
      model, data, metric: as in its row.
      published: in `unit`.
      ours: in the same unit; None where it was not run.
      ours_from: where ours is from, or what differs.
      needs: data and hardware, where it was not run.
      command: that gives it.
    """

    table: str
    model: str
    data: str
    metric: str
    published: float
    unit: str
    ours: float | None = None
    ours_from: str = ""
    needs: str = ""
    command: str = ""


def results_folder() -> Path:
    """The rows that came with the package, or those of the source tree it runs from.

    Raises:
      ValueError: if neither is there.
    """
    for folder in (IN_PACKAGE, IN_REPOSITORY):
        if (folder / "published.jsonl").is_file():
            return folder
    raise ValueError("results/published.jsonl came not with this installation; give its folder by --results.")


def entries(results: Path) -> list[Entry]:
    """All numbers of tables 1 to 4 and figure 4, in the order of the paper.

    Args:
      results: folder of the rows.
    Raises:
      ValueError: if there are no published rows in it.
    """
    published = [row for row in read(results / "published.jsonl") if row["study"] == NAME]
    if not published:
        raise ValueError(f"{results} has no published.jsonl with rows of the paper; give the folder results/.")
    measured = [row for path in sorted(results.glob("*.jsonl")) if path.name != "published.jsonl" for row in read(path)]
    sizes: dict[str, int] = {}
    return [_entry(row, measured, sizes) for row in published]


def found_of(found: Sequence[Entry], results: Path) -> Found:
    """Tables as the paper has them, ours beside each."""
    ran = [entry for entry in found if entry.ours is not None]
    tables = [
        Table(
            f"{table[0].upper()}{table[1:]} of the paper",
            ("model", "trained on", "what", "published", "ours", "from, or what it needs", "command"),
            tuple(_line(entry) for entry in found if entry.table == table),
            3,
            num_last_texts=2,
        )
        for table in dict.fromkeys(entry.table for entry in found)
    ]
    lines = tuple(
        (figure, what, _rows_there(results, study), f"mixonomy study {study}") for figure, what, study in FIGURES
    )
    note = "Values of these figures stand in the paper as pictures only, but for what the text says of figure 4."
    tables.append(Table("Figures of the paper", ("figure", "what", "our rows", "command"), lines, 4, note))
    exact = [entry for entry in ran if entry.table in ("table 1", "table 4")]
    equal = sum(_agrees(entry) for entry in exact)
    said = (
        f"{len(found)} numbers of the paper; beside {len(ran)} of them stands ours.",
        f"Model sizes and hyper-parameters: {equal} of {len(exact)} agree with what this code has.",
        "JFT-300M is private, so its rows cannot be run by anybody else; their commands take any weakly labelled data.",
    )
    return Found(
        "The paper's numbers beside ours", said, (), tuple(tables), {"entries": [asdict(each) for each in found]}
    )


def _entry(row: Row, measured: Sequence[Row], sizes: dict[str, int]) -> Entry:
    table = row["source"].rpartition(", ")[2]
    about = (table, row["model"], row["data"], row["metric"], row["value"], row["unit"])
    if table == "table 1":
        if row["model"] not in sizes:
            sizes[row["model"]] = _params_without_head(row["model"])
        return Entry(*about, ours=float(sizes[row["model"]]), ours_from="counted", command="mixonomy list models")
    trained_on = row["data"].split(",")[0]
    if table == "table 4":
        recipe = load_recipe(RECIPES[trained_on], row["model"])
        return Entry(*about, ours=_setting(recipe, row["metric"]), ours_from=f"recipe {RECIPES[trained_on]}")
    if (ours := _measured(row, measured)) is not None:
        return Entry(*about, ours=ours.value, ours_from=ours.origin, command=ours.command)
    needs, command = _way(row["model"], trained_on, row["metric"], row["data"])
    return Entry(*about, needs=needs, command=command)


def _params_without_head(name: str) -> int:
    with torch.device("meta"):
        model = create(name)
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith("head."))


def _setting(recipe: Recipe, metric: str) -> float:
    """A hyper-parameter of table 4 as the recipe has it."""
    values = {
        "epochs": parse(recipe.duration)[0],
        "lr": recipe.optim.lr,
        "weight_decay": recipe.optim.weight_decay,
        "randaugment_magnitude": recipe.augment.randaugment_magnitude,
        "mixup": recipe.augment.mixup,
        "dropout": recipe.model.dropout,
        "drop_path": recipe.model.drop_path,
    }
    return float(values[metric] or 0.0)


@dataclass(frozen=True)
class _Ours:
    """A number of ours, where it is from, and the command that gave it."""

    value: float
    origin: str
    command: str


def _measured(row: Row, measured: Sequence[Row]) -> _Ours | None:
    """The newest of ours that measures the same, if there is one."""
    if row["metric"] == "imagenet_top1":
        return _accuracy(row, measured)
    if row["metric"] == "images_per_s_core":
        return _speed(row, measured)
    return _few_shot_loss(row, measured) if row["metric"] == "few_shot_loss" else None


def _accuracy(row: Row, measured: Sequence[Row]) -> _Ours | None:
    """Of a training on ImageNet alone, of as many epochs at as many pixels; the mean over its seeds."""
    if not row["data"].startswith("ImageNet-1k"):
        return None
    found = [
        other
        for other in measured
        if other["metric"] == "top1"
        and other["value"] is not None
        and other["data"].split(",")[0] == "imagenet1k"
        and re.split(r"[ ,]", other["model"])[0].rstrip(":") == row["model"]
        and _length(f"{other['model']}, {other['data']}") == _length(row["data"])
    ]
    if not found:
        return None
    newest = _newest(found)
    alike = [each for each in found if all(each[key] == newest[key] for key in ("study", "model", "data", "command"))]
    values = values_of(alike, "top1")
    origin = f"{newest['model']}, {newest['data']}, {newest['device']}, n = {values.n}"
    return _Ours(values.mean, origin, newest["command"])


def _length(said: str) -> tuple[str | None, str]:
    """(epochs, pixels) in words such as "300 epochs, fine-tuned at 224"; pixels are 224 where nothing is said."""
    epochs, pixels = re.search(r"(\d+) epochs", said), re.search(r"\bat (\d+)", said)
    return epochs and epochs[1], pixels[1] if pixels else "224"


def _speed(row: Row, measured: Sequence[Row]) -> _Ours | None:
    """Of our float path on another machine, on images of as many pixels, for one of its cores, at its best batch."""
    pixels = re.search(r"\bat (\d+)", row["data"])
    if pixels is None:
        return None
    found = [
        other
        for other in measured
        if (other["study"], other["metric"], other["model"]) == ("infer", "images_per_s", f"{row['model']}: {OURS}")
        and other["value"] is not None
        and f"{pixels[1]} x {pixels[1]}" in other["data"]
    ]
    if not found:
        return None
    by_batch_size = {row["data"]: row for row in sorted(found, key=lambda row: row["date"])}  # the newest of each
    best = max(by_batch_size.values(), key=lambda row: row["value"])
    cores = cores_of(best["device"])
    divided = f", divided by its {cores} cores" if cores is not None and cores > 1 else ""
    origin = f"{best['model']}, {best['data']}, {best['device']}{divided}"
    return _Ours(best["value"] / (cores or 1), origin, best["command"])


def _few_shot_loss(row: Row, measured: Sequence[Row]) -> _Ours | None:
    """Of our small model of the kind, as a share, where all pixels are shuffled alike."""
    model = KINDS[row["model"]]
    found = [
        other
        for other in measured
        if (other["study"], other["metric"], other["model"]) == ("permutation", "few_shot", model)
        and other["data"].endswith(", global")
    ]
    if not found:
        return None
    newest = _newest(found)
    source = newest["data"].rpartition(", ")[0]
    plain, shuffled = (
        values_of(measured, "few_shot", model=model, data=f"{source}, {pipeline}")
        for pipeline in ("original", "global")
    )
    share = relative(plain, shuffled)
    if not share.n:
        return None
    origin = f"a small {model} trained on {source}, few-shot on other data, {newest['device']}, n = {share.n}"
    return _Ours(-share.mean, origin, newest["command"])


def _newest(rows: Sequence[Row]) -> Row:
    """The last of the newest day."""
    return sorted(rows, key=lambda row: row["date"])[-1]


def _way(model: str, trained_on: str, metric: str, data: str) -> tuple[str, str]:
    """(what it needs, the command); that of the nearest model where there is no such one, which is said."""
    known = {name for family in FAMILIES.values() for name in family.specs}
    has_method = model not in METHODS or metric == "images_per_s_core"
    method = "" if has_method else f"{METHODS[model]}; "
    if model in known or model in TIMM:
        needs, command = _way_of(model, TIMM.get(model, model), trained_on, metric, data)
        return f"{method}{needs}", command
    needs, command = _way_of(model, NEAREST[model], trained_on, metric, data)
    return f"{method}a network that timm does not have, its nearest is {NEAREST[model]}; {needs}", command


def _way_of(model: str, ours: str, trained_on: str, metric: str, data: str) -> tuple[str, str]:
    """The same for a model that `create` calls `ours`."""
    if metric == "images_per_s_core":
        return "a TPUv3 core for the paper's number; any machine for its own", f"mixonomy bench infer --model {ours}"
    if metric == "few_shot_loss":
        return "JFT-300M, which is private; smaller data by the study", "mixonomy study permutation"
    pixels = " --image-size 448" if "at 448" in data else ""
    weights = WEIGHTS.get((model, trained_on))
    train = f"mixonomy train --recipe {RECIPES.get(trained_on, 'imagenet1k')} --model {ours}"
    if trained_on in ("JFT-300M", WEB):
        what = "JFT-300M, which is private" if trained_on == "JFT-300M" else f"{WEB}, which are private"
        needs = f"{what} (any weakly labelled images serve the command), and a cluster of GPUs"
        train += " --data shards:WEAK_LABELS"
    elif trained_on == "ImageNet-21k":
        needs = "ImageNet-21k (14 M images) and days of 8 GPUs" if weights is None else "published weights, a GPU"
    else:
        needs = "ImageNet-1k (1.3 M images) and days of 8 GPUs" if weights is None else "published weights"
    if metric == "core_days":
        return f"{needs}; the paper counts TPUv3 cores", train
    run = weights or "RUN"
    after = "" if weights else f"{train}, then "
    if metric in ("avg5", "vtab1k"):
        return f"{needs}, the suite's data", f"{after}mixonomy transfer {run} --suite {metric}{pixels}"
    real = " --real real.json" if metric == "imagenet_real" else ""
    if trained_on == "ImageNet-1k":
        done = f"mixonomy eval {run} --data imagenet1k{real}"
        return f"{needs}, ImageNet's validation images", f"{after}{done}"
    tune = f"mixonomy train --recipe finetune --init {run} --data imagenet1k{pixels}"
    return f"{needs}, ImageNet-1k", f"{after}{tune}" + (f", then mixonomy eval RUN{real}" if real else "")


def _agrees(entry: Entry) -> bool:
    """Whether ours is the paper's number, sizes up to the rounding to whole millions, up or down."""
    assert entry.ours is not None
    if entry.metric == "params":
        return abs(entry.ours - entry.published) < 1e6
    return entry.ours == entry.published


def _line(entry: Entry) -> tuple[str, ...]:
    ours = "not run" if entry.ours is None else _number(entry, entry.ours)
    about = entry.ours_from if entry.ours is not None else entry.needs
    return (entry.model, entry.data, entry.metric, _number(entry, entry.published), ours, about, entry.command or "–")


def _number(entry: Entry, value: float) -> str:
    if entry.unit == "share":
        return f"{100 * value:.2f} %"
    if entry.metric == "params":
        return f"{value / 1e6:,.2f} M"
    if entry.metric == "images_per_s_core":
        return f"{value:,.{0 if value >= 100 else 1}f}"
    return f"{value:,.6g}"


def _rows_there(results: Path, study: str) -> str:
    count = sum(1 for path in results.glob("*.jsonl") for row in read(path) if row["study"] == study)
    return f"{count:,} in results/" if count else "none yet"
