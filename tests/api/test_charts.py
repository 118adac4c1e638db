import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.charts import Frame, Trace, described, meter, nice_ceiling, plot, stacked_bar, top_of

FRAME = Frame(0, 600_000, 5_000)
values = st.floats(-1e12, 1e12) | st.sampled_from([math.nan, math.inf, -math.inf])


def lines(svg: str) -> list[str]:
    return [path.attrib["d"] for path in ET.fromstring(svg) if "line" in path.attrib["class"].split()]


def test_a_line_goes_from_the_left_to_the_right_edge():
    points = [(t, t / 600_000) for t in range(0, 600_001, 5_000)]
    (path,) = lines(plot(FRAME, [Trace("x", "a", points)], 1.0, "x"))
    assert path.startswith("M0 392L")
    assert path.endswith("L1200 8")


def test_a_hole_in_the_data_is_a_hole_in_the_line():
    points = [(t, 1.0) for t in range(0, 100_000, 5_000)] + [(t, 1.0) for t in range(300_000, 400_000, 5_000)]
    (path,) = lines(plot(FRAME, [Trace("x", "a", points)], 1.0, "x"))
    assert path.count("M") == 2


def test_one_missed_sample_is_bridged():
    (path,) = lines(plot(FRAME, [Trace("x", "a", [(0, 1.0), (10_000, 1.0)])], 1.0, "x"))
    assert path.count("M") == 1


def test_a_threshold_is_drawn_only_beside_data():
    assert 'class="mark"' in plot(FRAME, [Trace("x", "a", [(0, 1.0)])], 2.0, "x", 1.5)
    assert 'class="mark"' not in plot(FRAME, [Trace("x", "a", [])], 2.0, "x", 1.5)
    assert 'class="mark"' not in plot(FRAME, [Trace("x", "a", [(0, 1.0)])], 1.0, "x", 1.5)


def test_labels_from_outside_are_escaped():
    svg = plot(FRAME, [], 1.0, '"><script>') + stacked_bar([("<script>", "a", 1)], "<b>") + meter(0.5, "a", "<i>")
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "<i>" not in svg


def test_no_style_attributes():
    svg = plot(FRAME, [Trace("x", "a", [(0, 1.0)])], 1.0, "x") + stacked_bar([("a", "a", 1.0)], "") + meter(1, "a", "")
    assert "style=" not in svg


@given(st.lists(st.tuples(st.integers(0, 120).map(lambda n: n * 5_000), values), max_size=40), values)
def test_any_points_give_well_formed_svg_inside_its_box(points: list[tuple[int, float]], mark: float):
    points.sort()
    top = top_of([Trace("x", "a", points)])
    assert math.isfinite(top)
    svg = plot(FRAME, [Trace("x", "a", points)], top, "x", mark)
    for path in ET.fromstring(svg):
        for x, y in re.findall(r"(-?\d+) (-?\d+)", path.attrib["d"]):
            assert 0 <= int(x) <= 1200
            assert 0 <= int(y) <= 400


@given(st.floats(1e-9, 1e15))
def test_the_axis_ends_just_above_the_data(value: float):
    assert value * 0.999 <= nice_ceiling(value) <= value * 2.0001


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_an_axis_without_data_ends_at_one(value: float):
    assert nice_ceiling(value) == 1.0


def test_shares_of_a_bar_add_up():
    svg = ET.fromstring(stacked_bar([("a", "x", 1.0), ("b", "y", 2.0), ("c", "z", 0.0)], "bar"))
    widths = [float(rect.attrib["width"].rstrip("%")) for rect in svg]
    assert widths == pytest.approx([33.333, 66.667], abs=0.001)


def test_a_chart_is_told_in_words():
    assert described("Power", [(0, 3.0), (1, math.nan), (2, 1.0)], str) == "Power: now 1.0, lowest 1.0, highest 3.0"
    assert described("Power", [], str) == "Power: no data"
