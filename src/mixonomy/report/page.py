"""The report of a finished run: one HTML page that needs nothing but itself."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open

from mixonomy import data
from mixonomy.models.files import write_atomically
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Recipe
from mixonomy.report import markup
from mixonomy.report.document import document
from mixonomy.report.intervals import wilson_interval
from mixonomy.runs import RunFolder, read_metrics

HEAT_MAP_CLASSES = 40
TABLE_CLASSES = 1000
CONTENTS = (
    ("curves", "Learning curves"),
    ("calibration", "Calibration"),
    ("confusion", "Confusion"),
    ("classes", "Classes"),
    ("mistakes", "Mistakes"),
    ("samples", "Training images"),
    ("recipe", "Recipe"),
    ("environment", "Environment"),
)


def write_report(folder: RunFolder, *, data_root: str | None = None) -> Path:
    """Writes report.html of a finished run, from what its folder holds and, for the pictures, its data.

    Args:
      folder: the run.
      data_root: folder of the known data sets; $MIXONOMY_DATA if not given.
    Returns:
      Where the page is.
    Raises:
      ValueError: if the run is not finished, or one of its files is missing or damaged.
    """
    info, result = folder.info(), folder.result()
    if result is None:
        raise ValueError(f"the run in {folder.path} is not finished; run the same `mixonomy train` command again.")
    try:
        test = json.loads(folder.test.read_bytes())
        with safe_open(folder.model, framework="pt") as file:
            model = json.loads(file.metadata()["mixonomy"])
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the run in {folder.path} lacks a file or has a damaged one ({error}).") from None
    recipe, names = folder.recipe(), model["class_names"]
    preprocessing = Preprocessing.from_dict(model["preprocessing"])
    page = document(
        f"{result['model']} on {result['data']}",
        _headline(info, result, names),
        CONTENTS,
        _curves(read_metrics(folder.metrics), result),
        _calibration(test),
        _confusion(test, names),
        _classes(test, names),
        *_pictures(test, names, recipe, preprocessing, data_root),
        _recipe(recipe, is_own=result["model"] != recipe.model.name),
        _environment(info),
    )
    write_atomically(folder.report, page.encode())
    return folder.report


def _headline(info: dict[str, Any], result: dict[str, Any], names: Sequence[str]) -> str:
    n, facts = result["n"], info["facts"]
    low, high = wilson_interval(round(result["top1"] * n), n)
    # Those integers are sizes; a module of the user's own has another name than the recipe's model.
    model = info["recipe"]["model"]
    sizes = [f"{name} {value}" for name, value in model.items() if isinstance(value, int)]
    about = (
        f"Recipe {result['recipe']}, seed {result['seed']}: {facts['images']:,} training images of "
        f"{len(names):,} classes, {result['steps']:,} steps, {info['started'][:10]}."
    )
    if sizes and result["model"] == model["name"]:
        about += f" Model: {', '.join(sizes)}."
    # Among five classes or fewer, the five likeliest always hold the right one.
    top5 = [("top-5", f"{result['top5']:.2%}")] if len(names) > 5 else []
    return (
        f"{markup.paragraph(about)}"
        f'<p class="score"><strong>{result["top1"]:.2%}</strong> top-1 on {n:,} images ({escape(result["split"])}), '
        f"95 % interval {low:.2%} to {high:.2%}</p>"
    ) + markup.tiles(
        [
            *top5,
            ("macro F1", f"{result['macro_f1']:.4f}"),
            ("NLL", f"{result['nll']:.4f}"),
            ("calibration error", f"{result['ece']:.2%}"),
            ("parameters", f"{result['params']:,}"),
            ("training time", _duration(result["seconds"])),
            ("images/s", f"{result['images_per_s']:,.0f}"),
        ]
    )


def _curves(rows: list[dict[str, Any]], result: dict[str, Any]) -> str:
    from mixonomy.report import plots

    trained = [row for row in rows if "loss" in row]
    scored = [row for row in rows if "val/top1" in row]
    if not trained:
        return markup.section("curves", "Learning curves", markup.paragraph("The run has no metrics.jsonl."))
    epochs = [row["epoch"] for row in trained]
    epochs_per_step = trained[-1]["epoch"] / trained[-1]["step"]
    loss = markup.figure(
        plots.loss_plot((epochs, [row["loss"] for row in trained])),
        f"Training loss, with everything the recipe adds to it (label smoothing, mixed images). "
        f"It ends at {trained[-1]['loss']:.3f}.",
    )
    lr = markup.figure(plots.lr_plot((epochs, [row["lr"] for row in trained])), "Learning rate.")
    if not scored:
        none = markup.paragraph("Nothing was held out for validation; the weights are those of the last step.")
        return markup.section("curves", "Learning curves", f'<div class="plots">{loss}{lr}</div>', none)
    top1 = [row["val/top1"] for row in scored]
    best, kept = result["best_step"], f"It ends at {top1[-1]:.2%}."
    if best is not None:
        kept = f"The ring marks the weights that were kept: {result['val_top1']:.2%} at step {best:,}."
    val = plots.top1_plot(
        ([row["step"] * epochs_per_step for row in scored], top1),
        None if best is None else best * epochs_per_step,
    )
    return markup.section(
        "curves",
        "Learning curves",
        f'<div class="plots">{loss}{markup.figure(val, f"Top-1 on validation data. {kept}")}{lr}</div>',
    )


def _calibration(test: dict[str, Any]) -> str:
    from mixonomy.report import plots

    bins = test["calibration"]
    confidence = sum(bins["confidence"]) / test["n"]
    gap = confidence - test["top1"]
    verdict = "about as sure as it should be" if abs(gap) < 0.01 else "too sure" if gap > 0 else "not sure enough"
    caption = (
        f"Each dot is a group of images by the probability of the prediction; on the dashed line, probabilities mean "
        f"what they say. Bars are 95 % intervals. On average the model claims {confidence:.1%} and is right in "
        f"{test['top1']:.1%}: {verdict}. Expected calibration error: {test['ece']:.2%}."
    )
    plot = plots.reliability_plot(bins["counts"], bins["correct"], bins["confidence"])
    return markup.section("calibration", "Calibration", markup.figure(plot, caption, is_beside=True))


def _confusion(test: dict[str, Any], names: Sequence[str]) -> str:
    title = "Confusion"
    if test["confusion"] is None:
        text = f"With {len(names):,} classes the confusion matrix is not kept."
        return markup.section("confusion", title, markup.paragraph(text))
    confusion = np.array(test["confusion"])
    is_small = len(names) <= HEAT_MAP_CLASSES
    parts = [markup.heat_map(names, confusion)] if is_small else []
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: 10 if is_small else 20]
    rows = []
    for i, j in (divmod(int(at), len(names)) for at in order):
        if mistakes[i, j]:
            share = mistakes[i, j] / confusion[i].sum()
            rows.append((names[i], names[j], f"{mistakes[i, j]:,}", f"{share:.1%}"))
    if not rows:
        return markup.section("confusion", title, *parts, markup.paragraph("No image was classified wrongly."))
    parts.append("<h3>Most frequent confusions</h3>")
    parts.append(markup.table(("true", "predicted", "images", "of the class"), rows, num_texts=2))
    return markup.section("confusion", title, *parts)


def _classes(test: dict[str, Any], names: Sequence[str]) -> str:
    title = "Classes, worst first"
    if len(names) > TABLE_CLASSES:
        text = f"{len(names):,} classes are too many for a table here; test.json has their scores."
        return markup.section("classes", title, markup.paragraph(text))
    rows = sorted(
        zip(names, test["per_class"], strict=True), key=lambda row: (row[1]["f1"] is None, row[1]["f1"] or 0.0)
    )

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    cells = [(name, share(r["f1"]), share(r["precision"]), share(r["recall"]), f"{r['n']:,}") for name, r in rows]
    return markup.section(
        "classes", title, markup.table(("class", "F1", "precision", "recall", "images"), cells, num_texts=1, bar=1)
    )


def _pictures(
    test: dict[str, Any],
    names: Sequence[str],
    recipe: Recipe,
    preprocessing: Preprocessing,
    data_root: str | None,
) -> tuple[str, str]:
    """The sections of mistakes and of training images; one line each where the data is not there."""
    from mixonomy.report import pictures

    titles = {"mistakes": "Most confident mistakes", "samples": "Training images, as training sees them"}
    try:
        source = data.open_source(recipe.data.source, data_root)
        plan = data.plan_splits(source, recipe.data.val_share)
        wrong = pictures.mistake_pictures(plan.test, test["worst"], preprocessing.channels)
        samples = pictures.training_pictures(plan.train, recipe, preprocessing)
    except (ValueError, OSError) as error:
        line = markup.paragraph(f"No pictures: {error}")
        mistakes, training = (markup.section(anchor, title, line) for anchor, title in titles.items())
        return mistakes, training
    rows = [(names[label], row) for label, row in samples]
    about = (
        "One row per image: first without augmentation, then as in successive epochs, made by the code that training "
        "uses, but with random numbers of their own."
    )
    if recipe.augment.mixup or recipe.augment.cutmix_prob:
        about += " Images are mixed with one another, and so are their labels."
    head = ("plain", *(f"epoch {epoch + 1}" for epoch in range(pictures.NUM_EPOCHS)))
    parts = [markup.paragraph("No image was classified wrongly.")]
    if wrong:
        said = "What the model saw in each picture and what it is, with the probability that the model gave to either."
        cards = [_card(picture, mistake, names) for picture, mistake in zip(wrong, test["worst"], strict=True)]
        parts = [markup.paragraph(said), markup.gallery(cards)]
    return (
        markup.section("mistakes", titles["mistakes"], *parts),
        markup.section("samples", titles["samples"], markup.paragraph(about), markup.picture_grid(head, rows)),
    )


def _card(picture: markup.Picture, mistake: dict[str, Any], names: Sequence[str]) -> markup.Card:
    predicted, label = names[int(mistake["predicted"])], names[int(mistake["label"])]
    return picture, (("saw", predicted, f"({mistake['prob']:.1%})"), ("is", label, f"({mistake['label_prob']:.1%})"))


def _recipe(recipe: Recipe, *, is_own: bool) -> str:
    rows = list(_fields(recipe))
    parts = []
    if is_own:
        rows = [row for row in rows if not row[0].startswith("model.")]
        parts = [markup.paragraph("The model was a module of the user's own, so the recipe's model had no effect.")]
    table = markup.table(("field", "value", "meaning"), rows, num_texts=3)
    return markup.section("recipe", "Recipe", *parts, table)


def _fields(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value), field.description or ""


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _environment(info: dict[str, Any]) -> str:
    machine = info["machine"]
    rows = [
        ("command", info["command"] or "–"),
        ("started", info["started"]),
        ("commit", info["commit"] or "–"),
        ("device", f"{info['device']}, {info['precision']}"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"),
        *([("GPU", machine["gpu"])] if machine["gpu"] else []),
        ("system", machine["system"]),
        ("versions", ", ".join(f"{package} {version}" for package, version in info["versions"].items())),
    ]
    return markup.section("environment", "Environment", markup.table(("what", "value"), rows, num_texts=2))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
