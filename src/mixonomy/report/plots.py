"""Plots as inline SVG. Colours are CSS variables of the page, so that one plot serves light and dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixonomy.report.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders that matplotlib writes, and the CSS variables that take their place.
COLOURS = {name: f"#12340{i}" for i, name in enumerate(("ink", "muted", "line", "accent", "warm"))}
CURVE = (4.0, 2.8)  # inches; the page scales it
MAX_POINTS = 400  # of a curve; longer ones become means of equal parts
MARKED_POINTS = 30  # curves of fewer points show each of them

Points = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve."""


def loss_plot(loss: Points) -> str:
    """Training loss over epochs."""

    def draw(axes: "Axes") -> None:
        _curve(axes, loss, "accent")
        axes.set(xlabel="epoch", ylabel="training loss", xlim=(0, None))

    return _svg(draw, CURVE, "training loss over epochs")


def validation_plot(scores: Points, kept_epoch: float | None, name: str) -> str:
    """A validation score, a share, over epochs, with a ring around the epoch whose weights were kept."""

    def draw(axes: "Axes") -> None:
        epochs, values = scores
        axes.plot(epochs, values, color=COLOURS["accent"], marker="o", markersize=3.5)
        if kept_epoch is not None:
            value = values[int(np.argmin(np.abs(np.asarray(epochs) - kept_epoch)))]
            axes.plot([kept_epoch], [value], "o", markersize=11, color=COLOURS["warm"], fillstyle="none")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        axes.set(xlabel="epoch", ylabel=f"validation {name}", xlim=(0, None))

    return _svg(draw, CURVE, f"validation {name} over epochs")


def lr_plot(lr: Points) -> str:
    """Learning rate over epochs."""

    def draw(axes: "Axes") -> None:
        _curve(axes, lr, "muted")
        axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, None), ylim=(0, max(lr[1]) * 1.08))

    return _svg(draw, CURVE, "learning rate over epochs")


def lr_range_plot(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float) -> str:
    """Loss over learning rate on a logarithmic axis: steps as dots, their average as a line, the suggestion dashed."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import NullLocator

        axes.plot(rates, losses, "o", markersize=3, color=COLOURS["muted"], alpha=0.45)
        axes.plot(rates, smoothed, color=COLOURS["accent"])
        axes.axvline(suggestion, color=COLOURS["warm"], linewidth=1.2, linestyle=(0, (4, 3)))
        low, start = min(*losses, *smoothed), float(np.median(losses[: max(len(losses) // 5, 1)]))
        margin = 0.1 * (start - low)
        axes.set(xlabel="learning rate", ylabel="training loss", xscale="log")
        axes.set_ylim(low - margin, start + 5 * margin)  # what diverges leaves the picture
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    return _svg(draw, (4.6, 3.2), "training loss over learning rate")


def task_plot(scores: Sequence[tuple[str, float, float | None]]) -> str:
    """Bars of accuracy by task: (name, share, standard deviation or None), the first on top."""

    def draw(axes: "Axes") -> None:
        names, values, spreads = zip(*scores, strict=True)
        places = np.arange(len(names))
        spreads = [spread or 0.0 for spread in spreads]
        axes.barh(places, values, 0.65, xerr=spreads, color=COLOURS["accent"], alpha=0.75, ecolor=COLOURS["ink"])
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        axes.set(xlabel="test top-1", xlim=(0, 1))

    return _svg(draw, (5.0, 1.0 + 0.3 * len(scores)), "accuracy by task")


def reliability_plot(counts: Sequence[int], correct: Sequence[int], confidence: Sequence[float]) -> str:
    """Accuracy against confidence, a dot per bin with its 95 % interval, over a histogram of confidence.

    Args:
      counts, correct, confidence: per bin of equal width: images, right ones, and the sum of confidences.
    Source: Guo et al. 2017, "On calibration of modern neural networks", figure 1.
    """

    def draw(axes: "Axes", below: "Axes") -> None:
        bins = [(c, right, total / c) for c, right, total in zip(counts, correct, confidence, strict=True) if c]
        means = [mean for *_, mean in bins]
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(means, *zip(*(wilson_interval(r, c) for c, r, _ in bins), strict=True), color=COLOURS["accent"])
        axes.plot(means, [right / c for c, right, _ in bins], "o", markersize=5, color=COLOURS["accent"])
        edges = np.arange(len(counts)) / len(counts)
        below.bar(edges, counts, 0.92 / len(counts), align="edge", color=COLOURS["accent"], alpha=0.55, linewidth=0)
        below.set(xlabel="confidence of the prediction", ylabel="images")
        below.locator_params(axis="y", nbins=3)
        below.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))

    return _svg(draw, (4.6, 4.2), "accuracy against confidence", heights=(3, 1))


def thinned(values: Sequence[float]) -> list[float]:
    """At most MAX_POINTS values: means of consecutive parts."""
    return [float(part.mean()) for part in np.array_split(np.asarray(values), min(len(values), MAX_POINTS))]


def _curve(axes: "Axes", points: Points, colour: str) -> None:
    marker = "o" if len(points[0]) <= MARKED_POINTS else None
    axes.plot(thinned(points[0]), thinned(points[1]), color=COLOURS[colour], marker=marker, markersize=3.5)


def _svg(draw: Callable[..., Any], inches: tuple[float, float], label: str, heights: tuple[float, ...] = (1,)) -> str:
    """Draws on axes below one another, of these relative heights; the same input gives the same text."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, muted = COLOURS["ink"], COLOURS["muted"]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "lines.linewidth": 1.8,
    }
    with matplotlib.rc_context(style):
        plot = Figure(figsize=inches, layout="constrained")
        axes = plot.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        draw(*axes)
        for each in axes:
            _tidy(each)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        plot.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), label)


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOURS["line"])
    axes.tick_params(length=0, pad=5)
    axes.grid(color=COLOURS["line"], linewidth=0.7)
    axes.set_axisbelow(True)


def _inline(svg: str, label: str) -> str:
    """An SVG file as a part of an HTML page: no header, no ids that another plot has too, colours of the page."""
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None, "matplotlib's SVG has a viewBox"
    svg = f'<svg {view_box[0]} role="img" aria-label="{label}">' + svg[svg.index(">") + 1 :]
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
