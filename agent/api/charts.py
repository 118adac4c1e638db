"""Points → SVG, on the server. No style attributes: the page's policy allows none, the style sheet has the colours.

Charts stretch to their box (`preserveAspectRatio="none"`; strokes keep their width by `vector-effect`); text around
them is HTML, so that it does not stretch.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

Points = Sequence[tuple[int, float]]

_WIDTH = 1200
_HEIGHT = 400
_MARGIN = 8  # room for half a stroke, so that 0 and the top are not cut
_GAP_STEPS = 3.5  # a hole wider than this is shown as one; a line across it would claim data


class Trace(NamedTuple):
    """One line of a chart. `tone` is a class of the style sheet."""

    name: str
    tone: str
    points: Points


class Frame(NamedTuple):
    """The time window of all charts of a page: Unix ms, and the distance of points."""

    start_ms: int
    end_ms: int
    step_ms: int


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 2.5, 5 x 10^n that is not below `value`; 1 where there is nothing to scale to."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.9999)


def top_of(traces: Sequence[Trace], at_least: float = 0.0) -> float:
    """Upper end of the y axis for these lines."""
    values = [value for trace in traces for _, value in trace.points if math.isfinite(value)]
    return nice_ceiling(max([*values, at_least]))


def plot(frame: Frame, traces: Sequence[Trace], top: float, label: str, mark: float | None = None) -> Markup:
    """Lines from 0 to `top`, the first one with its area filled; a dashed line at `mark`, e.g. an alert's threshold."""
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    parts = [f'<svg class="plot" {box} role="img" aria-label="{escape(label)}">']
    runs_of = [_runs(frame, trace.points, top) for trace in traces]
    if mark is not None and 0 < mark < top and any(runs_of):
        y = round(_HEIGHT - _HEIGHT * mark / top)
        parts.append(f'<path class="mark" d="M0 {y}H{_WIDTH}"/>')
    for index, (trace, runs) in enumerate(zip(traces, runs_of, strict=True)):
        if index == 0:
            parts.extend(_area(run, trace.tone) for run in runs if len(run) > 1)
        # A single point becomes a dot: a line of no length with round ends.
        path = "".join(f"M{'L'.join(run if len(run) > 1 else run * 2)}" for run in runs)
        if path:
            parts.append(f'<path class="line {trace.tone}" d="{path}"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def _runs(frame: Frame, points: Points, top: float) -> list[list[str]]:
    """Pixel coordinates as ``x y``, cut where data is missing. Integers: a third of the text, and faster to write."""
    start, widest = frame.start_ms, _GAP_STEPS * frame.step_ms
    x_scale = _WIDTH / max(1, frame.end_ms - start)
    y_scale = (_HEIGHT - 2 * _MARGIN) / top
    floor, ceiling = _HEIGHT - _MARGIN, float(_MARGIN)
    runs: list[list[str]] = []
    before = -math.inf
    for at_ms, value in points:
        if at_ms < start or value - value != 0:  # NaN and the infinities are not drawn
            continue
        if at_ms - before > widest:
            runs.append([])
        y = min(floor, max(ceiling, floor - value * y_scale))
        runs[-1].append("%d %d" % ((at_ms - start) * x_scale, y))  # noqa: UP031  # twice as fast here
        before = at_ms
    return runs


def _area(run: list[str], tone: str) -> str:
    first, last = run[0].partition(" ")[0], run[-1].partition(" ")[0]
    return f'<path class="area {tone}" d="M{first} {_HEIGHT}L{"L".join(run)}L{last} {_HEIGHT}Z"/>'


def stacked_bar(parts: Sequence[tuple[str, str, float]], label: str) -> Markup:
    """One bar of (name, tone, amount), widths in proportion."""
    total = sum(amount for _, _, amount in parts)
    out = [f'<svg class="stack" role="img" aria-label="{escape(label)}">']
    x = 0.0
    for name, tone, amount in parts:
        if total <= 0 or amount <= 0:
            continue
        width = 100 * amount / total
        title = f"<title>{escape(name)}: {width:.1f} %</title>"
        out.append(f'<rect class="{tone}" x="{x:.3f}%" width="{width:.3f}%" height="100%">{title}</rect>')
        x += width
    out.append("</svg>")
    return Markup("".join(out))


def meter(ratio: float | None, tone: str, label: str) -> Markup:
    """A thin horizontal gauge from 0 to 1."""
    width = 0.0 if ratio is None or not math.isfinite(ratio) else 100 * min(1.0, max(0.0, ratio))
    return Markup(
        f'<svg class="meter" role="img" aria-label="{escape(label)}"><rect class="rail" width="100%" height="100%"/>'
        f'<rect class="{tone}" width="{width:.1f}%" height="100%"/></svg>'
    )


def described(name: str, points: Points, show: Callable[[float | None], str]) -> str:
    """A chart in words, for those who cannot see it."""
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return f"{name}: no data"
    return f"{name}: now {show(values[-1])}, lowest {show(min(values))}, highest {show(max(values))}"
