"""The shared machinery of the engine files: a map of signals and a scrape in, canonical readings out.

One signal has had many names. A map lists, for each signal, the sources that may carry it, best first; for each model
the first one that has a value wins. Ranks of one model (data parallel, label `engine`) are put together. Which series
of a page make which value is worked out once for each set of series: pages of an engine hold the same ones every time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan
from typing import Any, Literal, NamedTuple

from agent.core.metrics.samples import Labels, Sample, SeriesKey
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading, EngineRole, Histogram
from agent.engines.contract import UNKNOWN_MODEL, Origin

SourceType = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a signal may be found.

    `where` gives for a label the values that count; samples with another value are left out, and ``""`` stands for a
    sample without the label. `scale` turns the engine's unit into ours. `across` says how ranks of one model make one
    value. Series that differ only in the labels `repeated_over` tell the same thing several times: the largest counts
    once (of histograms, the one with the most observations). `zero_means_uncounted` is for counters that an engine
    declares but does not keep: their 0 is no fact. `plus` are places that count something else of the same signal: what
    they hold is added for each model that has a value here (numbers only).
    """

    metric: str
    type: SourceType
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scale: float = 1.0
    across: Literal["sum", "max"] = "sum"
    repeated_over: tuple[str, ...] = ("pid",)  # a label that prometheus_client adds in multiprocess mode
    zero_means_uncounted: bool = False
    plus: tuple["Source", ...] = ()


ROLES: Mapping[str | None, EngineRole] = {"prefill": "prefill", "decode": "decode"}

Sources = tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMap:
    """All signals of one engine. Keys of the mappings are fields of `EngineReading`, token kinds and outcomes.

    `model_label` is None for an engine whose page does not name the model. A series without that label belongs to the
    page's only model, else to the one that the engine names. `role_label` is one whose value is `prefill` or `decode`
    on engines that do only that.
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
    reader = _Reader(signals, scrape, origin.url)
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
    _name_the_unnamed(fields, origin.about.model or UNKNOWN_MODEL)
    return [
        EngineReading(
            engine=origin.engine,
            kind=signals.kind,
            url=origin.url,
            model=model,
            read_at_ns=origin.read_at_ns,
            role=reader.roles.get(model) or reader.roles.get("") or origin.about.role,
            **found,
        )
        for model, found in fields.items()
    ]


def _name_the_unnamed(fields: dict[str, dict[str, Any]], fallback: str) -> None:
    """Give what no label says the model of (key ``""``) to the page's only model, else to `fallback`."""
    unnamed = fields.pop("", None)
    if unnamed is None:
        return
    known = fields.setdefault(next(iter(fields)) if len(fields) == 1 else fallback, {})
    for name, value in unnamed.items():
        if isinstance(value, dict):
            known[name] = {**value, **known.get(name, {})}
        else:
            known.setdefault(name, value)


class _Reader:
    def __init__(self, signals: SignalMap, scrape: Scrape, page: str) -> None:
        self.scrape = scrape
        self.page = page  # whose page this is: what was worked out for it is remembered under that name
        self.labels = (signals.model_label, signals.role_label)
        self.roles: dict[str, EngineRole] = {}

    def numbers(self, sources: Sources) -> dict[str, float]:
        """Model -> value, each from the first source that has one."""
        found: dict[str, float] = {}
        for source in sources:
            for model, value in self._numbers_of(source).items():
                found.setdefault(model, value)
        return found

    def _numbers_of(self, source: Source) -> dict[str, float]:
        found: dict[str, float] = {}
        together = max if source.across == "max" else sum
        samples = self._samples(source, source.metric)
        for model, ranks in self._arranged(source, samples).items():
            # NaN is how an exporter says that it has no value; less than none of anything is a fault of the engine.
            told = [[v for at in rank if 0 <= (v := samples[at].value) < inf] for rank in ranks]
            values = [max(repeated) * source.scale for repeated in told if repeated]
            if values and not (source.zero_means_uncounted and not any(values)):
                found[model] = together(values)
        for other in source.plus:
            for model, value in self._numbers_of(other).items():
                if model in found:
                    found[model] += value
        return found

    def histograms(self, sources: Sources) -> dict[str, Histogram]:
        """Model -> histogram, each from the first source that has one whose ranks agree about the bounds."""
        found: dict[str, Histogram] = {}
        for source in sources:
            samples = self._samples(source, source.metric + "_bucket")
            arranged = self._arranged(source, samples)
            sums = {s.key.labels: s.value for s in self._samples(source, source.metric + "_sum")} if arranged else {}
            half_told = self._without_buckets(source, sums, arranged)
            for model, ranks in arranged.items():
                histogram = _together([_fullest(rank, samples, sums) for rank in ranks])
                if histogram is not None and model not in half_told:
                    found.setdefault(model, _scaled(histogram, source.scale))
        return found

    def _without_buckets(
        self, source: Source, sums: Iterable[Labels], arranged: Mapping[str, Sequence[Any]]
    ) -> set[str]:
        """Models of which a series has a sum and no buckets: the others are not the whole."""
        told = {buckets.labels for ranks in arranged.values() for rank in ranks for buckets in rank if buckets}
        others = [dict(labels) for labels in sums if labels not in told]
        return {labels.get(self.labels[0] or "", "") for labels in others if _chosen(labels, source.where.items())}

    def _samples(self, source: Source, metric: str) -> list[Sample]:
        samples = self.scrape.named(metric)
        return samples if samples and self.scrape.type_of(metric) in (source.type, "unknown") else []

    def _arranged(self, source: Source, samples: list[Sample]) -> Mapping[str, Sequence[Any]]:
        """Model -> its ranks: of a histogram each a list of `_Buckets`, else each the places of its samples."""
        if not samples:
            return {}
        keys = tuple([sample.key for sample in samples])
        where = tuple(source.where.items())
        place = (self.page, samples[0].key.name, where, source.repeated_over, self.labels)
        known = _ARRANGED.get(place)
        if known is None or known.keys != keys:
            if len(_ARRANGED) >= MOST_ARRANGED:
                _ARRANGED.clear()
            known = _ARRANGED[place] = _arrange(keys, self.labels, where, source.repeated_over)
        self.roles.update(known.roles)
        return known.models


