"""Figures of docs/ as SVG files, drawn by hand so that the same rows give the same file everywhere."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rows import Row, read
from taxonomy import ROLES, newest_of

NAMES, BAR, GAP, ROW, TOP = 132, 190, 70, 26, 64  # in units of the picture: widths, then heights
TITLES = {
    "parameters": ("parameters", 1e6, "M"),
    "macs": ("MACs per image", 1e9, "G"),
    "activation_bytes": ("memory per image", 1e6, "MB"),
}
# Light and dark pages; the file is also shown where neither stylesheet nor script of the page reaches it.
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}"
    ".channels{fill:#3f6fb5}.locations{fill:#d98324}.both{fill:#7a5aa6}.neither{fill:#a7adb5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9aa4af}}"
)


def taxonomy_figure(results: Path) -> str:
    """A line per model and a bar per cost, divided by what the layers mix; empty text if there are no rows."""
    by_model = newest_of(read(results / "taxonomy.jsonl"))
    if not by_model:
        return ""
    width = NAMES + len(TITLES) * (BAR + GAP)
    height = TOP + ROW * len(by_model) + 8
    parts = ['<text x="0" y="16">mixes</text>']
    for i, role in enumerate(ROLES):
        x = 60 + 100 * i
        parts.append(
            f'<rect class="{role}" x="{x}" y="6" width="12" height="12"/><text x="{x + 18}" y="16">{role}</text>'
        )
    for i, (title, _, _) in enumerate(TITLES.values()):
        parts.append(f'<text class="small" x="{NAMES + i * (BAR + GAP)}" y="{TOP - 12}">{title}</text>')
    for line, (model, rows) in enumerate(by_model.items()):
        y = TOP + ROW * line
        parts.append(f'<text x="0" y="{y + 13}">{escape(model)}</text>')
        for i, (metric, (title, scale, unit)) in enumerate(TITLES.items()):
            x = float(NAMES + i * (BAR + GAP))
            total = sum(row.cost[metric] for row in rows)
            for role in ROLES:
                share = sum(row.cost[metric] for row in rows if row.role == role) / total
                said = f"{model}, {title}: {100 * share:.1f} % in layers that mix {role}"
                if share:
                    parts.append(
                        f'<rect class="{role}" x="{x:.2f}" y="{y}" width="{BAR * share:.2f}" height="16">'
                        f"<title>{escape(said)}</title></rect>"
                    )
                x += BAR * share
            parts.append(f'<text class="small" x="{x + 6:.2f}" y="{y + 13}">{total / scale:,.1f} {unit}</text>')
    label = "Parameters, multiplications and memory of each model, by what its layers mix"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


PANEL, GAP_X, GAP_Y, LEFT, HEAD = (200, 150), 64, 58, 58, 60
LABELS = {"tokens": "tokens S", "width": "channels C", "depth": "blocks", "batch": "batch size"}
CURVES = {  # metric -> heading, factor, dash
    "forward_s": ("time per image, ms", 1e3, ""),
    "step_s": ("time per image, ms", 1e3, "5 4"),
    "forward_bytes": ("peak memory, MB", 1e-6, ""),
    "step_bytes": ("peak memory, MB", 1e-6, "5 4"),
}
# Blue and vermilion of Okabe and Ito, which colour-blind readers tell apart; markers differ too.
CURVE_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}"
    "path{fill:none;stroke-width:2}.axis{stroke:#8c959f;stroke-width:1}.Mixer{stroke:#0072b2}.ViT{stroke:#d55e00}"
    "circle.Mixer{fill:#0072b2}rect.ViT{fill:#d55e00}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9aa4af}.Mixer{stroke:#56b4e9}"
    "circle.Mixer{fill:#56b4e9}}"
)


def curves_figure(results: Path) -> str:
    """Time and memory against tokens, width, depth and batch, axes logarithmic; empty text if there are no rows."""
    rows = newest_curves(read(results / "curves.jsonl"))
    sweeps = [sweep for sweep in LABELS if any(row["model"].startswith(f"{sweep}:") for row in rows)]
    if not sweeps:
        return ""
    width = LEFT + len(sweeps) * (PANEL[0] + GAP_X)
    height = HEAD + 2 * (PANEL[1] + GAP_Y)
    parts = []
    for i, (name, mark) in enumerate((("Mixer", _circle), ("ViT", _square))):
        x = LEFT + 130 * i
        parts += [f'<path class="{name}" d="M{x} 12h30"/>', mark(name, x + 15, 12, name)]
        parts.append(f'<text x="{x + 38}" y="16">{name}</text>')
    for i, (name, dash) in enumerate((("forward", ""), ("training step", "5 4"))):
        x = LEFT + 260 + 130 * i
        parts.append(f'<path class="axis" stroke-dasharray="{dash}" d="M{x} 12h30"/>')
        parts.append(f'<text x="{x + 38}" y="16">{name}</text>')
    for column, sweep in enumerate(sweeps):
        for line, metrics in enumerate((("forward_s", "step_s"), ("forward_bytes", "step_bytes"))):
            corner = (LEFT + column * (PANEL[0] + GAP_X), HEAD + line * (PANEL[1] + GAP_Y))
            parts += _panel([row for row in rows if row["model"].startswith(f"{sweep}:")], sweep, metrics, corner)
    label = "Time and memory of Mixers against tokens, width, depth and batch"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n'
        f"<style>{CURVE_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def newest_curves(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each model, place and metric, of the machine that was measured last."""
    last = [row for row in rows if row["device"] == rows[-1]["device"]]
    return list({(row["model"], row["data"], row["metric"]): row for row in last}.values())


