"""A metrics page that was read: its samples, what it declares about them, and what was wrong with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.core.metrics.samples import Sample

_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_gcount", "_gsum", "_info", "_created")


class Family(NamedTuple):
    """What a page says about one metric. `type` is ``unknown`` when it does not say (or says untyped)."""

    type: str = "unknown"
    unit: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Scrape:
    """One page, read. `problems` are the first few, for people; `malformed` and `duplicates` count them all.

    `samples` carry the names of the wire (a counter that OpenMetrics writes without `_total` keeps its name).
    `families` are keyed as declared: in OpenMetrics a counter's family has no `_total`.
    """

    samples: tuple[Sample, ...] = ()
    families: Mapping[str, Family] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    malformed: int = 0
    duplicates: int = 0
    truncated: bool = False  # the page held more than was read
    _places: Mapping[str, list[int]] = field(default_factory=dict, repr=False)

    def named(self, name: str) -> list[Sample]:
        """All samples of the metric with this name on the wire."""
        return [self.samples[at] for at in self._places.get(name, ())]

    def names(self) -> Iterable[str]:
        """Every metric name that has a sample."""
        return self._places.keys()

    def type_of(self, name: str) -> str:
        """Declared type of a sample name, with or without its suffix; ``unknown`` if the page does not say."""
        return family_of(self.families, name).type


def family_of(families: Mapping[str, Family], name: str) -> Family:
    """The family a sample name belongs to: by its own name, else without its suffix."""
    if name in families:
        return families[name]
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in families:
            return families[name.removesuffix(suffix)]
    return Family()
