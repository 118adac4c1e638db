"""What a query evaluates to, what it is asked of, and how it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.core.metrics.matchers import Matcher
from agent.core.metrics.samples import Labels
from agent.core.metrics.series import SeriesWindow

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]


class QueryError(ValueError):
    """The query is wrong, unsupported, or has no defined answer; the message says what, where and what to do."""


class Source(Protocol):
    """Anything that remembers series: `History`, or a list of windows in a test."""

    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[SeriesWindow]:
        """Samples with `start_ms < t <= end_ms` of every series that satisfies all matchers."""
        ...


class VectorSample(NamedTuple):
    """One element of an instant vector. `labels` are sorted and hold `__name__` where PromQL keeps it."""

    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number without labels."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """An instant vector: label sets and their values, in the same order. All at the instant of the evaluation.

    `labels[i]` belongs to `values[i]`; `samples` gives both together.
    """

    labels: list[Labels]
    values: Floats

    @property
    def samples(self) -> list[VectorSample]:
        """Elements as (labels, value), in the order of the result (which only sort, topk and bottomk define)."""
        return [VectorSample(labels, value) for labels, value in zip(self.labels, self.values.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class RangeSeries:
    """One series of a range result: `times` in milliseconds, `values` beside them."""

    labels: Labels
    times: Instants
    values: Floats

    @property
    def points(self) -> list[tuple[int, float]]:
        """(milliseconds, value), ascending."""
        return list(zip(self.times.tolist(), self.values.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A range vector: what `x[5m]` gives when it is the whole query."""

    series: list[RangeSeries]


Value = Scalar | Vector | Text | Matrix
