"""The page of a transfer: accuracy by task, image size and shots, beside what others published."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mixonomy.models.files import write_atomically
from mixonomy.report import markup, plots
from mixonomy.report.charts import NUM_COLOURS, Chart, Line, chart_svg
from mixonomy.report.document import document

NONE = "–"


def write_transfer_page(path: Path, result: dict[str, Any]) -> None:
    """Writes the page of the content of transfer.json."""
    suite = result["suite"]
    headline = "".join(
        f'<p class="score"><strong>{mean["mean"]:.2%}</strong> mean top-1: '
        f"{escape(_at(mean['name'], mean['image_size']))}</p>"
        for mean in result["means"]
    )
    parts = [_table(result)] if result["rows"] else []
    for title, others in (("Absent", result["absent"]), ("Failed", result["failed"])):
        if others:
            parts.append(f"<h3>{title}</h3>")
            cells = [(_at(one["task"], one.get("image_size")), one["group"] or NONE, one["reason"]) for one in others]
            parts.append(markup.table(("task", "group", "why"), cells, num_texts=3))
    shown = [("tasks", "Tasks", *parts)]
    if result["rows"]:
        figures = (markup.figure(svg, caption) for svg, caption in _plots(result))
        shown.append(("plots", "Plots", f'<div class="plots">{"".join(figures)}</div>'))
    if sources := list(_sources(suite)):
        table = markup.table(("number", "models", "where"), sources, num_texts=3)
        shown.append(("published", "Where the published numbers stand", table))
    contents = [(anchor, title) for anchor, title, *_ in shown]
    sections = (markup.section(anchor, title, *html) for anchor, title, *html in shown)
    write_atomically(path, document(f"{result['init']} on {suite['name']}", headline, contents, *sections))


def _table(result: dict[str, Any]) -> str:
    """The one table: a line for each task and size, below them means; published numbers in columns of their own."""
    rows, suite = result["rows"], result["suite"]
    shots, models, total = _shots(rows), _models(suite), len(suite["tasks"])
    head = ("task", "group", "pixels", "fine-tuned top-1, %", *(f"published: {model}, %" for model in models))
    head += (*(f"{shot}-shot, %" for shot in shots), "learning rate", "seeds", "test images")

    def line(
        texts: Sequence[str], few: dict[str, Any], published: dict[str, Any], how: Sequence[str] = ()
    ) -> list[str]:
        scores = (_score(few[shot]) if shot in few else NONE for shot in shots)
        others = (f"{published[model][0]:.2f}" if model in published else NONE for model in models)
        return [*texts, *others, *scores, *(how or [NONE] * 3)]

    published = {task["name"]: task["published"] for task in suite["tasks"]}
    lines, whole = [], False
    for row in rows:
        texts = (row["task"], row["group"] or NONE, _pixels(row["image_size"]), _score(row))
        how = (f"{row['lr']:g}", str(len(row["top1"])), f"{row['n']:,}")
        lines.append(line(texts, row["few_shot"], published[row["task"]], how))
    for mean in (*result["group_means"], *result["means"]):
        is_whole = mean in result["means"] and mean["n"] == total
        whole |= is_whole
        texts = (f"mean of {mean['name']}", NONE, _pixels(mean["image_size"]), _score(mean))
        # The published mean does not stand beside a mean of fewer tasks, which is another number.
        lines.append(line(texts, mean["few_shot"], suite["published"] if is_whole else {}))
    if not whole and suite["published"]:
        lines.append(line((f"mean of all {total} tasks", NONE, NONE, NONE), {}, suite["published"]))
    notes = ["± is the standard deviation, over seeds of a fine-tuning, and over draws of the images of few shots."]
    if shots:
        notes.append("Few shots are of the features of the weights as they came, resized where the row says so.")
    for row in rows:
        if row["bad_images"]:
            which = _at(row["task"], row["image_size"])
            notes.append(f"{which}: left out, since they cannot be read: {row['bad_images']}.")
    return markup.table(head, lines, num_texts=3) + "".join(map(markup.paragraph, notes))


def _plots(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Plots and captions: bars by task; lines by shots, and by size where there are several."""
    rows = result["rows"]
    bars = [(_at(row["task"], row["image_size"]), row["mean"], row["std"]) for row in rows]
    figures: list[tuple[str, str] | None] = [
        (
            plots.task_plot(bars),
            "Test top-1 after fine-tuning, by task; bars: standard deviation over seeds, where there are several.",
        )
    ]
    sizes = list(dict.fromkeys(row["image_size"] for row in rows))
    shots = _shots(rows)
    for size in sizes:
        here = [row for row in rows if row["image_size"] == size and row["few_shot"]]
        curves = [
            _Curve(row["task"], row["group"], [(float(s), row["few_shot"][s]) for s in shots if s in row["few_shot"]])
            for row in here
        ]
        if curves:
            about = _at("Few images of each class, frozen features: test top-1 by shots", size)
            figures.append(_lines(about, "images of each class", curves, is_log=True))
    if len(sizes) > 1:
        by_task: dict[str, _Curve] = {}
        for row in rows:
            curve = by_task.setdefault(row["task"], _Curve(row["task"], row["group"], []))
            curve.points.append((float(row["image_size"]), row))
        for curve in by_task.values():
            curve.points.sort(key=_x)
        curves = list(by_task.values())
        figures.append(_lines("Test top-1 after fine-tuning, by image size", "pixels", curves))
    return [figure for figure in figures if figure is not None]


