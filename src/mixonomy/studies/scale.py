"""What size buys: model size against the number of images, over- and underfitting, and the resolution of fine-tuning.

Every training has as many steps, on whatever share of the images, and the weights of its best validation score count,
as in the paper's figure 2 (right), which stops early on upstream validation.
Source: MLP-Mixer paper, sections 3.2 and 3.3, figure 2.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mixonomy import data
from mixonomy.evals import Classification, score
from mixonomy.models import create_from
from mixonomy.predicting import predictor_of
from mixonomy.recipe import Augment, Data, Model, Optim, Recipe, changed
from mixonomy.report.charts import Chart, Line, chart_svg
from mixonomy.report.study_page import Figure, Found, Table
from mixonomy.rows import Row
from mixonomy.studies.paired import Difference, less, paired, points
from mixonomy.studies.sources import read_by_source
from mixonomy.studies.study import Finished, Number, Planned, Study, Values, data_named, failures, percent, values_of
from mixonomy.studies.trace import macs_of

NAME = "scale"
FRACTIONS = (3, 10, 30, 100)  # % of the images; Source: MLP-Mixer paper, section 3.3
SIZES = {"tiny": (32, 4), "small": (64, 4), "base": (128, 6)}  # channels and blocks
QUICK_SIZES = {"tiny": (16, 2), "small": (32, 3), "base": (48, 4)}
RESOLUTION = "small"  # the size that is trained at half the side, then fine-tuned at that and at the whole
TUNED = " pixels"  # the end of the names of those
TUNING_LR, TUNING_STEPS = 0.25, 0.5  # times those of the trainings; source: none
TOKENS = (1, 2, 3, 4)  # times the side, for the cost of an image
LINEAR = 0.05  # share by which the cost of a token may differ and the cost of an image still be called linear
SCORED = 2_000  # training images that are scored beside the test images


def sizes_of(source: str, *, is_quick: bool) -> dict[str, Model]:
    """Mixers of three sizes, of patches of 2 pixels for the digits and of 4 for others; D_S = C / 2, D_C = 4 C."""
    patch = 2 if source == "digits" else 4
    return {
        name: Model(
            name="mixer",
            patch_size=patch,
            hidden_dim=width,
            num_blocks=blocks,
            tokens_mlp_dim=width // 2,
            channels_mlp_dim=4 * width,
        )
        for name, (width, blocks) in (QUICK_SIZES if is_quick else SIZES).items()
    }


def base_recipe(source: str, *, is_quick: bool, steps: int | None = None) -> Recipe:
    """What all trainings share; the model and the number of images are changed.

    Images are mirrored and no more: shifted ones are so many that few images are hardly overfitted in so short a
    training.

    Args:
      steps: of every training, in place of the study's own.
    """
    side = 8 if source == "digits" else 32
    steps = steps if steps is not None else 200 if is_quick else 800
    return Recipe(
        name=f"study-{NAME}",
        data=Data(source=source, val_share=0.1, eval_crop="squash"),
        image_size=side,
        augment=Augment(flip=source != "digits"),
        optim=Optim(name="adamw", lr=2e-3, weight_decay=0.1, clip=1.0),
        duration=f"{steps} steps",
        eval_every=f"{max(steps // 6, 1)} steps",
        batch_size=64,
        keep="best",
    )


def scale(
    base: Recipe,
    sizes: dict[str, Model],
    num_images: int,
    seeds: Sequence[int],
    fractions: Sequence[int] = FRACTIONS,
) -> Study:
    """The study.

    Args:
      num_images: of train and val together, what 100 % are; a tenth of every share is held out, not val as such.
      fractions: in %.
    Raises:
      ValueError: for a fraction outside (0, 100].
    """
    for fraction in fractions:
        if not 0 < fraction <= 100:
            raise ValueError(f"a fraction is {fraction} %; give more than 0 and at most 100.")
        if fractions.count(fraction) > 1:
            raise ValueError(f"the fraction {fraction} % is given twice; give each once.")
    planned = []
    for seed in seeds:
        for name, model in sizes.items():
            for fraction in fractions:
                count = max(round(num_images * fraction / 100), 1)
                recipe = changed(base, seed=seed, model=model, data={"train_images": count})
                where = f"{data_named(base)}, {fraction} %"
                planned.append(Planned(f"Mixer {name}", where, recipe, measure=measured))
        if RESOLUTION in sizes and 100 in fractions:
            whole = changed(base, seed=seed, model=sizes[RESOLUTION], data={"train_images": num_images})
            planned += _tuned(whole, f"{data_named(base)}, 100 %")
    return Study(NAME, tuple(planned), read)


def _tuned(recipe: Recipe, where: str) -> Iterator[Planned]:
    """A training at half the side, and its weights fine-tuned at that side and at the whole."""
    name = f"Mixer {RESOLUTION}"
    side, steps = recipe.height_width[0], int(recipe.duration.split()[0])
    half = side // 2
    small = changed(recipe, image_size=half)
    start = Planned(f"{name}, trained at {half}{TUNED}", where, small, measure=measured)
    yield start
    assert recipe.optim.lr is not None, "the base recipe has one"
    for size in (half, side):
        tuned = changed(
            small,
            image_size=size,
            optim={"lr": recipe.optim.lr * TUNING_LR},
            duration=f"{max(round(steps * TUNING_STEPS), 1)} steps",
        )
        yield Planned(f"{name}, fine-tuned at {size}{TUNED}", where, tuned, measure=measured, start=start)


def measured(run: Finished) -> Iterator[Number]:
    """Accuracy on training images as evaluation sees them, and what an image costs."""
    plan, model = run.opened.plan, run.model()
    scored = np.linspace(0, len(plan.train) - 1, min(SCORED, len(plan.train)))  # of all classes, if they are sorted
    train = plan.train.pick(scored.astype(np.int64))
    predictor = predictor_of(model, run.runtime.device)
    batches = data.EvalData(train, predictor.preprocessing).batches()
    scores = dict(score(predictor, batches, Classification(len(run.opened.source.class_names))).scores())
    yield Number("train_top1", scores["top1"], "share", n=len(train))
    yield Number("train_images", len(plan.train), "images")
    height, width = predictor.preprocessing.image_size
    yield Number("macs", macs_of(model, run.opened.source.channels, (height, width)), "MACs/image")
    recipe = run.planned.recipe
    if run.planned.data.endswith(", 100 %") and not run.planned.model.endswith(TUNED):
        for factor in TOKENS:
            size = (height * factor, width * factor)
            fresh = create_from(recipe.model, num_classes=10, image_size=size, in_channels=3)
            tokens = size[0] * size[1] // recipe.model.patch_size**2 if recipe.model.patch_size else 0
            yield Number("macs by tokens", macs_of(fresh, 3, size), "MACs/image", at=tokens)


def power_law(images: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """(a, b) of error = a * images^-b, by least squares of the logarithms.

    Source: Hestness et al. 2017, "Deep learning scaling is predictable, empirically", section 3.
    """
    slope, intercept = np.polyfit(np.log(images), np.log(errors), 1)
    return float(np.exp(intercept)), float(-slope)


def read(rows: Sequence[Row]) -> Found:
    """What the rows say: accuracy by size and share, the gap between train and test, fitted curves, resolutions."""
    return read_by_source(rows, lambda row: row["data"].rpartition(", ")[0], _read)


def _read(rows: Sequence[Row]) -> Found:
    if not rows:
        return Found("Scale", ())
    models = [m for m in dict.fromkeys(row["model"] for row in rows) if not m.endswith(TUNED)]
    shares = sorted({_share(row["data"]) for row in rows})
    source = rows[0]["data"].rpartition(", ")[0]
    grid = {(m, s): f"{source}, {s} %" for m in models for s in shares}
    lines, fits, said, exponents = [], {}, [], []
    for model in models:
        for share in shares:
            lines.append(_line(rows, model, share, grid[model, share]))
        places = [grid[model, share] for share in shares]
        if (fit := _fit(rows, model, places)) is not None:
            fits[model] = fit
            exponents += [text for text in (_said_of_fit(model, _exponent(rows, model, places)),) if text]
    said += _sentences(rows, models, shares, grid)
    said += exponents
    said += [text for text in (_linear(rows), _said_of_resolution(rows)) if text]
    head = "model|images|share|test top-1, %|train top-1, %|train less test|parameters|MMACs|s|n".split("|")
    note = (
        "Every training has the same number of steps; the weights with the best validation score count. Train is "
        "scored as test is, without augmentation. The gap is in points with its 95 % interval over seeds."
    )
    tables = [Table("Size against data", tuple(head), tuple(lines), num_texts=1, note=note)]
    if (tuned := _resolutions(rows)) is not None:
        tables.append(tuned)
    if (by_tokens := _token_table(rows, models)) is not None:
        tables.append(by_tokens)
    tables += failures(rows)
    facts = {"fits": {model: {"a": a, "b": b} for model, (a, b) in fits.items()}}
    return Found(
        f"Scale of Mixers on {source}",
        tuple(said),
        tuple(_figures(rows, models, shares, grid, fits)),
        tuple(tables),
        facts,
    )


def _share(where: str) -> int:
    return int(where.rpartition(", ")[2].removesuffix(" %"))


def _line(rows: Sequence[Row], model: str, share: int, where: str) -> tuple[str, ...]:
    test, train = (values_of(rows, metric, model=model, data=where) for metric in ("top1", "train_top1"))

    def number(metric: str, scale: float, form: str) -> str:
        values = values_of(rows, metric, model=model, data=where)
        return f"{values.mean / scale:{form}}" if values.n else "–"

    costs = (number("params", 1, ",.0f"), number("macs", 1e6, ",.1f"), number("seconds", 1, ",.0f"))
    images, gap = number("train_images", 1, ",.0f"), points(paired(test, train))
    return (model, images, f"{share} %", percent(test), percent(train), gap, *costs, f"{test.n}")


def _fit(rows: Sequence[Row], model: str, places: Sequence[str]) -> tuple[float, float] | None:
    """The power law of the mean test error; None with fewer than three numbers of images."""
    found = [
        (images.mean, 1 - top.mean)
        for where in places
        if (top := values_of(rows, "top1", model=model, data=where)).n
        and (images := values_of(rows, "train_images", model=model, data=where)).n
        and top.mean < 1
    ]
    return power_law(*zip(*found, strict=True)) if len(found) >= 3 else None


def _exponent(rows: Sequence[Row], model: str, places: Sequence[str]) -> Difference:
    """Of the power law -b, fitted to each seed that has three numbers of images or more."""
    tops = [values_of(rows, "top1", model=model, data=where) for where in places]
    counts = [values_of(rows, "train_images", model=model, data=where) for where in places]
    found = []
    for seed in dict.fromkeys(seed for top in tops for seed in top.by_seed):
        pairs = [
            (count.mean, 1 - top.by_seed[seed])
            for count, top in zip(counts, tops, strict=True)
            if count.n and top.by_seed.get(seed, 1.0) < 1
        ]
        if len(pairs) >= 3:
            found.append(-power_law(*zip(*pairs, strict=True))[1])
    return Difference(tuple(found))


def _said_of_fit(model: str, exponent: Difference) -> str:
    """How the test error goes with the images, and how sure that is; "" without a fit of any seed."""
    if not exponent.n:
        return ""
    ends = exponent.interval()
    if ends is None:
        return f"{model}: test error goes as images^{exponent.mean:.2f}, fitted to one seed."
    how = "falls" if ends[1] < 0 else "rises" if ends[0] > 0 else "neither clearly falls nor rises"
    return (
        f"{model}: test error {how} with the images, as images^{exponent.mean:.2f}, fitted seed by seed (95 % interval "
        f"of the exponent [{ends[0]:+.2f}, {ends[1]:+.2f}], n = {exponent.n})."
    )


def _sentences(
    rows: Sequence[Row], models: Sequence[str], shares: Sequence[int], grid: dict[tuple[str, int], str]
) -> Iterator[str]:
    """Who gains most from data, and who overfits few images most."""
    tops = {key: values_of(rows, "top1", model=key[0], data=where) for key, where in grid.items()}
    trains = {key: values_of(rows, "train_top1", model=key[0], data=where) for key, where in grid.items()}
    few, most = shares[0], shares[-1]
    small, large = models[0], models[-1]
    if small != large:
        gains = paired(*(less(tops[model, most], tops[model, few]) for model in (small, large)))
        if few != most and gains.n > 1:
            yield f"From {few} to {most} % of the images {large} gains {_more(gains)} {small}: {points(gains)} points."
        for share in dict.fromkeys((few, most)):
            difference = paired(tops[small, share], tops[large, share])
            if difference.n:
                verdict = difference.verdict()
                yield f"{large} less {small} with {share} % of the images: {points(difference)} points ({verdict})."
        for share in shares:
            gaps = paired(*(less(trains[model, share], tops[model, share]) for model in (small, large)))
            if gaps.n > 1:
                yield (
                    f"With {share} % of the images the train accuracy of {large} is {_farther(gaps)} its test accuracy "
                    f"than that of {small}: {points(gaps)} points."
                )
    for model in models:
        if few != most and tops[model, few].n and tops[model, most].n:
            gain = paired(tops[model, few], tops[model, most])
            gaps = [points(paired(tops[model, share], trains[model, share])) for share in (few, most)]
            yield (
                f"{model}: {points(gain)} points from {few} % to {most} % of the images; train less test {gaps[0]} "
                f"points with {few} %, {gaps[1]} with {most} %."
            )


def _farther(gaps: Difference) -> str:
    words = {"better": "farther above", "worse": "less far above"}
    return words.get(gaps.verdict(), "not clearly farther above")


def _more(gains: Difference) -> str:
    words = {"better": "more than", "worse": "less than"}
    return words.get(gains.verdict(), "not clearly more or less than")


def _linear(rows: Sequence[Row]) -> str:
    """How MACs grow with tokens, as the largest departure from a constant cost of a token."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["metric"] == "macs by tokens":
            found.setdefault(row["model"], {})[row["at"]] = row["value"]
    worst = 0.0
    for by_tokens in found.values():
        per_token = [macs / tokens for tokens, macs in by_tokens.items()]
        worst = max(worst, max(per_token) / min(per_token) - 1)
    if not found:
        return ""
    differ = f"MACs of a token differ by {100 * worst:.2f} % at most"
    if worst > LINEAR:
        return f"With D_S fixed, the cost of these Mixers is not linear in their tokens: {differ}."
    return f"With D_S fixed, the cost of a Mixer is linear in its tokens to {100 * LINEAR:g} %: {differ}."


