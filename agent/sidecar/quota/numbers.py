"""What happened to requests at quotas, counted by rule and a bounded number of tenants → samples for /metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.quotas.book import Book, Short, Verdict
from agent.core.quotas.shares import Bucket
from agent.core.quotas.windows import NS

MAX_TENANTS = 100  # of each rule; further ones are counted under `other`
RESULTS = ("admitted", "would_refuse", "refused", "queued")
PREFIX = "engineroom_sidecar_quota_"


@dataclass(slots=True)
class Counts:
    """Since this process started. Every request counts once for each rule that holds for it."""

    by_rule: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def _of(self, bucket: Bucket) -> list[int]:
        if bucket.counts is not None:
            return bucket.counts
        tenants = self.by_rule.setdefault(bucket.rule.name, {})
        found = tenants.get(bucket.tenant)
        if found is None:
            name = bucket.tenant if len(tenants) < MAX_TENANTS else "other"
            found = tenants.setdefault(name, [0] * len(RESULTS))
        bucket.counts = found
        return found

    def admitted(self, verdict: Verdict) -> None:
        """Let through; `would_refuse` for the rules that only watch."""
        if verdict.reservation is not None:
            self.passed(verdict.reservation.buckets)
        for bucket in {one.bucket for one in verdict.ignored}:
            self._of(bucket)[1] += 1

    def passed(self, buckets: Iterable[Bucket]) -> None:
        """Let through, now or after a wait."""
        for bucket in buckets:
            (bucket.counts or self._of(bucket))[0] += 1

    def refused(self, short: Iterable[Short]) -> None:
        """Refused by these rules."""
        for bucket in {one.bucket for one in short}:
            self._of(bucket)[2] += 1

    def queued(self, buckets: Iterable[Bucket]) -> None:
        """Began to wait."""
        for bucket in buckets:
            self._of(bucket)[3] += 1


def samples(book: Book, counts: Counts, waiting: int, now_ns: int, *, leased: bool) -> Iterator[Sample]:
    """Only the rules in force, and what was counted before."""

    def sample(name: str, value: float, **labels: str) -> Sample:
        return Sample(SeriesKey(PREFIX + name, labels.items()), value)

    for rule, tenants in counts.by_rule.items():
        for tenant, values in tenants.items():
            for result, value in zip(RESULTS, values, strict=True):
                yield sample("requests_total", value, rule=rule, tenant=tenant, result=result)
    overrun: dict[tuple[str, str], int] = dict(book.overrun)
    for bucket in book.buckets():
        for share in bucket.shares:
            key = (bucket.rule.name, share.kind)
            overrun[key] = overrun.get(key, 0) + share.overrun
    for (name, kind), amount in overrun.items():
        if kind in ("tokens", "money"):
            shown = amount / NS if kind == "money" else amount
            yield sample("reservation_overrun_total", shown, rule=name, kind=kind)
    yield sample("waiting", waiting)
    yield sample("unpriced_total", book.unpriced)
    if leased:
        yield sample("lease_valid", float(book.in_touch(now_ns)))
        if book.answered_ns is not None:
            yield sample("lease_age_seconds", (now_ns - book.answered_ns) / NS)
