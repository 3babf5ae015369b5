"""What shuffled images cost an architecture: the paper's figure 4, and the two exact statements behind it.

Three pipelines, alike for all images and drawn anew for each seed: original; local, the patches shuffled and the pixels
within each patch; global, all pixels of the image shuffled. A Mixer cannot tell the first two apart: converting
its weights gives the same logits, and training from converted initial weights gives the same curve. Of equal seeds only
the distributions are equal.
Source: MLP-Mixer paper, section 3.4 and figure 4.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mixonomy import data
from mixonomy.evals import normalise
from mixonomy.models import create_from, info_of, permuted
from mixonomy.models.permute import shuffle_patches
from mixonomy.recipe import Augment, Data, Model, Optim, Probe, Recipe, changed
from mixonomy.report.charts import Chart, Line, chart_svg
from mixonomy.report.study_page import Figure, Found, Table
from mixonomy.rows import Row
from mixonomy.runs import read_metrics
from mixonomy.studies.paired import less, paired, points, relative
from mixonomy.studies.shuffled import Shuffle, Shuffled, global_shuffle, local_shuffle
from mixonomy.studies.sources import read_by_source
from mixonomy.studies.study import (
    Finished,
    Measure,
    Number,
    Planned,
    Study,
    Values,
    curve,
    data_named,
    failures,
    percent,
    values_of,
)
from mixonomy.studies.trace import macs_of

NAME = "permutation"
Pipeline = Literal["original", "local", "global"]
PIPELINES: tuple[Pipeline, ...] = ("original", "local", "global")
# Trainings in float64: on plain images, and on shuffled ones from the same initial weights converted, or as they are.
PLAIN = "Mixer in float64"
CONVERTED, SAME_SEED = f"{PLAIN}, initial weights converted", f"{PLAIN}, initial weights of the same seed"
CURVE_FACTS = {CONVERTED: "converted_curve_max_difference", SAME_SEED: "same_seed_curve_max_difference"}
IMAGES = 256  # of the test images, that the converted model answers
METRICS = ("few_shot", "top1")
SHOTS = 5  # images of each class; the paper's few-shot metric
PROBED = 2_000  # test images of the few-shot metric
CURVE = 5  # points of it over training


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Args:
      base: recipe of all trainings but for the model; its probe is the few-shot metric.
      patch_size: of the Mixer and the ViT, and of the local pipeline.
      models: name in tables -> model.
      exact_steps: of the trainings in float64.
    """

    base: Recipe
    patch_size: int
    models: dict[str, Model]
    exact_steps: int