def _resolutions(rows: Sequence[Row]) -> Table | None:
    """The training at half the side, and its weights fine-tuned at that side and at the whole."""
    lines = []
    names = [name for name in dict.fromkeys(row["model"] for row in rows) if name.endswith(TUNED)]
    for name in names:
        top, first = (values_of(rows, "top1", model=each) for each in (name, names[0]))
        params, macs, seconds = (values_of(rows, metric, model=name) for metric in ("params", "macs", "seconds"))
        if top.n and params.n and macs.n and seconds.n:
            less_first = "–" if name == names[0] else points(paired(first, top))
            costs = (f"{params.mean:,.0f}", f"{macs.mean / 1e6:,.1f}", f"{seconds.mean:,.0f}")
            lines.append((name, percent(top), less_first, *costs, f"{top.n}"))
    if not lines:
        return None
    note = (
        "At k times the side, the paper's scheme has k^2 times the tokens and D_S, and token MLPs cost k^4. "
        f"Fine-tuning has {100 * TUNING_STEPS:g} % of the steps at {100 * TUNING_LR:g} % of the learning rate."
    )
    head = ("model", "test top-1, %", "less the first", "parameters", "MMACs", "s", "n")
    return Table("Fine-tuning resolution", head, tuple(lines), num_texts=1, note=note)


