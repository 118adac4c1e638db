"""Selectors in, samples out: the newest sample of each series, or all of a range, stale markers applied."""

from collections.abc import Callable, Iterator

import numpy as np

from agent.core.metrics.block import HOLE_BITS
from agent.core.metrics.promql.context import Context, Steps
from agent.core.metrics.promql.labels import drop_name, ensure_unique
from agent.core.metrics.promql.ranges import RangeFunction, Window
from agent.core.metrics.promql.tree import Expr, MatrixSelector, Subquery, VectorSelector
from agent.core.metrics.promql.values import Floats, Instants, QueryError, RangeSeries, Vector
from agent.core.metrics.samples import Labels
from agent.core.metrics.series import Windows, present

MAX_SUBQUERY_STEPS = 11_000

Evaluate = Callable[[Context, Expr], Vector]


def instant(ctx: Context, node: VectorSelector) -> tuple[Vector, Floats]:
    """The newest sample of each series inside the lookback, unless it is a stale marker; and the samples' seconds."""
    found, _ = ctx.fetch(node, node, ctx.lookback_ms)
    labels: list[Labels] = []
    values: list[Floats] = []
    seconds: list[Floats] = []
    for windows in found:
        newest, rows = _newest(windows.values)
        alive = present(newest)
        if alive.all():
            labels += windows.labels
        else:
            labels += [windows.labels[column] for column in np.flatnonzero(alive)]
            newest, rows = newest[alive], rows[alive]
        values.append(newest)
        seconds.append(windows.times[rows] / 1000)
    if len(found) > 1:
        ensure_unique(labels, "the selector (the same series from two sources)")
    if not values:
        return Vector([], np.zeros(0)), np.zeros(0)
    return Vector(labels, np.concatenate(values)), np.concatenate(seconds)


def _newest(values: Floats) -> tuple[Floats, Instants]:
    """The last value of each column that is no hole, and its row."""
    rows = np.full(values.shape[1], len(values) - 1, dtype=np.int64)
    if not (values[-1].view(np.int64) == HOLE_BITS).any():
        return values[-1], rows
    filled = values.view(np.int64) != HOLE_BITS
    rows = len(values) - 1 - np.argmax(filled[::-1], axis=0)
    return values[rows, np.arange(values.shape[1])], rows


def over_range(
    ctx: Context, node: Expr, function: RangeFunction, evaluate: Evaluate, *, keep_name: bool, name: str
) -> Vector:
    """`function` of each series' samples in the range of `node`; series for which it has no answer are left out."""
    labels: list[Labels] = []
    values: list[Floats] = []
    for part, window in _dense(ctx, node, evaluate):
        with np.errstate(all="ignore"):
            found = function(window)
        if found is not None:
            labels += part
            values.append(found)
    if not keep_name:
        labels = [drop_name(one) for one in labels]
    ensure_unique(labels, name)
    return Vector(labels, np.concatenate(values) if values else np.zeros(0))


def all_samples(ctx: Context, node: Expr, evaluate: Evaluate) -> list[RangeSeries]:
    """The range itself, as the answer to a query."""
    series = [
        RangeSeries(one, window.times, window.values[:, column])
        for labels, window in _dense(ctx, node, evaluate)
        for column, one in enumerate(labels)
    ]
    ensure_unique([one.labels for one in series], "the selector (the same series from two sources)")
    return series


def _dense(ctx: Context, node: Expr, evaluate: Evaluate) -> Iterator[tuple[list[Labels], Window]]:
    """Series with samples at the same instants together, holes and stale markers taken out."""
    if isinstance(node, MatrixSelector):
        found, end = ctx.fetch(node, node.selector, node.range_ms)
        start = end - node.range_ms
    elif isinstance(node, Subquery):
        found, start, end = _subquery(ctx, node, evaluate)
    else:
        raise QueryError("a range is needed here, such as x[5m]")
    for windows in found:
        mask = present(windows.values)
        if mask.all():
            yield windows.labels, Window(windows.times, windows.values, start, end, ctx.at_ms)
            continue
        patterns: dict[bytes, list[int]] = {}
        for column, pattern in enumerate(mask.T):
            patterns.setdefault(pattern.tobytes(), []).append(column)
        for columns in patterns.values():
            rows = np.flatnonzero(mask[:, columns[0]])
            if len(rows):
                values = windows.values[rows][:, columns]
                yield [windows.labels[c] for c in columns], Window(windows.times[rows], values, start, end, ctx.at_ms)


def _subquery(ctx: Context, node: Subquery, evaluate: Evaluate) -> tuple[list[Windows], int, int]:
    """Evaluate the inner query at the multiples of the step inside (start, end]."""
    end = ctx.anchor(node.at, node.offset_ms, ctx.at_ms)
    start = end - node.range_ms
    step = node.step_ms or ctx.subquery_step_ms
    first = (start // step + 1) * step
    if (end - first) // step >= MAX_SUBQUERY_STEPS:
        raise QueryError(f"the subquery has more than {MAX_SUBQUERY_STEPS} steps; use a longer step or a shorter range")
    instants = range(first, end + 1, step)
    if not instants:
        return [], start, end
    steps = Steps(instants[0], instants[-1])
    vectors = (evaluate(ctx.moved(at_ms, steps), node.expr) for at_ms in instants)
    return [table(instants, vectors)], start, end


def table(instants: range, vectors: Iterator[Vector]) -> Windows:
    """Vectors of consecutive steps as one table; a series that a step lacks has a hole there."""
    columns: dict[Labels, int] = {}
    steps = [
        ([columns.setdefault(labels, len(columns)) for labels in vector.labels], vector.values) for vector in vectors
    ]
    bits = np.full((len(instants), len(columns)), HOLE_BITS, dtype=np.int64)
    for row, (places, values) in enumerate(steps):
        bits[row, places] = values.view(np.int64)
    return Windows(list(columns), np.array(instants, dtype=np.int64), bits.view(np.float64))
