"""The shared machinery of the engine files: a map of signals and a scrape in, canonical readings out.

One signal has had many names. A map lists, for each signal, the sources that may carry it, best first; for each model
the first one that has a value wins. Ranks of one model (data parallel, label `engine`) are put together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, isfinite, isnan
from typing import Any, Literal

from agent.core.metrics.samples import Sample
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading, EngineRole, Histogram
from agent.engines.contract import UNKNOWN_MODEL, Origin

SourceType = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a signal may be found.

    `where` gives for a label the values that count; samples with another value are left out. `scale` turns the engine's
    unit into ours. `across` says how ranks of one model make one value. Series that differ only in the labels
    `repeated_over` tell the same thing several times: the largest counts once. `zero_means_uncounted` is for counters
    that an engine declares but does not keep: their 0 is no fact.
    """

    metric: str
    type: SourceType
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scale: float = 1.0
    across: Literal["sum", "max"] = "sum"
    repeated_over: tuple[str, ...] = ("pid",)  # a label that prometheus_client adds in multiprocess mode
    zero_means_uncounted: bool = False


ROLES: Mapping[str | None, EngineRole] = {"prefill": "prefill", "decode": "decode"}

Sources = tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMap:
    """All signals of one engine. Keys of the mappings are fields of `EngineReading`, token kinds and outcomes.

    `model_label` is None for an engine whose page does not name the model. `role_label` is one whose value is
    `prefill` or `decode` on engines that do only that.
    """

    kind: str
    model_label: str | None
    role_label: str | None = None
    values: Mapping[str, Sources] = field(default_factory=dict)
    tokens: Mapping[str, Sources] = field(default_factory=dict)
    requests: Mapping[str, Sources] = field(default_factory=dict)
    histograms: Mapping[str, Sources] = field(default_factory=dict)


def read_signals(signals: SignalMap, scrape: Scrape, origin: Origin) -> list[EngineReading]:
    """One reading for each model that has at least one signal. What the page does not hold is absent."""
    reader = _Reader(signals, scrape, origin.about.model or UNKNOWN_MODEL)
    fields: dict[str, dict[str, Any]] = {}
    for name, sources in signals.values.items():
        for model, value in reader.numbers(sources).items():
            fields.setdefault(model, {})[name] = value
    for name, group in (("tokens_total", signals.tokens), ("requests_total", signals.requests)):
        for kind, sources in group.items():
            for model, value in reader.numbers(sources).items():
                fields.setdefault(model, {}).setdefault(name, {})[kind] = value
    for name, sources in signals.histograms.items():
        for model, histogram in reader.histograms(sources).items():
            fields.setdefault(model, {})[name] = histogram
    return [
        EngineReading(
            engine=origin.engine,
            kind=signals.kind,
            url=origin.url,
            model=model,
            read_at_ns=origin.read_at_ns,
            role=reader.roles.get(model) or origin.about.role,
            **found,
        )
        for model, found in fields.items()
    ]


class _Reader:
    def __init__(self, signals: SignalMap, scrape: Scrape, fallback_model: str) -> None:
        self.model_label = signals.model_label
        self.scrape = scrape
        self.fallback_model = fallback_model
        self.role_label = signals.role_label
        self.roles: dict[str, EngineRole] = {}

    def numbers(self, sources: Sources) -> dict[str, float]:
        """Model -> value, each from the first source that has one."""
        found: dict[str, float] = {}
        for source in sources:
            for model, value in self._numbers_of(source).items():
                found.setdefault(model, value)
        return found

    def _numbers_of(self, source: Source) -> dict[str, float]:
        ranks: dict[str, dict[object, float]] = {}
        for labels, sample in self._matching(source, source.metric):
            if not isfinite(sample.value):
                continue  # NaN is how an exporter says that it has no value
            value = sample.value * source.scale
            rank = tuple((k, v) for k, v in sample.key.labels if k not in source.repeated_over)
            of_model = ranks.setdefault(self._model(labels), {})
            of_model[rank] = max(of_model.get(rank, value), value)
        together = max if source.across == "max" else sum
        found = {model: together(values.values()) for model, values in ranks.items()}
        if source.zero_means_uncounted:
            found = {model: value for model, value in found.items() if value != 0}
        return found

    def histograms(self, sources: Sources) -> dict[str, Histogram]:
        """Model -> histogram, each from the first source that has one whose ranks agree about the bounds."""
        found: dict[str, Histogram] = {}
        for source in sources:
            for model, ranks in self._ranks_of(source).items():
                histogram = _together(rank.histogram(source.scale) for rank in ranks.values())
                if histogram is not None:
                    found.setdefault(model, histogram)
        return found

    def _ranks_of(self, source: Source) -> dict[str, dict[object, "_Rank"]]:
        ranks: dict[str, dict[object, _Rank]] = {}
        for suffix in ("_bucket", "_sum"):
            for labels, sample in self._matching(source, source.metric + suffix):
                others = tuple((k, v) for k, v in sample.key.labels if k != "le")
                rank = ranks.setdefault(self._model(labels), {}).setdefault(others, _Rank())
                if suffix == "_sum":
                    rank.sum = sample.value
                else:
                    rank.buckets[_bound(labels.get("le", ""))] = sample.value
        return ranks

    def _matching(self, source: Source, metric: str) -> Iterable[tuple[dict[str, str], Sample]]:
        if self.scrape.type_of(metric) not in (source.type, "unknown"):
            return
        for sample in self.scrape.named(metric):
            labels = dict(sample.key.labels)
            role = labels.get(self.role_label) if self.role_label else None
            if role in ROLES:
                self.roles[self._model(labels)] = ROLES[role]
            if all(labels.get(label) in values for label, values in source.where.items()):
                yield labels, sample

    def _model(self, labels: Mapping[str, str]) -> str:
        return (self.model_label and labels.get(self.model_label)) or self.fallback_model


@dataclass(slots=True)
class _Rank:
    """The histogram series of one rank."""

    buckets: dict[float, float] = field(default_factory=dict)
    sum: float | None = None

    def histogram(self, scale: float) -> Histogram | None:
        """None for what is no cumulative histogram with a +Inf bucket (some engines export look-alikes)."""
        if any(map(isnan, self.buckets)):
            return None
        pairs = sorted(self.buckets.items())
        counts = [count for _, count in pairs]
        if not pairs or pairs[-1][0] != inf or not all(map(isfinite, counts)) or counts != sorted(counts):
            return None
        total = None if self.sum is None or not isfinite(self.sum) else self.sum * scale
        return Histogram(bounds=tuple(bound * scale for bound, _ in pairs[:-1]), counts=tuple(counts), sum=total)


@lru_cache(maxsize=4096)
def _bound(text: str) -> float:
    """A bucket's upper bound; NaN (never a bound) for what is no number."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _together(ranks: Iterable[Histogram | None]) -> Histogram | None:
    """Sum of histograms of equal bounds; None when bounds differ: buckets of different bounds have no sum."""
    parts = list(ranks)
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or not whole or any(part.bounds != whole[0].bounds for part in whole):
        return None
    if len(whole) == 1:
        return whole[0]
    sums = [part.sum for part in whole if part.sum is not None]
    counts = tuple(map(sum, zip(*(part.counts for part in whole), strict=True)))
    return Histogram(bounds=whole[0].bounds, counts=counts, sum=sum(sums) if len(sums) == len(whole) else None)
