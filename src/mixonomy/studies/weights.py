"""What a trained model has learned, in its weights and by its Jacobian: rows, and what they say.

Beside every number of the weights stands that of the same architecture before training, which is the chance level:
initial weights are drawn independently, so their maps are white noise.

Axes: B images, c image channels, H and W pixels, U units.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixonomy import data
from mixonomy.bench.infer import images_of
from mixonomy.evals import normalise
from mixonomy.models import create, info_of
from mixonomy.models.isotropic import patch_grid
from mixonomy.models.timm_model import PREFIX
from mixonomy.report.charts import Chart, Line, chart_svg
from mixonomy.report.study_page import Figure, Found, Table
from mixonomy.report.weights_page import UnitMaps
from mixonomy.rows import Origin, Row, make_row
from mixonomy.studies.maps import LOCAL, depth_trend, numbers_of, paired_order, stem_kernels, token_maps
from mixonomy.studies.reach import block_names, reach

STUDY = "weights"
UNTRAINED = ", untrained"
RANDOM = "random images"
GLOBAL = 0.5  # a block mixes globally if it looks farther than this share of what looking everywhere alike would be
FLAT = 0.05  # of the value by chance: smaller differences are not called any
CLEAR = 0.05  # cosines closer together are not called different
STRONG = 0.6  # rank correlations with the depth below this are not called a trend

UNITS = {
    "frequency": "cycles per token",
    "mirror": "cosine",
    "opposite": "cosine",
    "alike": "cosine",
    "radius": "share of a constant map's",
    "local": "share",
    "rank": "share",
    "mixing_rank": "share",
}
DISTANCES = ("distance", "elsewhere", "distance_elsewhere", "from_image", "uniform")


@dataclass(frozen=True)
class Images:
    """What the Jacobian is taken at.

    Args:
      pixels: float [B, c, H, W], prepared for the model.
      name: of the data.
    """

    pixels: Tensor
    name: str


def images_for(model: nn.Module, source: str | None, data_root: str | None, count: int) -> Images:
    """Test images of the data, evenly over the split; of the model's own if no data is named.

    Random ones, see `mixonomy.bench.infer.images_of`, if the weights name no data.

    Raises:
      ValueError: if the data is not there or has no images that the model reads.
    """
    info = info_of(model)
    source = source or (info.trained_on.source if info.trained_on else None)
    if source is None:
        return Images(images_of(model, count), RANDOM)
    test = data.plan_splits(data.open_source(source, data_root), 0.0).test
    chosen = test.pick(np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(int))
    pixels = torch.cat([images for images, _, _ in data.EvalData(chosen, info.preprocessing).batches()])
    return Images(normalise(pixels, info.preprocessing), source)


def token_grid(model: nn.Module) -> tuple[int, int] | None:
    """(rows, columns) of tokens; None for models that cut images into no patches."""
    arguments = info_of(model).arguments
    size = arguments.get("patch_size")
    return None if size is None else patch_grid(tuple(arguments["image_size"]), size)


def rows_of(name: str, model: nn.Module, images: Images, where: Origin, *, num_probes: int = 16) -> Iterator[Row]:
    """All numbers of a model, `at` the number of the block, from 1.

    Args:
      name: of the model in the rows.
      images: for the Jacobian.
    Raises:
      ValueError: if the model's layers cannot be told apart, see `mixonomy.studies.reach`.
    """

    def row(metric: str, value: float, unit: str, **about: Any) -> Row:
        return make_row(where, study=STUDY, metric=metric, value=value, unit=unit, **{"model": name, **about})

    place = f"{images.name}, {len(images.pixels)} images"
    for number, found in enumerate(reach(model, images.pixels, num_probes=num_probes), start=1):
        note = f"{found.layer}, {found.kind}, {found.grid[0]} x {found.grid[1]}"
        for metric in DISTANCES:
            if (value := getattr(found, metric)) is not None:
                unit = "share" if metric == "elsewhere" else "share of the image's side"
                yield row(metric, value, unit, data=place, at=float(number), note=note)
    grid = token_grid(model)
    for label, each in ((name, model), (f"{name}{UNTRAINED}", untrained(model))):
        if each is None:
            continue
        if grid is not None:
            for layer in token_maps(each, grid):
                number = _block_number(model, layer.name)
                for metric, value in asdict(numbers_of(layer.units, layer.mixing)).items():
                    yield row(metric, value, UNITS[metric], model=label, data="weights", at=number, note=layer.name)
        if (kernels := stem_kernels(each)) is not None:
            shape = " x ".join(map(str, kernels.shape[-2:]))
            for metric, value in asdict(numbers_of(kernels)).items():
                if metric in ("frequency", "opposite", "alike", "rank"):
                    unit = "cycles per pixel" if metric == "frequency" else UNITS[metric]
                    yield row(f"stem {metric}", value, unit, model=label, data="weights", note=f"{shape} pixels")


def untrained(model: nn.Module) -> nn.Module | None:
    """The same architecture with fresh weights, always the same; None for a module of somebody's own."""
    arguments = info_of(model).arguments
    if not arguments:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create(**{**arguments, "image_size": tuple(arguments["image_size"])}).eval()


