"""What the report says of a run where an image may have several labels, or none."""

from collections.abc import Sequence
from html import escape
from typing import Any

from mixonomy.report import markup
from mixonomy.report import sections as shared
from mixonomy.report.finished import FinishedRun
from mixonomy.report.pictures import RunPictures


def headline(run: FinishedRun) -> str:
    """Mean average precision, and the other measures."""
    result = run.result
    return (
        f"{shared.about(run)}"
        f'<p class="score"><strong>{result["map"]:.2%}</strong> mean average precision (mAP) on {result["n"]:,} images '
        f"({escape(result['split'])})</p>"
    ) + markup.tiles(
        [
            ("micro F1", f"{result['micro_f1']:.4f}"),
            ("macro F1", f"{result['macro_f1']:.4f}"),
            ("all labels right", f"{result['exact']:.2%}"),
            ("NLL", f"{result['nll']:.4f}"),
            *shared.cost_tiles(run),
        ]
    )


def sections(run: FinishedRun, pictures: RunPictures | str) -> dict[str, str]:
    """The sections of this kind of run, by anchor."""
    said = "The answers that are furthest from the label: the model's probability of a class, and what the label says."
    columns = (("AP", "ap"), ("F1", "f1"), ("precision", "precision"), ("recall", "recall"), ("threshold", "threshold"))
    return {
        "classes": shared.classes(run, columns),
        "mistakes": shared.mistakes(run, pictures, said, mistake_card),
    }


def mistake_card(picture: markup.Picture, mistake: dict[str, Any], names: Sequence[str]) -> markup.Card:
    """A class that was missed, or that was seen and is not there."""
    name, prob = names[int(mistake["class"])], f"{mistake['prob']:.1%}"
    label = shared.label_text(names, mistake["label"])
    if mistake["is_label"]:
        return picture, (("missed", name, f"({prob})"), ("label:", "", label))
    others = f"label: {label}," if mistake["label"] else "label:"
    return picture, (("model:", name, prob), (others, f"not {name}", ""))


def suspect_card(picture: markup.Picture, suspect: dict[str, Any], names: Sequence[str]) -> markup.Card:
    """A class that is probably missing in the label, or wrongly there."""
    what = "probably not" if suspect["is_label"] else "probably also"
    return picture, (
        ("label:", "", shared.label_text(names, suspect["label"])),
        (what, names[int(suspect["class"])], f"({suspect['prob']:.1%})"),
        ("", "", suspect["name"]),
    )
