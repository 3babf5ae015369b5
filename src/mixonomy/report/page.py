"""The report of a finished run: one HTML page that needs nothing but itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mixonomy.models.files import write_atomically
from mixonomy.recipe import Model
from mixonomy.report import markup, multi_label, sections, single_label
from mixonomy.report.document import document
from mixonomy.report.finished import FinishedRun, read_finished
from mixonomy.report.pictures import RunPictures, run_pictures
from mixonomy.runs import RunFolder

BAD_IMAGES = 20  # that are named on the page
CONTENTS = {
    "next": "What to do next",
    "sweep": "What was tried",
    "curves": "Learning curves",
    "calibration": "Calibration",
    "confusion": "Confusion",
    "classes": "Classes",
    "mistakes": "Mistakes",
    "labels": "Label errors",
    "samples": "Training images",
    "recipe": "Recipe",
    "environment": "Environment",
}


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
    run = read_finished(folder)
    try:
        pictures: RunPictures | str = run_pictures(run, data_root)
    except (ValueError, OSError) as error:
        pictures = f"No pictures: {error}"
    own = multi_label if run.is_multilabel else single_label
    parts = {
        "next": sections.advice(run),
        **({"sweep": sections.sweep(run)} if "sweep" in run.result else {}),
        "curves": sections.curves(run),
        **own.sections(run, pictures),
        "labels": sections.label_errors(run, pictures, own.suspect_card),
        "samples": sections.samples(run, pictures),
        "recipe": _recipe(run),
        "environment": _environment(run.info, run.result["bad_images"]),
    }
    title = f"{run.result['model']} on {run.result['data']}"
    contents = [(anchor, CONTENTS[anchor]) for anchor in parts]
    write_atomically(folder.report, document(title, own.headline(run), contents, *parts.values()))
    return folder.report


def _recipe(run: FinishedRun) -> str:
    rows, parts = list(_fields(run.recipe)), []
    if run.has_other_model:
        kept = () if run.recipe.init is None else tuple(f"model.{name}" for name in Model.OF_TRAINING)
        rows = [row for row in rows if not row[0].startswith("model.") or row[0] in kept]
        text = "The model was a module of the user's own, so the recipe's model had no effect."
        if run.recipe.init is not None:
            text = f"The model is that of the weights it started from, {run.recipe.init}."
        parts = [markup.paragraph(text)]
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


def _environment(info: dict[str, Any], bad_images: list[dict[str, str]]) -> str:
    machine = info["machine"]
    left_out = [f"{image['name']}: {image['error']}" for image in bad_images[:BAD_IMAGES]]
    if len(bad_images) > BAD_IMAGES:
        left_out.append(f"and {len(bad_images) - BAD_IMAGES:,} more, in result.json")
    rows = [
        ("command", info["command"] or "–"),
        ("started", info["started"]),
        ("commit", info["commit"] or "–"),
        ("device", f"{info['device']}, {info['precision']}"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"),
        *([("GPU", machine["gpu"])] if machine["gpu"] else []),
        ("system", machine["system"]),
        *([("images left out", "; ".join(left_out))] if left_out else []),
        ("versions", ", ".join(f"{package} {version}" for package, version in info["versions"].items())),
    ]
    return markup.section("environment", "Environment", markup.table(("what", "value"), rows, num_texts=2))