class _Arrangement(NamedTuple):
    """What the series of one metric are for."""

    keys: tuple[SeriesKey, ...]
    models: Mapping[str, Sequence[Any]]
    roles: Mapping[str, EngineRole]


# Of the last page of each engine: a page of another version or with new series takes the place of the old one.
_ARRANGED: dict[tuple[object, ...], _Arrangement] = {}
MOST_ARRANGED = 3072


def _arrange(
    keys: tuple[SeriesKey, ...],
    named_by: tuple[str | None, str | None],
    where: tuple[tuple[str, tuple[str, ...]], ...],
    repeated_over: tuple[str, ...],
) -> _Arrangement:
    model_label, role_label = named_by
    apart = {"le", *repeated_over}
    models: dict[str, dict[Labels, list[int]]] = {}
    roles: dict[str, EngineRole] = {}
    for at, key in enumerate(keys):
        labels = dict(key.labels)
        model = labels.get(model_label, "") if model_label else ""
        role = ROLES.get(labels.get(role_label)) if role_label else None
        if role:
            roles[model] = role
        if _chosen(labels, where):
            rank = tuple((label, value) for label, value in key.labels if label not in apart)
            models.setdefault(model, {}).setdefault(rank, []).append(at)
    if keys[0].name.endswith("_bucket"):
        buckets = {model: [_buckets(keys, places) for places in ranks.values()] for model, ranks in models.items()}
        return _Arrangement(keys, buckets, roles)
    return _Arrangement(keys, {model: list(ranks.values()) for model, ranks in models.items()}, roles)


def _chosen(labels: Mapping[str, str], where: Iterable[tuple[str, tuple[str, ...]]]) -> bool:
    return all(labels.get(label, "") in values for label, values in where)


class _Buckets(NamedTuple):
    """A histogram's series: its labels, where its buckets are (ascending), and its finite bounds."""

    labels: Labels
    places: tuple[int, ...]
    bounds: tuple[float, ...]


def _buckets(keys: Sequence[SeriesKey], places: Iterable[int]) -> list[_Buckets | None]:
    """Each histogram among these buckets; None for one without usable bounds (some engines export look-alikes)."""
    series: dict[Labels, dict[float, int]] = {}
    for at in places:
        others = tuple((label, value) for label, value in keys[at].labels if label != "le")
        series.setdefault(others, {})[_bound(keys[at].get("le"))] = at
    return [
        None
        if any(map(isnan, found)) or inf not in found
        else _Buckets(labels, tuple(found[bound] for bound in sorted(found)), tuple(sorted(found))[:-1])
        for labels, found in series.items()
    ]


def _fullest(
    several: Iterable[_Buckets | None], samples: Sequence[Sample], sums: Mapping[Labels, float]
) -> Histogram | None:
    """Of histograms that tell the same, the one with the most observations; None when one of them is no histogram."""
    found: Histogram | None = None
    for buckets in several:
        if buckets is None:
            return None
        counts = [samples[at].value for at in buckets.places]
        if counts != sorted(counts) or not all(map(isfinite, counts)):
            return None
        if found is None or counts[-1] > found.count:
            total = sums.get(buckets.labels)
            told = total if total is not None and isfinite(total) else None
            found = Histogram(bounds=buckets.bounds, counts=tuple(counts), sum=told)
    return found


def _bound(text: str) -> float:
    """A bucket's upper bound; NaN (never a bound) for what is no number."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _together(parts: Sequence[Histogram | None]) -> Histogram | None:
    """Sum of histograms of equal bounds; None when bounds differ: buckets of different bounds have no sum."""
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or not whole or any(part.bounds != whole[0].bounds for part in whole):
        return None
    if len(whole) == 1:
        return whole[0]
    sums = [part.sum for part in whole if part.sum is not None]
    counts = tuple(map(sum, zip(*(part.counts for part in whole), strict=True)))
    return Histogram(bounds=whole[0].bounds, counts=counts, sum=sum(sums) if len(sums) == len(whole) else None)


def _scaled(histogram: Histogram, scale: float) -> Histogram:
    """The same in our unit."""
    if scale == 1:
        return histogram
    total = None if histogram.sum is None else histogram.sum * scale
    return Histogram(bounds=tuple(bound * scale for bound in histogram.bounds), counts=histogram.counts, sum=total)