def _said_of_resolution(rows: Sequence[Row]) -> str:
    """Whether fine-tuning at the whole side pays against fine-tuning at half of it, for as many steps."""
    names = [name for name in dict.fromkeys(row["model"] for row in rows) if "fine-tuned" in name]
    if len(names) < 2:
        return ""
    low, high = (values_of(rows, "top1", model=name) for name in names[:2])
    costs = [values_of(rows, "macs", model=name) for name in names[:2]]
    difference = paired(low, high)
    if not (difference.n and all(cost.n for cost in costs)):
        return ""
    return (
        f"{names[1]} less {names[0].partition(', ')[2]}, from the same weights: {points(difference)} points "
        f"({difference.verdict()}), at {costs[1].mean / costs[0].mean:.1f} times the MACs."
    )


def _token_table(rows: Sequence[Row], models: Sequence[str]) -> Table | None:
    places = sorted({row["at"] for row in rows if row["metric"] == "macs by tokens"})
    if not places:
        return None
    cells = {m: [values_of(rows, "macs by tokens", model=m, at=at) for at in places] for m in models}
    lines = tuple(
        (model, *(f"{each.mean / 1e6:,.1f}" if each.n else "–" for each in found)) for model, found in cells.items()
    )
    head = ("MMACs of an image", *(f"{at:,.0f} tokens" for at in places))
    return Table("Cost against tokens", head, lines, num_texts=1, note="D_S stays as it is.")


