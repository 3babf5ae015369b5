"""The page of a transfer: accuracy by task, image size and shots, beside what others published."""

from html import escape
from pathlib import Path
from typing import Any

from mixonomy.models.files import write_atomically
from mixonomy.report import markup, plots
from mixonomy.report.document import document


def write_transfer_page(path: Path, result: dict[str, Any]) -> None:
    """Writes the page of the content of transfer.json."""
    rows, suite = result["rows"], result["suite"]
    means = ((mean["mean"], escape(_at(mean["name"], mean["image_size"]))) for mean in result["means"])
    headline = "".join(f'<p class="score"><strong>{mean:.2%}</strong> mean top-1: {of}</p>' for mean, of in means)
    parts = []
    if rows:
        bars = [(_at(row["task"], row["image_size"]), row["mean"], row["std"]) for row in rows]
        caption = "Test top-1 after fine-tuning; bars are the standard deviation over seeds where there are several."
        parts.append(markup.figure(plots.task_plot(bars), caption, is_beside=True))
        shots = list(dict.fromkeys(shot for row in rows for shot in row["few_shot"]))
        head = ("task", "group", "pixels", "learning rate", "test images", "fine-tuned top-1", "seeds")
        cells = [
            (
                row["task"],
                row["group"] or "–",
                "as trained" if row["image_size"] is None else str(row["image_size"]),
                f"{row['lr']:g}",
                f"{row['n']:,}",
                _score(row),
                str(len(row["top1"])),
                *(_score(row["few_shot"][shot]) if shot in row["few_shot"] else "–" for shot in shots),
            )
            for row in rows
        ]
        parts.append(markup.table((*head, *(f"{s}-shot" for s in shots)), cells, num_texts=3))
        for row in rows:
            if row["bad_images"]:
                which = _at(row["task"], row["image_size"])
                parts.append(markup.paragraph(f"{which}: left out, since they cannot be read: {row['bad_images']}."))
        if shots:
            about = "Few-shot scores are of the features of the weights as they came, resized where the row says so."
            parts.append(markup.paragraph(about))
    for title, others in (("Absent", result["absent"]), ("Failed", result["failed"])):
        if others:
            parts.append(f"<h3>{title}</h3>")
            cells = [(_at(one["task"], one.get("image_size")), one["group"] or "–", one["reason"]) for one in others]
            parts.append(markup.table(("task", "group", "why"), cells, num_texts=3))
    if suite["published"]:
        parts.append(f"<h3>Published means over all {len(suite['tasks'])} tasks</h3>")
        published = [(model, where, f"{value:.2f}") for model, (value, where) in suite["published"].items()]
        parts.append(markup.table(("model", "where", "mean top-1, %"), published, num_texts=2))
    section = markup.section("tasks", "Tasks", *parts)
    write_atomically(path, document(f"{result['init']} on {suite['name']}", headline, (), section))


def _score(scores: dict[str, Any]) -> str:
    spread = "" if scores["std"] is None else f" ± {100 * scores['std']:.2f}"
    return f"{100 * scores['mean']:.2f}{spread}"


def _at(name: str, size: int | None) -> str:
    return name if size is None else f"{name}, {size} px"