def _block_number(model: nn.Module, layer: str) -> float:
    """The number, from 1, of the block that a layer stands in."""
    blocks = block_names(model)
    return float(1 + next(i for i, block in enumerate(blocks) if layer.startswith(f"{block}.")))


def unit_maps(name: str, model: nn.Module) -> list[UnitMaps]:
    """The units of each token mixer, sorted and paired, see `mixonomy.studies.maps.paired_order`."""
    grid = token_grid(model)
    layers = [] if grid is None else token_maps(model, grid)
    return [
        UnitMaps(f"{name}, block {_block_number(model, layer.name):.0f}", layer.units[paired_order(layer.units)])
        for layer in layers
    ]


def stem_maps(name: str, model: nn.Module) -> list[tuple[str, Tensor]]:
    """The kernels of the first convolution, sorted and paired alike; none of a model that has none."""
    kernels = stem_kernels(model)
    return [] if kernels is None else [(name, kernels[paired_order(kernels)])]


def occlusion_window(model: nn.Module) -> int:
    """Side of the square that hides a part of an image: an eighth of it, and no less than a patch."""
    info = info_of(model)
    side = min(info.preprocessing.image_size)
    return max(side // 8, min(info.arguments.get("patch_size") or 1, side), 1)


def label_of(model: nn.Module, where: str, taken: Sequence[str]) -> str:
    """What a model is called in rows: its architecture, and where it is from if another has that name already."""
    name = info_of(model).arguments.get("name", type(model).__name__)
    name = name.removeprefix(PREFIX)
    return name if name not in taken else f"{name} ({where})"


def read(rows: Sequence[Row]) -> Found:
    """What rows of this study say; the numbers of each model, newest first, and what changes with the depth."""
    series = _series(rows)
    models = [model for model in dict.fromkeys(row["model"] for row in rows) if not model.endswith(UNTRAINED)]
    figures, tables, said, topics = [], [], [], []
    for model in models:
        maps = series.get((model, "frequency"))
        texts = [*_said_of_reach(model, series), *(_said_of_maps(model, series) if maps else ())]
        said += texts
        topics += [model] * len(texts)
    figures += [
        _depth_chart(series, models, "from_image", "How far back to the image: distance, % of its side"),
        _depth_chart(series, models, "distance_elsewhere", "What a block reads beside its own place: distance, %"),
    ]
    for metric, label in (
        ("frequency", "Frequency of token-mixing units, cycles per token"),
        ("mirror", "Symmetry of a unit, |cosine| with its mirror image"),
        ("opposite", "Nearest opposite of a unit, cosine"),
        ("radius", "Spread of a unit, share of a constant map's"),
        ("mixing_rank", "Effective rank of the token mixing, share of S"),
    ):
        figures.append(_depth_chart(series, models, metric, label, with_untrained=True))
    tables += [table for table in (_reach_table(series, models), _maps_table(series, models), _stems(rows)) if table]
    if not said:
        said, topics = ["No rows yet."], [""]
    return Found(
        f"What the weights of {models[0]} have learned" if len(models) == 1 else "What the weights have learned",
        tuple(said),
        tuple(figure for figure in figures if figure is not None),
        tuple(tables),
        {"models": models},
        tuple(topics),
    )


Series = dict[tuple[str, str], dict[float, Row]]
"""(model, metric) -> block -> row."""


def _series(rows: Sequence[Row]) -> Series:
    found: Series = {}
    for row in rows:
        if row.get("at") is not None:
            found.setdefault((row["model"], row["metric"]), {})[row["at"]] = row
    return found


def _values(series: Series, model: str, metric: str) -> list[float]:
    found = series.get((model, metric), {})
    return [found[at]["value"] for at in sorted(found)]


def _said_of_reach(model: str, series: Series) -> Iterator[str]:
    """How far the first, the middle and the last block look, and which of them mix globally."""
    distance, uniform = _values(series, model, "distance_elsewhere"), _values(series, model, "uniform")
    back = _values(series, model, "from_image")
    if not distance or len(distance) != len(uniform):
        if back:
            yield f"From its last block one looks back {_percent(back[-1])} of the image's side on average."
        return
    share = [d / u for d, u in zip(distance, uniform, strict=True)]
    is_global = [value > GLOBAL for value in share]
    kinds = [number for number, far in enumerate(is_global, start=1) if far]
    said = (
        f"All {len(share)} blocks mix globally"
        if all(is_global)
        else f"No block of {len(share)} mixes globally"
        if not kinds
        else f"Global mixing in block {_numbers(kinds)} of {len(share)}, local in the others"
    )
    random = " (at random images, which are no photographs)" if _is_random(series, model) else ""
    yield (
        f"{said}{random}: what a block reads beside its own place is {_percent(min(distance))} to "
        f"{_percent(max(distance))} of the image's side away, {share[0]:.2f} of what looking everywhere alike would "
        f"give in the first block and {share[-1]:.2f} in the last. Back to the pixels it is {_percent(back[0])} after "
        f"the first block and {_percent(back[-1])} after the last."
    )


def _said_of_maps(model: str, series: Series) -> Iterator[str]:
    """What becomes of the units with depth, against chance."""
    about = {}
    for metric in ("frequency", "opposite", "alike", "local", "mirror", "mixing_rank"):
        values, chance = _values(series, model, metric), _values(series, f"{model}{UNTRAINED}", metric)
        about[metric] = (values, chance or [math.nan] * len(values))
    frequency, noise = about["frequency"]
    trend = depth_trend(frequency)
    if trend is None or abs(trend) < STRONG or max(frequency) - min(frequency) < FLAT * _mean(noise):
        words = "with no clear trend over the depth"
    else:
        words = f"and {'rise' if trend > 0 else 'fall'} with the depth (rank correlation {trend:+.2f})"
    yield (
        f"Frequencies of token-mixing units go from {frequency[0]:.2f} cycles per token in the first block to "
        f"{frequency[-1]:.2f} in the last, untrained ones have {_mean(noise):.2f} (white noise); they are "
        f"{'lower' if _mean(frequency) < (1 - FLAT) * _mean(noise) else 'not lower'} than chance on average, {words}."
    )
    (opposite, opposite_chance), (alike, alike_chance) = about["opposite"], about["alike"]
    verdict = (
        "so there are opposite pairs, as the paper saw"
        if _mean(opposite) > _mean(opposite_chance) + CLEAR and _mean(opposite) > _mean(alike) - CLEAR
        else "so units have near copies rather than opposites"
        if _mean(alike) > _mean(alike_chance) + CLEAR
        else "which is about chance: opposite pairs are not what these weights are made of"
    )
    local, rank = (tuple(_percent(_mean(values)) for values in about[metric]) for metric in ("local", "mixing_rank"))
    yield (
        f"A unit's nearest opposite has the cosine {_mean(opposite):.2f} (chance "
        f"{_mean(opposite_chance):.2f}), its nearest copy {_mean(alike):.2f} (chance {_mean(alike_chance):.2f}), "
        f"{verdict}. {local[0]} of the units are local (radius below {LOCAL:g} of a constant map's; "
        f"chance {local[1]}); the mixing has {rank[0]} of the possible rank (chance {rank[1]})."
    )


def _is_random(series: Series, model: str) -> bool:
    return next(iter(series[model, "from_image"].values()))["data"].startswith(RANDOM)


def _depth_chart(
    series: Series, models: Sequence[str], metric: str, label: str, *, with_untrained: bool = False
) -> Figure | None:
    """A metric over the depth, from 0 at the first block to 1 at the last, so that models of any depth compare."""
    lines = []
    is_share = metric in ("from_image", "distance_elsewhere")
    for place, model in enumerate(models):
        for name in (model, f"{model}{UNTRAINED}") if with_untrained else (model,):
            found = series.get((name, metric), {})
            last = max(found, default=1.0)
            points = tuple(
                ((at - 1) / max(last - 1, 1), found[at]["value"] * (100 if is_share else 1), None)
                for at in sorted(found)
            )
            if points:
                colour = 2 * place if with_untrained else place
                lines.append(Line(name, points, colour + name.endswith(UNTRAINED)))
    if not lines:
        return None
    chart = Chart(f"{label} over the depth", "depth, 0 is the first block", label, tuple(lines), from_zero=True)
    return Figure(f"weights-{metric.replace('_', '-')}", chart_svg(chart), f"{label}; definitions below the tables.")


def _reach_table(series: Series, models: Sequence[str]) -> Table | None:
    lines = []
    for model in models:
        found = series.get((model, "distance"), {})
        for at in sorted(found):
            cells = [_percent(series.get((model, metric), {}).get(at, {}).get("value")) for metric in DISTANCES]
            layer = found[at]["note"]
            lines.append((model, f"{at:.0f}", layer, found[at]["data"], *cells))
    head = ("model", "block", "layer", "images", "distance", "elsewhere", "distance elsewhere", "from image", "uniform")
    note = (
        "Distances are shares of the image's side: means over output places, weighted by squared Jacobian entries. "
        "Distance: between a block's output and what it reads in its own input, its skip included; elsewhere: the "
        "share of the squared Jacobian at other places than the output's own, and the distance of those alone; from "
        "image: from the block's output to the pixels; uniform: the distance elsewhere if all places counted alike. A "
        f"block mixes globally here if its distance elsewhere is more than {GLOBAL:g} of uniform."
    )
    return Table("How far each block looks", head, tuple(lines), 4, note) if lines else None


def _maps_table(series: Series, models: Sequence[str]) -> Table | None:
    lines = []
    for model in models:
        for at in sorted(series.get((model, "frequency"), {})):
            cells = []
            for metric in UNITS:
                mine = series[model, metric][at]["value"]
                chance = series.get((f"{model}{UNTRAINED}", metric), {}).get(at)
                cells.append(f"{mine:.2f}" + (f" ({chance['value']:.2f})" if chance else ""))
            lines.append((model, f"{at:.0f}", *cells))
    head = ("model", "block", "frequency", "mirror", "opposite", "alike", "radius", "local", "rank", "mixing rank")
    note = (
        "Means over the units of a block; in brackets before training. Frequency: of a unit's input weights over the "
        "grid, cycles per token, weighted by power (cosine transform). Mirror: |cosine| with the mirrored map, 1 is "
        "even or odd. Opposite and alike: cosine with the unit's nearest negative and nearest copy among the others. "
        "Radius: root mean square spread over that of a constant map; local: share of units with a radius below "
        f"{LOCAL:g}. Rank: effective rank (exp of the entropy of singular values) over the largest possible, of the "
        "input weights and of both matrices multiplied."
    )
    return Table("Units of the token mixers", head, tuple(lines), 2, note) if lines else None


def _stems(rows: Sequence[Row]) -> Table | None:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["metric"].startswith("stem "):
            found.setdefault((row["model"], row["note"]), {})[row["metric"].removeprefix("stem ")] = row["value"]
    metrics = ("frequency", "opposite", "alike", "rank")
    lines = tuple((*key, *(f"{values[metric]:.3f}" for metric in metrics)) for key, values in found.items())
    note = "Frequency in cycles per pixel, all colours of a kernel together; the others as above."
    return Table("Stem kernels", ("model", "kernel", *metrics), lines, 2, note) if lines else None


def _numbers(numbers: Sequence[int]) -> str:
    """ "1 to 3 and 7" of [1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _percent(share: float | None) -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %"