@dataclass(frozen=True)
class _Curve:
    """Scores of a task along an axis: (x, {"mean", "std"})."""

    task: str
    group: str
    points: list[tuple[float, dict[str, Any]]]


def _lines(about: str, x_label: str, curves: Sequence[_Curve], is_log: bool = False) -> tuple[str, str] | None:
    """A chart and its caption: a line for each task; where those are too many to tell apart, the mean of each group.

    A group's mean is over its tasks that have a score at every place; None where no task has.
    """
    lines, caption = [], f"{about}."
    if len(curves) <= NUM_COLOURS:
        for curve in curves:
            points = tuple((x, score["mean"], score["std"]) for x, score in curve.points)
            lines.append(Line(curve.task, points))
    else:
        caption = f"{about}, mean over the tasks of each group."
        places = sorted({x for curve in curves for x, _ in curve.points})
        for group in dict.fromkeys(curve.group for curve in curves):
            of_group = [curve for curve in curves if curve.group == group]
            whole = [dict(curve.points) for curve in of_group if len(curve.points) == len(places)]
            if not whole:
                continue
            points = tuple((x, statistics.fmean(each[x]["mean"] for each in whole), None) for x in places)
            name = group or "all tasks"
            lines.append(
                Line(name if len(whole) == len(of_group) else f"{name}, {len(whole)} of {len(of_group)}", points)
            )
    if not lines:
        return None
    if any(bar for line in lines for _, _, bar in line.points):
        caption += " Bars: standard deviation."
    chart = Chart(about, x_label, "test top-1", tuple(lines), is_share=True, is_log=is_log)
    return chart_svg(chart), caption


def _x(point: tuple[float, dict[str, Any]]) -> float:
    return point[0]


def _sources(suite: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(number, models, where) of what others published."""
    numbers = {f"mean of all {len(suite['tasks'])} tasks": suite["published"]}
    numbers |= {task["name"]: task["published"] for task in suite["tasks"]}
    for number, published in numbers.items():
        for source in dict.fromkeys(where for _, where in published.values()):
            yield number, "; ".join(model for model, (_, where) in published.items() if where == source), source


def _models(suite: dict[str, Any]) -> list[str]:
    """The models that numbers were published of."""
    return list(dict.fromkeys(m for part in (suite, *suite["tasks"]) for m in part["published"]))


def _shots(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({shot for row in rows for shot in row["few_shot"]}, key=int)


def _pixels(size: int | None) -> str:
    return "as trained" if size is None else str(size)


def _score(scores: dict[str, Any]) -> str:
    spread = "" if scores["std"] is None else f" ± {100 * scores['std']:.2f}"
    return f"{100 * scores['mean']:.2f}{spread}"


def _at(name: str, size: int | None) -> str:
    return name if size is None else f"{name}, {size} px"
