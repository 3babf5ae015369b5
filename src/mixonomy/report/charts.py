"""Charts of studies, written as SVG by hand: the same numbers give the same text on every machine and version.

Lines differ in colour, marker and dash, so they are told apart without colours. Sizes are in units of the picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, PLOT_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 230, 58, 12, 22, 44
LEGEND_ROW, CHARACTER = 20, 6.7  # height of a line of the legend, width of a letter in it
BAR_ROW, BAR_LEFT = 26, 168
NUM_COLOURS = 6  # the variables --series0 to --series5 of page.css
DASHES = ("", "6 3", "2 3", "9 3 2 3", "4 2", "1 4")
NEUTRAL = -1  # colour of a line that is no series, drawn as the text is
# Okabe and Ito's colours, which colour-blind readers tell apart; for files that no stylesheet of a page reaches.
STANDALONE = (
    "svg{--ink:#1b1f27;--muted:#5d6675;--line:#dfe3ea;--band:#00000010;"
    "--series0:#0072b2;--series1:#d55e00;--series2:#00805c;--series3:#aa4a8b;--series4:#a36a00;--series5:#5d6675}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e7eaf0;--muted:#9aa4b4;--line:#313843;--band:#ffffff14;"
    "--series0:#56b4e9;--series1:#ff8a4c;--series2:#2cc295;--series3:#e39bc4;--series4:#f0b93a;--series5:#b7c0cc}}"
)
STYLE = (
    "font-family:system-ui,sans-serif;font-size:12px;fill:var(--ink);stroke-width:1.8;"
    "stroke-linecap:round;stroke-linejoin:round"
)


@dataclass(frozen=True)
class Line:
    """Points of one series, from left to right.

    Args:
      points: (x, y, half the length of the error bar or None).
      colour: number of the colour, marker and dash; the place among the chart's lines if None. Markers and dashes
        move on by one where colours begin again, so that up to 36 lines differ.
      is_joined: whether a line connects them.
      has_markers: whether each is marked; a fitted curve has none.
    """

    name: str
    points: tuple[tuple[float, float, float | None], ...]
    colour: int | None = None
    is_joined: bool = True
    has_markers: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Args:
      title: what it shows, for those who do not see it.
      is_share: whether y are shares, written in %.
      is_log: whether the x axis is logarithmic; is_log_y: the other.
      from_zero: whether the y axis begins at 0.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    is_share: bool = False
    is_log: bool = False
    is_log_y: bool = False
    from_zero: bool = False


def chart_svg(chart: Chart) -> str:
    """The chart as a part of a page, with the page's colours.

    Raises:
      ValueError: if there is no point, or one that a logarithmic axis has no place for.
    """
    points = [(x, y, bar or 0.0) for line in chart.lines for x, y, bar in line.points]
    if not points:
        raise ValueError(f"the chart of {chart.title} has no points; give some.")
    legend, legend_height = _legend(chart.lines)
    top = TOP + legend_height
    x_of, x_ticks = _axis([x for x, _, _ in points], LEFT + 8, WIDTH - RIGHT - 8, chart.is_log, chart.title)
    # On a logarithmic axis a bar that reaches below half of its value would squeeze all else; it ends at the axis.
    ends = [
        value for _, y, bar in points for value in (max(y - bar, y / 2) if chart.is_log_y and bar else y - bar, y + bar)
    ]
    ends += [0.0] if chart.from_zero else []
    y_of_any, y_ticks = _axis(ends, top + PLOT_HEIGHT - 6, top + 6, chart.is_log_y, chart.title)

    def y_of(value: float) -> float:
        return y_of_any(max(value, min(ends)))

    parts = [*legend, f'<text fill="var(--muted)" x="{LEFT}" y="{top - 8}">{escape(chart.y_label)}</text>']
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path stroke="var(--line)" stroke-width="1" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        said = f"{100 * tick:.4g} %" if chart.is_share else f"{tick:,.6g}"
        parts.append(_text(said, LEFT - 7, y + 4, "end"))
    bottom = top + PLOT_HEIGHT
    parts.append(
        f'<path stroke="var(--line)" stroke-width="1" fill="none" d="M{LEFT} {top}V{bottom}H{WIDTH - RIGHT}"/>'
    )
    for tick in x_ticks:
        parts.append(_text(f"{tick:,.6g}", x_of(tick), bottom + 17, "middle"))
    parts.append(_text(chart.x_label, (LEFT + WIDTH - RIGHT) / 2, bottom + 36, "middle"))
    for place, line in enumerate(chart.lines):
        parts += _series(line, place, x_of, y_of, chart)
    return _svg(parts, bottom + BOTTOM, chart.title)


@dataclass(frozen=True)
class Interval:
    """A value with the interval that it may lie in; no ends where nothing is known of it."""

    name: str
    value: float
    low: float | None
    high: float | None


def interval_svg(title: str, x_label: str, intervals: Sequence[Interval], *, band: float | None = None) -> str:
    """Intervals below one another, with a line at 0.

    Args:
      title: what it shows, for those who do not see it.
      band: half the width of a shaded strip around 0, what counts as equal.
    Raises:
      ValueError: if there is no interval.
    """
    if not intervals:
        raise ValueError(f"the chart of {title} has no intervals; give some.")
    ends = [end for each in intervals for end in (each.value, each.low, each.high) if end is not None] + [0.0]
    ends += [] if band is None else [-band, band]
    x_of, ticks = _axis(ends, BAR_LEFT + 8, WIDTH - RIGHT - 8, False, title)
    bottom = TOP + BAR_ROW * len(intervals)
    parts = []
    if band is not None:
        left, right = x_of(-band), x_of(band)
        box = f'x="{left:.1f}" y="{TOP - 6}" width="{right - left:.1f}" height="{bottom - TOP + 6}"'
        parts.append(f'<rect fill="var(--band)" {box}/>')
    for tick in ticks:
        parts.append(f'<path stroke="var(--line)" stroke-width="1" d="M{x_of(tick):.1f} {TOP - 6}V{bottom}"/>')
        parts.append(_text(f"{tick:,.6g}", x_of(tick), bottom + 17, "middle"))
    parts.append(f'<path stroke="var(--muted)" stroke-width="1.4" d="M{x_of(0.0):.1f} {TOP - 6}V{bottom}"/>')
    for row, each in enumerate(intervals):
        y = TOP + BAR_ROW * row + 12
        said = f"{each.name}: {each.value:+.2f}"
        parts.append(f'<text text-anchor="end" x="{BAR_LEFT - 6}" y="{y + 4}">{escape(each.name)}</text>')
        if each.low is not None and each.high is not None:
            said += f" [{each.low:+.2f}, {each.high:+.2f}]"
            line = f"M{x_of(each.low):.1f} {y}H{x_of(each.high):.1f}"
            parts.append(f'<path stroke="var(--series0)" d="{line}"><title>{escape(said)}</title></path>')
        parts.append(
            f'<circle fill="var(--series0)" cx="{x_of(each.value):.1f}" cy="{y}" r="4">'
            f"<title>{escape(said)}</title></circle>"
        )
    parts.append(_text(x_label, (BAR_LEFT + WIDTH - RIGHT) / 2, bottom + 36, "middle"))
    return _svg(parts, bottom + BOTTOM, title)


def standalone(svg: str) -> str:
    """A chart as a file of its own, with its colours, light and dark."""
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STANDALONE}</style>{rest}\n'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}" style="{STYLE}">{"".join(parts)}</svg>'


def _text(said: str, x: float, y: float, anchor: str) -> str:
    return f'<text fill="var(--muted)" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'


def _series(
    line: Line, place: int, x_of: Callable[[float], float], y_of: Callable[[float], float], chart: Chart
) -> Iterator[str]:
    number = place if line.colour is None else line.colour
    stroke = f'stroke="{_colour(number)}"'
    places = [(x_of(x), y_of(y)) for x, y, _ in line.points]
    if line.is_joined and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path {stroke} fill="none" stroke-dasharray="{_dash(number)}" d="M{path}"/>'
    for (x, y), (at, value, bar) in zip(places, line.points, strict=True):
        if bar:
            yield f'<path {stroke} stroke-width="1.2" d="M{x:.1f} {y_of(value - bar):.1f}V{y_of(value + bar):.1f}"/>'
        if line.has_markers:
            factor = 100 if chart.is_share else 1
            spread = f" ± {factor * bar:.3g}" if bar else ""
            said = (
                f"{line.name}, {chart.x_label} {at:,.6g}: {factor * value:.4g}{spread}{' %' if chart.is_share else ''}"
            )
            yield _marker(number, x, y, said)


def _colour(number: int) -> str:
    return "var(--ink)" if number == NEUTRAL else f"var(--series{number % NUM_COLOURS})"


def _turned(number: int) -> int:
    """The number by which markers and dashes are taken: one further each time that the colours begin again."""
    return number + number // NUM_COLOURS


def _dash(number: int) -> str:
    return "" if number == NEUTRAL else DASHES[_turned(number) % len(DASHES)]


def _marker(number: int, x: float, y: float, said: str = "") -> str:
    """A circle, square, triangle, diamond, ring or cross."""
    title = f"<title>{escape(said)}</title>" if said else ""
    colour = _colour(number)
    shapes = (
        f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.6">',
        f'<path fill="{colour}" d="M{x - 3.4:.1f} {y - 3.4:.1f}h6.8v6.8h-6.8z">',
        f'<path fill="{colour}" d="M{x:.1f} {y - 4.4:.1f}l4.2 7.4h-8.4z">',
        f'<path fill="{colour}" d="M{x:.1f} {y - 4.8:.1f}l4.4 4.8l-4.4 4.8l-4.4 -4.8z">',
        f'<circle fill="none" stroke="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.8">',
        f'<path fill="none" stroke="{colour}" d="M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m0 -7l-7 7">',
    )
    shape = shapes[_turned(number) % len(shapes)]
    return f"{shape}{title}</{shape[1:].split(' ')[0]}>"


def _legend(lines: Sequence[Line]) -> tuple[list[str], float]:
    """The names of the lines with what each looks like, and the height that this takes; nothing for a single one."""
    if len(lines) < 2:
        return [], 0.0
    parts, x, y = [], float(LEFT), 14.0
    for place, line in enumerate(lines):
        number = place if line.colour is None else line.colour
        wide = 42 + CHARACTER * len(line.name)
        if x > LEFT and x + wide > WIDTH:
            x, y = float(LEFT), y + LEGEND_ROW
        if line.is_joined:
            dash = f'stroke-dasharray="{_dash(number)}"'
            parts.append(f'<path stroke="{_colour(number)}" {dash} d="M{x:.1f} {y - 4:.1f}h24"/>')
        if line.has_markers:
            parts.append(_marker(number, x + 12, y - 4))
        parts.append(f'<text x="{x + 30:.1f}" y="{y:.1f}">{escape(line.name)}</text>')
        x += wide
    return parts, y + 8


def _axis(
    values: Sequence[float], start: float, end: float, is_log: bool, title: str
) -> tuple[Callable[[float], float], list[float]]:
    """The function from a value to its place, and the values that get a tick."""
    low, high = min(values), max(values)
    if is_log:
        if low <= 0:
            raise ValueError(f"the chart of {title} has a logarithmic axis and the value {low:g}; give values above 0.")
        low, high = (low / 2, high * 2) if low == high else (low, high)
        span = math.log(high / low)
        return lambda value: start + (end - start) * math.log(value / low) / span, _log_ticks(low, high)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    return lambda value: start + (end - start) * (value - low) / (high - low), _ticks(low, high)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between the two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between the two, fewer where these are many; round numbers if there are none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(found) <= 8:
            break
    return [float(f"{tick:.6g}") for tick in found] if len(found) > 1 else _ticks(low, high)