def _figures(
    rows: Sequence[Row],
    models: Sequence[str],
    shares: Sequence[int],
    grid: dict[tuple[str, int], str],
    fits: dict[str, tuple[float, float]],
) -> Iterator[Figure]:
    def line(metric: str, model: str, number: int, name: str, *, is_error: bool) -> Line:
        found: list[tuple[float, Values]] = []
        for share in shares:
            images = values_of(rows, "train_images", model=model, data=grid[model, share])
            values = values_of(rows, metric, model=model, data=grid[model, share])
            if images.n and values.n:
                found.append((images.mean, values))
        y = tuple((x, 1 - v.mean if is_error else v.mean, v.std) for x, v in found)
        return Line(name, y, number, is_joined=not is_error)

    errors = [line("top1", model, i, model, is_error=True) for i, model in enumerate(models)]
    errors = [each for each in errors if each.points and min(y for _, y, _ in each.points) > 0]
    if errors:
        curves = [
            Line(f"fit, {model}", _fitted(fits[model], errors), i, has_markers=False)
            for i, model in enumerate(models)
            if model in fits
        ]
        chart = Chart(
            "test error against training images by model size", "training images", "test error",
            (*errors, *curves), is_share=True, is_log=True, is_log_y=True,
        )  # fmt: skip
        yield Figure(
            f"{NAME}-error", chart_svg(chart), "Test error with its deviation, and power laws fitted to the means."
        )
    for number, model in enumerate(models):
        both = [
            line(metric, model, place, name, is_error=False)
            for place, (metric, name) in enumerate((("train_top1", "train"), ("top1", "test")))
        ]
        both = [each for each in both if each.points]
        if both:
            title = f"training and test accuracy of {model} against training images"
            chart = Chart(title, "training images", f"{model}, top-1", tuple(both), is_share=True, is_log=True)
            name = f"{NAME}-{number}"
            yield Figure(name, chart_svg(chart), f"{model}: where train is far above test, it overfits.")


def _fitted(fit: tuple[float, float], errors: Sequence[Line]) -> tuple[tuple[float, float, None], ...]:
    """Two ends of the law, a straight line on logarithmic axes."""
    ends = [x for line in errors for x, _, _ in line.points]
    return tuple((x, fit[0] * math.exp(-fit[1] * math.log(x)), None) for x in (min(ends), max(ends)))
