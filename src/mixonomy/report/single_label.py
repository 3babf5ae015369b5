"""What the report says of a run where each image has one label.

Axes: K classes.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from mixonomy.report import markup
from mixonomy.report import sections as shared
from mixonomy.report.finished import FinishedRun
from mixonomy.report.intervals import wilson_interval
from mixonomy.report.pictures import RunPictures

HEAT_MAP_CLASSES = 40


def headline(run: FinishedRun) -> str:
    """Top-1 with its interval, and the other measures."""
    result = run.result
    n = result["n"]
    low, high = wilson_interval(round(result["top1"] * n), n)
    # Among five classes or fewer, the five likeliest always hold the right one.
    top5 = [("top-5", f"{result['top5']:.2%}")] if len(run.names) > 5 else []
    return (
        f"{shared.about(run)}"
        f'<p class="score"><strong>{result["top1"]:.2%}</strong> top-1 on {n:,} images ({escape(result["split"])}), '
        f"95 % interval {low:.2%} to {high:.2%}</p>"
    ) + markup.tiles(
        [
            *top5,
            ("macro F1", f"{result['macro_f1']:.4f}"),
            ("NLL", f"{result['nll']:.4f}"),
            ("calibration error", f"{result['ece']:.2%}"),
            *shared.cost_tiles(run),
        ]
    )


def sections(run: FinishedRun, pictures: RunPictures | str) -> dict[str, str]:
    """The sections of this kind of run, by anchor."""
    said = "What the model saw in each picture and what it is, with the probability that the model gave to either."
    columns = (("F1", "f1"), ("precision", "precision"), ("recall", "recall"))
    return {
        "calibration": _calibration(run),
        "confusion": _confusion(run, pictures),
        "classes": shared.classes(run, columns),
        "mistakes": shared.mistakes(run, pictures, said, mistake_card),
    }


def mistake_card(picture: markup.Picture, mistake: dict[str, Any], names: Sequence[str]) -> markup.Card:
    """A wrong prediction."""
    predicted, label = names[int(mistake["predicted"])], names[int(mistake["label"])]
    return picture, (("saw", predicted, f"({mistake['prob']:.1%})"), ("is", label, f"({mistake['label_prob']:.1%})"))


def suspect_card(picture: markup.Picture, suspect: dict[str, Any], names: Sequence[str]) -> markup.Card:
    """A label that is probably wrong."""
    return picture, (
        ("labelled", names[int(suspect["label"])], f"({suspect['label_prob']:.1%})"),
        ("probably", names[int(suspect["suggested"])], f"({suspect['prob']:.1%})"),
        ("", "", suspect["name"]),
    )


def _calibration(run: FinishedRun) -> str:
    from mixonomy.report import plots

    test = run.test
    bins = test["calibration"]
    confidence = sum(bins["confidence"]) / test["n"]
    gap = confidence - test["top1"]
    verdict = "about as sure as it should be" if abs(gap) < 0.01 else "too sure" if gap > 0 else "not sure enough"
    caption = (
        f"Each dot is a group of test images by the probability of the prediction; on the dashed line, probabilities "
        f"mean what they say. Bars are 95 % intervals. On average the model claims {confidence:.1%} and is right in "
        f"{test['top1']:.1%}: {verdict}. Expected calibration error: {test['ece']:.2%}."
    )
    plot = plots.reliability_plot(bins["counts"], bins["correct"], bins["confidence"])
    return markup.section("calibration", "Calibration", markup.figure(plot, caption, is_beside=True), _temperature(run))


def _temperature(run: FinishedRun) -> str:
    """What the temperature is and what it did."""
    before, after = run.test.get("calibration_before"), run.test.get("calibration_after")
    if before is None or after is None:
        return markup.paragraph(f"{run.why_no_val}, so the probabilities are as the model gave them.")
    value = run.result["temperature"]
    does = "less sure" if value > 1 else "surer"
    text = (
        f"A temperature of {value:.3f} is built in: log-probabilities are divided by it, which makes the model {does} "
        f"and changes no prediction. It was chosen on {after['n']:,} validation images, where it did this (the error "
        f"on images that chose nothing is the one above):"
    )
    rows = [
        ("negative log-likelihood (NLL)", f"{before['nll']:.4f}", f"{after['nll']:.4f}"),
        ("expected calibration error", f"{before['ece']:.2%}", f"{after['ece']:.2%}"),
    ]
    return markup.paragraph(text) + markup.table(("on validation images", "before", "after"), rows, num_texts=1)


def _confusion(run: FinishedRun, pictures: RunPictures | str) -> str:
    title, names = "Confusion", run.names
    if run.test["confusion"] is None:
        text = f"With {len(names):,} classes the confusion matrix is not kept."
        return markup.section("confusion", title, markup.paragraph(text))
    parts = []
    if len(names) <= HEAT_MAP_CLASSES:
        parts.append(markup.heat_map(names, np.array(run.test["confusion"])))
    pairs = run.test["confused_pairs"]
    if not pairs:
        return markup.section("confusion", title, *parts, markup.paragraph("No image was classified wrongly."))
    examples = [[None, None]] * len(pairs) if isinstance(pictures, str) else pictures.confused
    rows = []
    for pair, shown in zip(pairs, examples, strict=True):
        first, second = (names[k] for k in pair["classes"])
        sides = [
            (f"{a} seen as {b}", "1 image" if count == 1 else f"{count:,} images", picture)
            for (a, b), count, picture in zip(((first, second), (second, first)), pair["counts"], shown, strict=True)
        ]
        rows.append((f"{sum(pair['counts']):,}", f"{sum(pair['counts']) / pair['n']:.1%}", sides))
    parts += ["<h3>Classes taken for each other</h3>", markup.pair_table(rows)]
    return markup.section("confusion", title, *parts)
