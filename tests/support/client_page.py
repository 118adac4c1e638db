"""The page that prometheus_client would write for our samples: what exporters/prometheus.py is measured against."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from agent.core.catalogue import CATALOGUE
from agent.core.catalogue_types import Metric
from agent.core.metrics.samples import Sample
from exporters.prometheus import UnknownMetricError

_SERIES_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
_FAMILY_OF = {
    metric.name + suffix: metric for metric in CATALOGUE for suffix in _SERIES_SUFFIXES.get(metric.type, ("",))
}


class _Page(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for key, value in self._samples:
            metric = _FAMILY_OF.get(key.name)
            if metric is None:
                raise UnknownMetricError(key.name)
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _family(metric)
            family.add_sample(key.name, dict(key.labels), value)
        for metric in CATALOGUE:
            if metric.name in families:
                yield families[metric.name]


def _family(metric: Metric) -> Family:
    name = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
    return Family(name, metric.help, metric.type, metric.unit)


def render(samples: Iterable[Sample], *, open_metrics: bool = False) -> bytes:
    """One complete page. Raises `UnknownMetricError` for a name that the catalogue lacks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(samples))
    generate = generate_openmetrics if open_metrics else generate_latest
    return generate(registry)
