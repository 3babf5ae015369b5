"""Charts: every point is where its numbers say, and the same numbers give the same text."""

import re
from xml.etree import ElementTree

import pytest

from mixonomy.report.charts import NEUTRAL, Chart, Interval, Line, chart_svg, interval_svg, standalone

LINES = (Line("Mixer", ((1, 0.5, 0.1), (10, 0.75, None), (100, 1.0, None))), Line("ViT <b>", ((1, 0.25, None),)))
CHART = Chart("scores", "epoch", "top-1", LINES, is_share=True, is_log=True)


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_points_are_evenly_spaced_on_a_logarithmic_axis_and_higher_values_are_higher():
    svg = chart_svg(CHART)
    (path,) = re.findall(r'fill="none" stroke-dasharray="" d="M([^"]*)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split())) for point in path.split("L")]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.15) and y0 - y1 == pytest.approx(y1 - y2, abs=0.15)
    assert x0 < x1 < x2 and y0 > y1 > y2


def test_a_chart_is_well_formed_says_its_points_and_escapes_names():
    svg = chart_svg(CHART)
    assert svg == chart_svg(CHART)
    root = ElementTree.fromstring(standalone(svg))
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[:2] == ["Mixer, epoch 1: 50 ± 10 %", "Mixer, epoch 10: 75 %"] and len(titles) == 4
    assert "ViT &lt;b&gt;" in svg and root.attrib["aria-label"] == "scores"


def test_series_differ_without_colour():
    points = ((0, 0.0, None), (1, 1.0, None))
    svg = chart_svg(Chart("many", "x", "y", tuple(Line(f"{i}", points) for i in range(6))))
    dashes = re.findall(r'fill="none" stroke-dasharray="([^"]*)"', svg)
    assert len(dashes) == len(set(dashes)) == 6


def test_lines_beyond_the_colours_differ_by_marker_and_dash():
    points = ((0, 0.0, None), (1, 1.0, None))
    svg = chart_svg(Chart("many", "x", "y", tuple(Line(f"{i}", points) for i in range(36))))
    lines = re.findall(r'<path stroke="([^"]*)" fill="none" stroke-dasharray="([^"]*)"', svg)
    assert len(set(lines)) == 36 == len(lines)
    dots = chart_svg(Chart("many", "x", "y", tuple(Line(f"{i}", points[:1], is_joined=False) for i in range(12))))
    titled = re.findall(r"<(\w+) ([^>]*)><title>", dots)
    shapes = {(name, *re.findall(r"series\d|r=\"[^\"]*\"|[a-z]-?[\d.]+ ?-?[\d.]*[a-z]", said)) for name, said in titled}
    assert len(titled) == len(shapes) == 12


def test_a_line_that_is_no_series_has_a_colour_of_its_own():
    points = ((0, 0.0, None), (1, 1.0, None))
    svg = chart_svg(Chart("front", "x", "y", (Line("front", points, NEUTRAL, has_markers=False),)))
    assert 'stroke="var(--ink)"' in svg and "series" not in svg


@pytest.mark.parametrize("bar", [0.05, 0.3, 0.6])
def test_error_bars_stay_in_the_plot_on_a_logarithmic_axis(bar):
    svg = chart_svg(Chart("errors", "x", "y", (Line("a", ((1, 0.5, bar), (2, 0.4, None))),), is_log_y=True))
    ((low, high),) = re.findall(r'stroke-width="1.2" d="M[\d.]+ (-?[\d.]+)V(-?[\d.]+)"', svg)
    ((top, bottom),) = re.findall(r'stroke-width="1" fill="none" d="M58 ([\d.]+)V([\d.]+)H', svg)
    assert float(top) <= float(high) < float(low) <= float(bottom)


def test_a_narrow_logarithmic_axis_has_ticks():
    svg = chart_svg(
        Chart(
            "near",
            "x",
            "y",
            (
                Line(
                    "a",
                    ((1, 0.77, None), (2, 0.92, None)),
                ),
            ),
            is_log_y=True,
        )
    )
    assert {"0.8", "0.85", "0.9"} <= set(re.findall(r">([\d.]+)</text>", svg))


def test_values_that_have_no_place_are_refused():
    with pytest.raises(ValueError, match="no points"):
        chart_svg(Chart("nothing", "x", "y", ()))
    with pytest.raises(ValueError, match="logarithmic axis and the value 0"):
        chart_svg(Chart("zero", "x", "y", (Line("a", ((0, 1.0, None),)),), is_log=True))


def test_a_value_without_an_interval_is_a_dot():
    svg = interval_svg("differences", "points", [Interval("a", 1.0, None, None)], band=0.5)
    assert "<title>a: +1.00</title></circle>" in svg and '<path stroke="var(--series0)"' not in svg


def test_an_interval_reaches_from_its_low_to_its_high_end():
    svg = interval_svg("differences", "points", [Interval("a", 1.0, -1.0, 3.0)], band=1.0)
    ((left, right),) = re.findall(r'd="M([\d.]+) \d+H([\d.]+)"><title>', svg)
    (dot,) = numbers(svg, r'cx="([\d.]+)"')
    assert dot == pytest.approx((float(left) + float(right)) / 2, abs=0.15)
    ((x, width),) = re.findall(r'<rect fill="var\(--band\)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    assert float(width) == pytest.approx((float(right) - float(left)) / 2, abs=0.3), "as wide as from -1 to 1"
    ElementTree.fromstring(standalone(svg))
