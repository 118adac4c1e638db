"""Each worker's page of metrics → one page for all. Pure but for the text's parser.

Counters and histograms are summed, and never go back: what a worker had counted when it died stays in the sum, as far
as it was seen. Gauges are summed, or the worst of them is told; those of a process get the label `worker`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

PER_PROCESS = ("process_", "python_")
WORST: Mapping[str, Callable[[float, float], float]] = {
    "_up": min,
    "_serving": min,
    "_ready": min,
    "_age_seconds": max,
    "_sync_seconds": max,
    "_timestamp_seconds": max,
    "_paused": max,
    "_blocked": max,
    "_info": max,
}
"""Gauges by the end of their name for which the worst worker counts; all others are summed."""
DURABLE = ("engineroom_delivery_accepted_items_total", "engineroom_delivery_items_total")
"""Counters that go on from the disk when a worker starts again."""

Labels = tuple[tuple[str, str], ...]
_SUMMED = ("counter", "histogram", "summary")


class Family(NamedTuple):
    """One metric of one worker's page."""

    type: str
    help: str
    samples: Mapping[tuple[str, Labels], float]


Page = Mapping[str, Family]


def read_page(text: str) -> Page:
    """A page in Prometheus' text format. Raises `ValueError` when it is none."""
    return {
        family.name: Family(
            family.type,
            family.documentation,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples},
        )
        for family in text_string_to_metric_families(text)
    }


class MergedPages:
    """Keeps what is needed so that sums do not go back while workers come and go."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self._silent: set[str] = set()
        self._gone: dict[str, Family] = {}

    def take(self, worker: str, page: Page | None) -> None:
        """A worker's page of now; None: it did not answer, so only its counters are known."""
        if page is None:
            self._silent.add(worker)
        else:
            self._silent.discard(worker)
            self._pages[worker] = page

    def replaced(self, worker: str) -> None:
        """Another process has taken this worker's place, and counts from nought but for what is on disk."""
        page = self._pages.pop(worker, {})
        kept = {}
        for name, family in page.items():
            if family.type not in _SUMMED:
                continue
            if any(sample in DURABLE for sample, _ in family.samples):
                kept[name] = family
            elif not name.startswith(PER_PROCESS):
                before = self._gone.get(name)
                self._gone[name] = family if before is None else _added(before, family)
        self._pages[worker] = kept
        self._silent.add(worker)

    def families(self, more: Iterable[Metric] = ()) -> Iterator[Metric]:
        """All workers as one; `more` is counted in as if it came from another one."""
        merged: dict[str, Family] = dict(self._gone)
        for worker, page in self._pages.items():
            for name, family in page.items():
                if worker in self._silent and family.type not in _SUMMED:
                    continue
                told = _labelled(family, worker) if name.startswith(PER_PROCESS) else family
                before = merged.get(name)
                merged[name] = told if before is None else _added(before, told)
        for metric in more:
            samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in metric.samples}
            told = Family(metric.type, metric.documentation, samples)
            before = merged.get(metric.name)
            merged[metric.name] = told if before is None else _added(before, told)
        for name, family in merged.items():
            metric = Metric(name, family.help, family.type)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _labelled(family: Family, worker: str) -> Family:
    return family._replace(
        samples={(name, (*labels, ("worker", worker))): value for (name, labels), value in family.samples.items()}
    )


def _added(one: Family, other: Family) -> Family:
    samples = dict(one.samples)
    for key, value in other.samples.items():
        if key not in samples:
            samples[key] = value
        elif other.type in _SUMMED:
            samples[key] += value
        else:
            worst = next((how for end, how in WORST.items() if key[0].endswith(end)), None)
            samples[key] = samples[key] + value if worst is None else worst(samples[key], value)
    return one._replace(samples=samples)