def _panel(rows: Sequence[Row], sweep: str, metrics: Sequence[str], corner: tuple[int, int]) -> list[str]:
    """One pair of axes, a line for each model and metric."""
    shown = [row for row in rows if row["metric"] in metrics]
    (left, top), (wide, high) = corner, PANEL
    xs = sorted({int(row["data"]) for row in shown})
    heading, factor, _ = CURVES[metrics[0]]
    low, top_value = _decades([factor * row["value"] for row in shown])
    x_of = _log_scale(xs[0], xs[-1], left, left + wide)
    y_of = _log_scale(low, top_value, top + high, top)
    parts = [f'<text class="small" x="{left}" y="{top - 10}">{heading}</text>']
    parts.append(f'<path class="axis" d="M{left} {top}v{high}h{wide}"/>')
    for x in xs:
        parts.append(f'<text class="small" text-anchor="middle" x="{x_of(x):.1f}" y="{top + high + 15}">{x}</text>')
    parts.append(f'<text class="small" x="{left}" y="{top + high + 30}">{LABELS[sweep]}</text>')
    for power in range(round(math.log10(low)), round(math.log10(top_value)) + 1):
        y = y_of(10.0**power)
        parts.append(f'<path class="axis" d="M{left - 4} {y:.1f}h4"/>')
        text = f"{10.0**power:g}"
        parts.append(f'<text class="small" text-anchor="end" x="{left - 8}" y="{y + 4:.1f}">{text}</text>')
    for model in ("Mixer", "ViT"):
        mark = _circle if model == "Mixer" else _square
        for metric in metrics:
            points = sorted(
                (int(row["data"]), factor * row["value"])
                for row in shown
                if row["metric"] == metric and row["model"] == f"{sweep}: {model}"
            )
            if not points:
                continue
            places = [(x_of(x), y_of(y)) for x, y in points]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="{model}" stroke-dasharray="{CURVES[metric][2]}" d="M{path}"/>')
            what = "forward" if metric.startswith("forward") else "training step"
            for (x, y), (at, value) in zip(places, points, strict=True):
                parts.append(mark(model, x, y, f"{model}, {what}, {LABELS[sweep]} {at}: {value:.3g} ({heading})"))
    return parts


def _decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten around the values, at least one apart."""
    values = list(values)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _log_scale(low: float, high: float, start: float, end: float):
    """The function from a value to its place."""
    span = math.log(high / low) or 1.0
    return lambda value: start + (end - start) * math.log(value / low) / span


def _circle(name: str, x: float, y: float, said: str) -> str:
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(said)}</title></circle>'


def _square(name: str, x: float, y: float, said: str) -> str:
    place = f'x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"'
    return f'<rect class="{name}" {place}><title>{escape(said)}</title></rect>'
