"""A time series' identity and one sample of it."""

from collections.abc import Iterable
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]


class SeriesKey:
    """Metric name and sorted labels, hashed once: scrapes meet the same series again and again."""

    __slots__ = ("_hash", "labels", "name")

    name: str
    labels: Labels

    def __init__(self, name: str, labels: Iterable[tuple[str, str]] = ()) -> None:
        self.name = name
        # An empty value is no label (Prometheus data model).
        self.labels = tuple(sorted([pair for pair in labels if pair[1]]))
        self._hash = hash((name, self.labels))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, SeriesKey) and self.name == other.name and self.labels == other.labels

    def __repr__(self) -> str:
        inside = ",".join(f'{k}="{v}"' for k, v in self.labels)
        return f"{self.name}{{{inside}}}"

    def get(self, label: str) -> str:
        """Value of a label; the empty string when it is absent, as in PromQL."""
        return next((v for k, v in self.labels if k == label), "")


class Sample(NamedTuple):
    """One value of one series; its instant is that of the scrape it came from."""

    key: SeriesKey
    value: float
