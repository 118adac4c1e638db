"""Where an evaluation stands: the source, the instant, and the samples already fetched for the steps around it."""

from dataclasses import dataclass, field

import numpy as np

from agent.core.metrics.promql.tree import At, Expr, VectorSelector
from agent.core.metrics.promql.values import Source
from agent.core.metrics.series import History, Windows


@dataclass(slots=True)
class Steps:
    """The instants one loop visits, and what its selectors fetched: once for all steps."""

    first_ms: int
    last_ms: int
    fetched: dict[int, list[Windows]] = field(default_factory=dict)  # by id of the node, which the tree keeps alive


@dataclass(frozen=True, slots=True)
class Context:
    """One evaluation at `at_ms`; `start_ms` and `end_ms` are those of the whole query, for `@ start()`, `@ end()`."""

    source: Source
    at_ms: int
    steps: Steps
    start_ms: int
    end_ms: int
    lookback_ms: int
    subquery_step_ms: int

    def moved(self, at_ms: int, steps: Steps) -> "Context":
        """The same query at another instant."""
        return Context(self.source, at_ms, steps, self.start_ms, self.end_ms, self.lookback_ms, self.subquery_step_ms)

    def anchor(self, at: At | None, offset_ms: int, at_ms: int) -> int:
        """The instant a selector means when it is evaluated at `at_ms`."""
        if at is None:
            return at_ms - offset_ms
        fixed = {"start": self.start_ms, "end": self.end_ms}.get(at.where, at.at_ms)
        return fixed - offset_ms

    def fetch(self, node: Expr, selector: VectorSelector, reach_ms: int) -> tuple[list[Windows], int]:
        """Samples of the `reach_ms` up to the instant the selector means (left-open), and that instant."""
        end = self.anchor(selector.at, selector.offset_ms, self.at_ms)
        steps = self.steps
        if steps.first_ms == steps.last_ms:
            return self._ask(selector, end - reach_ms, end), end
        windows = steps.fetched.get(id(node))
        if windows is None:
            first = self.anchor(selector.at, selector.offset_ms, steps.first_ms)
            last = self.anchor(selector.at, selector.offset_ms, steps.last_ms)
            windows = steps.fetched[id(node)] = self._ask(selector, first - reach_ms, last)
        return [part for whole in windows if len((part := _cut(whole, end - reach_ms, end)).times)], end

    def _ask(self, selector: VectorSelector, start_ms: int, end_ms: int) -> list[Windows]:
        if isinstance(self.source, History):
            return self.source.windows(selector.matchers, start_ms, end_ms)
        return [
            Windows([series.labels], series.times, series.values.reshape(-1, 1))
            for series in self.source.select(selector.matchers, start_ms, end_ms)
        ]


def _cut(windows: Windows, start_ms: int, end_ms: int) -> Windows:
    low, high = np.searchsorted(windows.times, (start_ms, end_ms), side="right").tolist()
    return Windows(windows.labels, windows.times[low:high], windows.values[low:high])