def size_of(
    source: str, probe: str | None, *, is_quick: bool, epochs: float | None = None, train_images: int | None = None
) -> Size:
    """The study's sizes for a source: small images, 8 pixels a side for the digits, else 32.

    Args:
      source: SOURCE of the training data.
      probe: SOURCE of the few-shot data; CIFAR-100 for CIFAR-10, else the training data if not given.
      epochs: in place of the study's own.
      train_images: train on so many only.
    """
    side, patch = (8, 2) if source == "digits" else (32, 4)
    width, heads = (32, 4) if is_quick else (64, 2)
    blocks = 4
    models = {
        "Mixer": Model(
            name="mixer",
            patch_size=patch,
            hidden_dim=width,
            num_blocks=blocks,
            tokens_mlp_dim=width // 2,
            channels_mlp_dim=4 * width,
        ),
        "ResNet": Model(name="timm:test_resnet", stem="small", width_factor=0.25),  # whole, it costs four times this
        "ViT": Model(
            name="vit",
            patch_size=patch,
            hidden_dim=width,
            num_blocks=blocks - 1,  # of four, it would cost twice the Mixer
            num_heads=heads,
            channels_mlp_dim=4 * width,
            pool="mean",
        ),
        "ConvMixer": Model(
            name="convmixer", patch_size=patch, hidden_dim=width * 3 // 2, num_blocks=blocks, kernel_size=5
        ),
    }
    length = epochs if epochs is not None else 12 if is_quick else 1
    recipe = Recipe(
        name=f"study-{NAME}",
        data=Data(source=source, val_share=0.04, eval_crop="squash", train_images=train_images),
        image_size=side,
        augment=Augment(crop="pad", pad=side // 8, flip=source != "digits"),
        optim=Optim(name="adamw", lr=2e-3, weight_decay=0.05, clip=1.0),
        duration=f"{length:g} epochs",
        eval_every=f"{length / CURVE:g} epochs",
        batch_size=32 if is_quick else 64,
        keep="last",
        probe=Probe(
            source=probe or ("cifar100" if source == "cifar10" else source), shots=(SHOTS,), test_images=PROBED
        ),
    )
    return Size(recipe, patch, models, 20 if is_quick else 40)


def permutation(size: Size, seeds: Sequence[int], models: Sequence[str] = ()) -> Study:
    """The study.

    Args:
      models: names from `size.models`; all if none are given.
    Raises:
      ValueError: for a name that is none of them.
    """
    for name in models:
        if name not in size.models:
            raise ValueError(f"unknown model {name!r}; use {', '.join(size.models)}.")
    chosen = {name: model for name, model in size.models.items() if not models or name in models}
    planned, where = [], data_named(size.base)
    for seed in seeds:
        base = changed(size.base, seed=seed)
        for name, model in chosen.items():
            recipe = changed(base, model=model)
            is_converted = name == "Mixer"
            measure = partial(measured, patch_size=size.patch_size, is_converted=is_converted)
            planned += [_planned(name, where, recipe, pipeline, size.patch_size, measure) for pipeline in PIPELINES]
        if "Mixer" in chosen:
            steps = f"{size.exact_steps} steps"
            exact = {"duration": steps, "eval_every": steps, "precision": "fp32", "probe": Probe()}
            recipe = changed(base, model=chosen["Mixer"], **exact)
            for name in (PLAIN, CONVERTED, SAME_SEED):
                pipeline = "original" if name == PLAIN else "local"
                planned.append(_planned(name, where, recipe, pipeline, size.patch_size, losses))
    return Study(NAME, tuple(planned), read)


def _planned(name: str, where: str, recipe: Recipe, pipeline: Pipeline, patch_size: int, measure: Measure) -> Planned:
    """A run of the recipe's own model where nothing is shuffled, else of one behind the shuffle."""
    is_exact = name in (PLAIN, CONVERTED, SAME_SEED)
    shuffle = shuffle_of(recipe, pipeline, patch_size)

    def build(num_classes: int, channels: int) -> nn.Module:
        sizes = {"num_classes": num_classes, "image_size": recipe.height_width, "in_channels": channels}
        model = create_from(recipe.model, **sizes)
        if name == CONVERTED and shuffle is not None:
            model = permuted(model, patches=shuffle.patches, pixels=shuffle.pixels)
        return Shuffled(model.double() if is_exact else model, shuffle)

    is_plain = shuffle is None and not is_exact
    return Planned(name, f"{where}, {pipeline}", recipe, None if is_plain else build, measure=measure)


def shuffle_of(recipe: Recipe, pipeline: Pipeline, patch_size: int) -> Shuffle | None:
    """The permutation of a pipeline, a function of the recipe's seed; None for the original."""
    if pipeline == "original":
        return None
    if pipeline == "global":
        return global_shuffle(recipe.height_width, recipe.seed)
    return local_shuffle(recipe.height_width, patch_size, recipe.seed)


def measured(run: Finished, *, patch_size: int, is_converted: bool) -> Iterator[Number]:
    """The curves, the last few-shot score and, of a Mixer on original images, how exact its conversion is."""
    few_shot = f"probe/ridge_{SHOTS}shot"
    yield from curve(run.folder, {"val/top1": "val_top1 at epoch", few_shot: "few_shot at epoch"})
    rows = [row for row in read_metrics(run.folder.metrics) if few_shot in row]
    if rows:
        last = rows[-1]
        draws = sum(key.startswith(f"{few_shot}_seed") for key in last)
        yield Number("few_shot", last[few_shot], "share", spread=last.get(f"{few_shot}_std"), n=draws)
    yield Number(
        "macs", macs_of(run.model(), run.opened.source.channels, run.planned.recipe.height_width), "MACs/image"
    )
    if is_converted and run.planned.build is None:
        shuffle = local_shuffle(run.planned.recipe.height_width, patch_size, run.planned.recipe.seed)
        difference, largest = conversion_difference(run, shuffle, patch_size)
        yield Number("conversion_max_difference", difference, "logit", n=IMAGES)
        yield Number("largest_logit", largest, "logit", n=IMAGES)


def conversion_difference(run: Finished, shuffle: Shuffle, patch_size: int) -> tuple[float, float]:
    """Of the trained model on plain test images and the converted one on shuffled ones, in float64.

    Returns:
      The largest difference of two logits, and the largest logit.
    """
    model = run.model().double().cpu()
    preprocessing = info_of(model).preprocessing
    split = run.opened.plan.test
    images = data.EvalData(split.pick(np.arange(min(IMAGES, len(split)))), preprocessing).batches()
    x = torch.cat([normalise(pixels, preprocessing) for pixels, _, _ in images]).double()
    with torch.inference_mode():
        plain = model(x)
        converted = permuted(model, patches=shuffle.patches, pixels=shuffle.pixels)
        shuffled = converted(shuffle_patches(x, patch_size, patches=shuffle.patches, pixels=shuffle.pixels))
    return float((plain - shuffled).abs().max()), float(plain.abs().max())


def losses(run: Finished) -> Iterator[Number]:
    """The training loss of every ten steps."""
    yield from curve(run.folder, {"loss": "loss at step"}, by="step")


def read(rows: Sequence[Row]) -> Found:
    """What the rows say: curves, losses by shuffling, and the exact statements."""
    return read_by_source(rows, lambda row: row["data"].rpartition(", ")[0], _read)


def _read(rows: Sequence[Row]) -> Found:
    models = [model for model in dict.fromkeys(row["model"] for row in rows) if not model.startswith(PLAIN)]
    source = rows[0]["data"].rpartition(", ")[0] if rows else ""
    of = {(m, p): f"{source}, {p}" for m in models for p in PIPELINES}
    lines, said = [], []
    for model in models:
        few, top = (
            [values_of(rows, metric, model=model, data=of[model, p]) for p in PIPELINES]
            for metric in ("few_shot", "top1")
        )
        differences = [paired(few[0], other) for other in few[1:]]
        macs, seconds = (values_of(rows, name, model=model, data=of[model, "original"]) for name in ("macs", "seconds"))
        cells = [*map(percent, few), *map(percent, top), *map(points, differences)]
        lines.append((model, *cells, _median(macs, 1e6, ",.1f"), _median(seconds, 1, ",.0f"), f"{top[0].n}"))
        said += _sentences(model, few, top)
    exact_lines, exact_said, exact = _exactness(rows)
    head = ("model", *(f"{SHOTS}-shot {p}, %" for p in PIPELINES), *(f"top-1 {p}, %" for p in PIPELINES))
    few_shot_note = (
        f"{SHOTS}-shot is the paper's metric: a ridge classifier on the features of {SHOTS} images of each class of "
        f"other data, shuffled alike, scored on {PROBED:,} of its test images, or all if there are fewer. Intervals "
        f"are 95 %, paired by seed, in points; n is the number of seeds; s is their median, of a training on "
        f"original images."
    )
    table = Table(
        "Accuracy by pipeline",
        (*head, f"local less original, {SHOTS}-shot", f"global less original, {SHOTS}-shot", "MMACs", "s", "n"),
        tuple(lines),
        note=few_shot_note,
    )
    said += _against_the_mixer(rows, models, of)
    tables = (
        table,
        Table("Exact statements", ("statement", "largest difference", "of", "n"), tuple(exact_lines)),
        *failures(rows),
    )
    figures = tuple(
        Figure(
            f"{NAME}-{model.lower()}", svg, f"{model}: {SHOTS}-shot top-1 over training, mean and deviation of seeds."
        )
        for model in models
        if (svg := _curves(rows, model, of)) is not None
    )
    facts = {**exact, "curves": [_curve_fact(rows, m, p, of[m, p]) for m, p in of]}
    title = f"Permutations: {', '.join(models)} on shuffled {source}" if rows else "Permutations"
    return Found(title, (*exact_said, *said), figures, tables if rows else (), facts)


def _median(values: Values, unit: float, form: str) -> str:
    return f"{statistics.median(values.by_seed.values()) / unit:{form}}" if values.n else "–"


def _sentences(model: str, few: Sequence[Values], top: Sequence[Values]) -> Iterator[str]:
    """What shuffling costs the model, absolute and relative: by top-1, and by the paper's measure, few-shot top-1."""
    for place, pipeline in enumerate(PIPELINES[1:], start=1):
        said = [
            _cost(name, values[0], values[place])
            for name, values in (("test top-1", top), (f"{SHOTS}-shot top-1", few))
            if paired(values[0], values[place]).n
        ]
        if said:
            yield f"{model}, {pipeline} shuffle: {'; '.join(said)}."


def _cost(name: str, plain: Values, shuffled: Values) -> str:
    """What the shuffle costs by one measure, over the seeds that both have: in points, and as a share."""
    plain, shuffled = (
        Values({seed: values.by_seed[seed] for seed in plain.by_seed if seed in shuffled.by_seed})
        for values in (plain, shuffled)
    )
    difference, share = paired(plain, shuffled), relative(plain, shuffled)
    of = ""
    if share.n:
        ends = share.interval()
        around = "" if ends is None else f" [{100 * ends[0]:+.0f}, {100 * ends[1]:+.0f}]"
        of = f", {100 * share.mean:+.0f}{around} % of it"
    return (
        f"{percent(shuffled)} % against {percent(plain)} % {name}, {points(difference)} points "
        f"({difference.verdict()}){of} (n = {difference.n})"
    )


def _against_the_mixer(rows: Sequence[Row], models: Sequence[str], of: dict[tuple[str, str], str]) -> Iterator[str]:
    """Whether the Mixer loses less than each other model; the paper saw it lose less than a ResNet, by few-shot."""
    if "Mixer" not in models:
        return
    for pipeline in PIPELINES[1:]:
        for model in models:
            said = []
            for metric, name in (("top1", "test top-1"), ("few_shot", f"{SHOTS}-shot top-1")):
                if model == "Mixer":
                    continue
                losses = []
                for each in ("Mixer", model):
                    plain, shuffled = (
                        values_of(rows, metric, model=each, data=of[each, p]) for p in ("original", pipeline)
                    )
                    losses.append(less(plain, shuffled))
                difference = paired(*losses)
                if difference.n > 1:
                    verdict = difference.verdict()
                    words = {"better": "less", "worse": "more"}.get(verdict, f"not clearly less or more ({verdict})")
                    said.append(f"{words} by {name}, {points(difference)} points")
            if said:
                yield f"By the {pipeline} shuffle the Mixer loses, beside {model}, {'; '.join(said)}."


def _exactness(rows: Sequence[Row]) -> tuple[list[tuple[str, ...]], list[str], dict[str, float | None]]:
    """The lines, sentences and facts of conversion and of converted initial weights."""
    lines, said, facts = [], [], dict.fromkeys(("conversion_max_difference", *CURVE_FACTS.values()))
    converted, largest = (values_of(rows, name) for name in ("conversion_max_difference", "largest_logit"))
    if converted.n:
        worst = max(converted.by_seed.values())
        facts["conversion_max_difference"] = worst
        of = f"logits up to {max(largest.by_seed.values()):.1f}"
        lines.append(("a trained Mixer, converted, on shuffled images", f"{worst:.1e}", of, f"{converted.n}"))
        said.append(
            f"A trained Mixer converted by mx.permuted gives the same logits on shuffled images to {worst:.0e}, in "
            f"float64 on {IMAGES} test images (n = {converted.n})."
        )
    for name, fact in CURVE_FACTS.items():
        difference, seeds, steps = _loss_difference(rows, name)
        if difference is None:
            continue
        facts[fact] = difference
        what = name.removeprefix(f"{PLAIN}, ")
        lines.append((f"training loss, {what}", f"{difference:.1e}", f"losses of {steps} steps", f"{seeds}"))
    same, other = (facts[fact] for fact in CURVE_FACTS.values())
    if same is not None and other is not None:
        said.append(
            f"Trained on shuffled images from converted initial weights, its loss {_apart(same)} that on "
            f"plain images; from unconverted weights of the same seed it differs by up to {other:.0e} nat: "
            f"equal seeds give equal distributions only."
        )
    return lines, said, facts


def _apart(difference: float) -> str:
    """In words, for losses in nats."""
    return f"differs by at most {difference:.0e} nat from" if difference else "is exactly"


def _loss_difference(rows: Sequence[Row], name: str) -> tuple[float | None, int, int]:
    """Largest difference of the loss from that on plain images, number of seeds, and the last step."""
    by_place = {
        model: {(row["seed"], row["at"]): row["value"] for row in rows if row["model"] == model and "at" in row}
        for model in (PLAIN, name)
    }
    both = by_place[PLAIN].keys() & by_place[name].keys()
    if not both:
        return None, 0, 0
    difference = max(abs(by_place[PLAIN][place] - by_place[name][place]) for place in both)
    return difference, len({seed for seed, _ in both}), int(max(step for _, step in both))


def _points(rows: Sequence[Row], metric: str, model: str, source: str) -> list[tuple[float, Values]]:
    """The values at each epoch, from the first on."""
    mine = [row for row in rows if row["metric"] == metric and row["model"] == model and row["data"] == source]
    places = sorted({row["at"] for row in mine if "at" in row})
    return [(at, values_of(mine, metric, at=at)) for at in places]


def _curves(rows: Sequence[Row], model: str, of: dict[tuple[str, str], str]) -> str | None:
    """Few-shot accuracy over training by pipeline."""
    lines = []
    for number, pipeline in enumerate(PIPELINES):
        points = _points(rows, "few_shot at epoch", model, of[model, pipeline])
        if points:
            lines.append(Line(pipeline, tuple((at, v.mean, v.std) for at, v in points), number))
    if not lines:
        return None
    title = f"{SHOTS}-shot accuracy of {model} over training, by pipeline"
    return chart_svg(Chart(title, "epoch", f"{model}, {SHOTS}-shot top-1", tuple(lines), is_share=True))


def _curve_fact(rows: Sequence[Row], model: str, pipeline: str, source: str) -> dict[str, Any]:
    """One curve for the JSON object: means over the seeds."""
    few, val = (_points(rows, f"{name} at epoch", model, source) for name in ("few_shot", "val_top1"))
    return {
        "model": model,
        "pipeline": pipeline,
        "epochs": [at for at, _ in val],
        "val_top1": [values.mean for _, values in val],
        f"few_shot_{SHOTS}": [values.mean for _, values in few],
        "top1": values.mean if (values := values_of(rows, "top1", model=model, data=source)).n else None,
    }
