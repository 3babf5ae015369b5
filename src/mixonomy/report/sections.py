"""Sections of the report that runs with one label per image and with several share."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from mixonomy.report import markup
from mixonomy.report.advice import CREDIBLE, advise
from mixonomy.report.charts import Chart, Line, chart_svg
from mixonomy.report.finished import FinishedRun
from mixonomy.report.pictures import NUM_EPOCHS, RunPictures

TABLE_CLASSES = 1000
HEADLINES = {"top1": "top-1", "map": "mean average precision"}
MakeCard = Callable[[markup.Picture, dict[str, Any], Sequence[str]], markup.Card]


def about(run: FinishedRun) -> str:
    """How the run was made, one paragraph."""
    result, facts = run.result, run.info["facts"]
    # Those integers are sizes; a module of the user's own has another name than the recipe's model.
    model = run.info["recipe"]["model"]
    sizes = [f"{name} {value}" for name, value in model.items() if isinstance(value, int)]
    text = (
        f"Recipe {result['recipe']}, seed {result['seed']}: {facts['images']:,} training images of "
        f"{len(run.names):,} classes, {result['steps']:,} steps, {run.info['started'][:10]}."
    )
    if sizes and not run.has_other_model:
        text += f" Model: {', '.join(sizes)}."
    if run.recipe.init is not None:
        text += f" Model: {result['model']}, trained on from {run.recipe.init}."
    return markup.paragraph(text)


def cost_tiles(run: FinishedRun) -> list[tuple[str, str]]:
    """Size and time."""
    result = run.result
    return [
        ("parameters", f"{result['params']:,}"),
        ("training time", _duration(result["seconds"])),
        ("images/s", f"{result['images_per_s']:,.0f}"),
    ]


def advice(run: FinishedRun) -> str:
    """What to do next."""
    found = advise(run)
    body = markup.advice_list((each.text, each.anchor) for each in found)
    if not found:
        body = markup.paragraph("Nothing in this run stands out as worth changing.")
    return markup.section("next", "What to do next", body)


def sweep(run: FinishedRun) -> str:
    """The values that a sweep tried, and how they did on the held-out images that chose."""
    found = run.result["sweep"]
    fields = list(found["chosen"])
    rows = []
    for trial in found["trials"]:
        score = "diverged" if trial["score"] is None else f"{trial['score']:.2%}"
        mark = "chosen" if trial["values"] == found["chosen"] else ""
        rows.append((*(str(trial["values"][field]) for field in fields), mark, score, _duration(trial["seconds"])))
    text = (
        f"Each line is a training of the same length on the training images less those held out, by which the best "
        f"was chosen; all took {_duration(found['seconds'])}. This run was then trained with it on the held-out images "
        f"too, so nothing else was chosen, and its test images were scored once."
    )
    head = (*fields, "", f"{HEADLINES[run.headline]} on held-out images", "training time")
    table = markup.table(head, rows, num_texts=len(fields) + 1)
    return markup.section("sweep", "What was tried", markup.paragraph(text), table)


def curves(run: FinishedRun) -> str:
    """Training loss, validation headline and learning rate."""
    from mixonomy.report import plots

    rows = [row for row in run.metrics if "loss" in row]
    if not rows:
        return markup.section("curves", "Learning curves", markup.paragraph("The run has no metrics.jsonl."))
    epochs = [row["epoch"] for row in rows]
    epochs_per_step = rows[-1]["epoch"] / rows[-1]["step"]
    loss = markup.figure(
        plots.loss_plot((epochs, [row["loss"] for row in rows])),
        f"Training loss, with everything the recipe adds to it (label smoothing, mixed images). "
        f"It ends at {rows[-1]['loss']:.3f}.",
    )
    lr = markup.figure(plots.lr_plot((epochs, [row["lr"] for row in rows])), "Learning rate.") + _few_shot_curves(run)
    scored = run.validation(run.headline)
    if not scored:
        none = markup.paragraph(f"{run.why_no_val}; the weights are those of the last step.")
        return markup.section("curves", "Learning curves", f'<div class="plots">{loss}{lr}</div>', none)
    best, kept, name = run.result["best_step"], f"It ends at {scored[-1][1]:.2%}.", HEADLINES[run.headline]
    if best is not None:
        value = run.result[f"val_{run.headline}"]
        kept = f"The ring marks the weights that were kept: {value:.2%} at step {best:,}."
    val = plots.validation_plot(
        ([step * epochs_per_step for step, _ in scored], [value for _, value in scored]),
        None if best is None else best * epochs_per_step,
        "mAP" if run.is_multilabel else name,
    )
    caption = f"{name.capitalize()} on {run.num_val:,} validation images. {kept}"
    return markup.section(
        "curves", "Learning curves", f'<div class="plots">{loss}{markup.figure(val, caption)}{lr}</div>'
    )


def _few_shot_curves(run: FinishedRun) -> str:
    """Scores on other data while this one trained, where the recipe asked for them."""
    rows = [row for row in run.metrics if "probe/n" in row]
    if not rows:
        return ""
    found = {re.fullmatch(r"probe/ridge_(\d+)shot", key) for row in rows for key in row}
    lines = []
    for shots in sorted({int(match[1]) for match in found if match}):
        key = f"probe/ridge_{shots}shot"
        points = tuple((float(row["step"]), row[key], row.get(f"{key}_std")) for row in rows if key in row)
        lines.append(Line(f"{shots}-shot", points))
    source = run.recipe.probe.source
    title = f"few-shot top-1 on {source} over steps"
    svg = chart_svg(Chart(title, "step", f"top-1 on {source}", tuple(lines), is_share=True))
    caption = (
        f"Few-shot top-1 on {rows[-1]['probe/n']:,} test images of {source} by the features of that step (ridge "
        f"regression on a few images of each class; bars: standard deviation over draws of them)."
    )
    return markup.figure(svg, caption)


def classes(run: FinishedRun, columns: Sequence[tuple[str, str]]) -> str:
    """The scores of each class, the worst first.

    Args:
      columns: (heading, key in "per_class"); the first one sorts and gets bars.
    """
    title = "Classes, worst first"
    if len(run.names) > TABLE_CLASSES:
        text = f"Scores of {len(run.names):,} classes are in test.json."
        return markup.section("classes", title, markup.paragraph(text))
    first = columns[0][1]
    rows = sorted(
        zip(run.names, run.test["per_class"], strict=True),
        key=lambda row: (row[1][first] is None, row[1][first] or 0.0),
    )

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    cells = [(name, *(share(row[key]) for _, key in columns), f"{row['n']:,}") for name, row in rows]
    head = ("class", *(heading for heading, _ in columns), "images")
    return markup.section("classes", title, markup.table(head, cells, num_texts=1, bar=1))


def mistakes(run: FinishedRun, pictures: RunPictures | str, said: str, card: MakeCard) -> str:
    """The most confident mistakes, each with its picture."""
    if isinstance(pictures, str):
        parts = [markup.paragraph(pictures)]
    elif not run.test["worst"]:
        parts = [markup.paragraph("No image was classified wrongly.")]
    else:
        cards = (card(p, one, run.names) for p, one in zip(pictures.mistakes, run.test["worst"], strict=True))
        parts = [markup.paragraph(said), markup.gallery(cards)]
    return markup.section("mistakes", "Most confident mistakes", *parts)


def label_errors(run: FinishedRun, pictures: RunPictures | str, card: MakeCard) -> str:
    """Held-out images whose label is probably wrong, split by split."""
    about = (
        "Labels that are probably wrong, found by confident learning (Northcutt et al. 2021): the model is as sure of "
        "another class as it usually is of images that have it. "
    )
    if run.is_multilabel:
        about = (
            "Classes that are probably missing in an image's label, or wrongly there, found by confident learning "
            "(Northcutt et al. 2021): the model is as sure of the opposite as it usually is where that is the label. "
        )
    about += "Only held-out images are judged: of training images a model may have memorised the wrong label."
    if not run.judges_labels(CREDIBLE):
        about += " This model is not good enough to be trusted here: most of these are its own mistakes."
    parts = [markup.paragraph(about)]
    for split, errors in run.label_errors().items():
        listed = errors["listed"]
        name, count = ("Validation", run.num_val) if split == "val" else ("Test", run.result["n"])
        shown = f"; the first {len(listed):,}" if errors["found"] > len(listed) else ""
        unit = "class labels" if run.is_multilabel else "labels"
        parts.append(f"<h3>{name}: {errors['found']:,} {unit} of {count:,} images{shown}</h3>")
        if isinstance(pictures, str):
            parts.append(markup.paragraph(pictures))
        elif listed:
            cards = (card(p, one, run.names) for p, one in zip(pictures.label_errors[split], listed, strict=True))
            parts.append(markup.gallery(cards))
    return markup.section("labels", "Likely label errors", *parts)


def samples(run: FinishedRun, pictures: RunPictures | str) -> str:
    """Training images as training sees them."""
    title = "Training images, as training sees them"
    if isinstance(pictures, str):
        return markup.section("samples", title, markup.paragraph(pictures))
    about = (
        "One row per image: first without augmentation, then as in successive epochs, made by the code that training "
        "uses, but with random numbers of their own."
    )
    if run.recipe.augment.mixup or run.recipe.augment.cutmix_prob:
        about += " Images are mixed with one another, and so are their labels."
    head = ("plain", *(f"epoch {epoch + 1}" for epoch in range(NUM_EPOCHS)))
    rows = [(label_text(run.names, label), row) for label, row in pictures.samples]
    return markup.section("samples", title, markup.paragraph(about), markup.picture_grid(head, rows))


def label_text(names: Sequence[str], label: int | list[int]) -> str:
    """The name of a class, or of several."""
    if isinstance(label, int):
        return names[label]
    return ", ".join(names[k] for k in label) or "no class"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
