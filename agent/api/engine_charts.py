"""The series of one engine → the charts of its card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import Frame, Trace, described, plot, top_of
from agent.api.history_view import latest
from agent.api.view import SLOW_SECONDS, Cell, Charts


@dataclass(slots=True)
class ChartCell(Cell):
    """A larger chart: its legend has the newest value of every line; `top` labels the y axis."""

    top: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)


def engine_charts(name: str, charts: Charts, frame: Frame) -> list[ChartCell]:
    """Requests, latency, time to first token and tokens of one engine."""

    def points(kind: str, *key: str) -> list[tuple[int, float]]:
        return charts[kind].get((name, *key), [])

    requests = [Trace("all", "a", points("requests"))]
    failed = points("failures")
    if any(value > 0 for _, value in failed):
        requests.append(Trace("failed", "bad", failed))
    tokens = [Trace("out", "a", points("tokens", "output")), Trace("in", "b", points("tokens", "input"))]
    cached = points("tokens", "input_cached")
    if cached:
        tokens.append(Trace("cached", "c", cached))
    duration = [Trace("p99", "d", points("duration_p99")), Trace("p50", "a", points("duration_p50"))]
    first = [Trace("p99", "d", points("first_token_p99")), Trace("p50", "a", points("first_token_p50"))]
    return [
        _chart("Requests", requests, frame, lambda v: formats.figure(v, "/s")),
        _chart("Latency", duration, frame, formats.seconds, SLOW_SECONDS),
        _chart("Time to first token", first, frame, formats.seconds),
        _chart("Tokens", tokens, frame, lambda v: formats.figure(v, "/s")),
    ]


def _chart(
    title: str, traces: Sequence[Trace], frame: Frame, show: Callable[[float | None], str], mark: float | None = None
) -> ChartCell:
    empty = not any(trace.points for trace in traces)
    top = top_of(traces)
    label = "; ".join(described(f"{title}, {trace.name}", trace.points, show) for trace in traces)
    legend = [(trace.name, trace.tone, show(latest(list(trace.points), frame))) for trace in traces]
    graphic = Markup() if empty else plot(frame, traces, top, label, mark)
    return ChartCell(title, "", "no data yet" if empty else "", "", graphic, "" if empty else show(top), legend)
