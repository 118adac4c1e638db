"""Samples under the catalogue's names → metric families that prometheus-client writes, typed and described."""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from agent.core.catalogue import BY_NAME
from agent.core.metrics.samples import Sample

_SERIES_SUFFIXES = ("_bucket", "_sum", "_count")


def families(samples: Iterable[Sample]) -> Iterable[Metric]:
    """One family for each name, in the order of their first samples. Raises `KeyError`: a name is not catalogued."""
    found: dict[str, Metric] = {}
    for key, value in samples:
        name = _family(key.name)
        family = found.get(name)
        if family is None:
            described = BY_NAME[name]
            shown = name.removesuffix("_total") if described.type == "counter" else name
            family = found[name] = Metric(shown, described.help, described.type)
        family.add_sample(key.name, dict(key.labels), value)
    return found.values()


def _family(name: str) -> str:
    """The catalogue's name of a series: a histogram has three kinds of them."""
    if name in BY_NAME:
        return name
    return next((base for suffix in _SERIES_SUFFIXES if (base := name.removesuffix(suffix)) in BY_NAME), name)
