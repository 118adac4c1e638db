"""Short notations for tests of PromQL: series in, answers out."""

import math
import re
from collections.abc import Iterable

from agent.core.metrics.block import STALE
from agent.core.metrics.promql import Scalar, Vector, evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History

_SERIES = re.compile(r"([\w:]*)(?:\{(.*)\})?")


def key(text: str) -> SeriesKey:
    """`name{a="b"}` as a key."""
    name, labels = _SERIES.fullmatch(text).groups()  # type: ignore[union-attr]
    return SeriesKey(name, re.findall(r'([\w]+)="([^"]*)"', labels or ""))


def history(series: dict[str, str], interval_ms: int = 10_000) -> History:
    """Each series is a source of its own, so that gaps (`_`) stay gaps; the first value is at 0 ms. `stale` ends it."""
    found = History(retention_seconds=1e6)
    for index, (text, values) in enumerate(series.items()):
        for row, value in enumerate(values.split()):
            if value != "_":
                number = STALE if value == "stale" else float(value)
                found.append(f"s{index}", row * interval_ms, [Sample(key(text), number)])
    return found


def ask(query: str, source: History, at_ms: int) -> dict[str, float]:
    """A vector as `{labels: value}`, in order; a scalar under "scalar". NaN and infinities stay what they are."""
    value = evaluate(parse(query), source, at_ms)
    if isinstance(value, Scalar):
        return {"scalar": value.value}
    assert isinstance(value, Vector)
    return {show(labels): number for labels, number in value.samples}


def show(labels: Iterable[tuple[str, str]]) -> str:
    """Labels as `name{a="b"}`."""
    pairs = dict(labels)
    name = pairs.pop("__name__", "")
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in pairs.items()) + "}"


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """Equal but for the last digits; NaN equals NaN."""
    return a.keys() == b.keys() and all(
        (math.isnan(a[name]) and math.isnan(b[name])) or math.isclose(a[name], b[name], rel_tol=1e-12, abs_tol=1e-12)
        for name in a
    )
