"""Counters of engines, cached tokens and limits of requests in; work done twice, or room kept for nothing, out."""

from collections.abc import Iterable, Iterator

from agent.core.cost.evidence import HOUR_NS, Facts, Figure, Finding, gpu_seconds, grouped, hours, money, percent, ratio
from agent.core.cost.reports import ReportRow
from agent.core.cost.request_statistics import RequestCounts

CACHE_GAP = 0.2  # so much more of the input came from the cache in the best hour
BEST_HOUR_REQUESTS = 20
BEST_TOKENS_PART = 200  # an hour counts with at least this part (1/200) of the input, a tenant with ten times as much
PREEMPTED_PART = 100  # less than one in so many requests is no trouble
LEAST_LIMITED = 100  # requests with a limit, before anything is said of limits
FAR_BELOW_RATIO = 0.5
RESERVING = {
    "tgi": "TGI admits a request only when its whole limit fits the batch's token budget",
    "trtllm": "with GUARANTEED_NO_EVICT, its default, TensorRT-LLM keeps cache for the whole limit of each request",
    "triton": "with GUARANTEED_NO_EVICT, its default, the TensorRT-LLM backend keeps cache for the whole limit",
    "sglang": "SGLang keeps back a part of each limit (schedule-conservativeness) when it admits requests",
}
"""Engines whose admission depends on what requests ask for at most, and how; for others a high limit costs nothing."""

NO_CONSTANTS = (
    "The shape of this model is not known, so nobody can say what a prompt token costs: no money is given. "
    "Name the model's shape in the configuration."
)


def avoidable(facts: Facts) -> Iterator[Finding]:
    """Estimates that overlap with other parts of the bill."""
    for engine, rows in grouped((r for r in facts.requests if r.group["state"] == "request"), "engine").items():
        yield from _preemptions(facts, engine, rows)
        for model, of_model in grouped(rows, "model").items():
            yield from _cold_prefixes(facts, engine, model, of_model)
            yield from _unused_limits(facts, engine, model, of_model)


def _preemptions(facts: Facts, engine: str, rows: list[ReportRow]) -> Iterator[Finding]:
    seen = facts.observed.get(engine)
    requests = sum(row.requests for row in rows)
    if (
        seen is None
        or not seen.preemptions
        or seen.preemptions * PREEMPTED_PART < requests
        or not _matters(facts, rows)
    ):
        return
    mean = sum(row.input_tokens for row in rows) / requests
    spent = _prefill_ns(facts, engine, rows, mean * seen.preemptions)
    figures = [
        Figure("preemptions", seen.preemptions, "count"),
        Figure("mean_prompt", mean, "tokens"),
        Figure("seen_for", seen.seen_ns / 1e9, "seconds"),
    ]
    if seen.kv_cache_usage_ratio is not None:
        figures.append(Figure("kv_cache_peak", seen.kv_cache_usage_ratio, "ratio"))
    yield Finding(
        kind="preemptions",
        where={"engine": engine},
        summary=f"{engine} ran out of cache and set requests back {seen.preemptions:,} times in "
        f"{hours(seen.seen_ns)}; each reads its prompt again.",
        figures=tuple(figures),
        advice="Let it run fewer requests at once (max-num-seqs), give it more memory for its cache, or spread the "
        "load over more replicas.",
        gpu_ns=spent or 0,
        cost_nano=None if spent is None else facts.cost_of(engine, spent),
        covered_ns=seen.seen_ns,
        is_part=False,
        limits="The counter does not say whose requests they were: the mean prompt of the engine's requests is "
        "reckoned for each, less what its prefix cache still has, and not the output that is read again."
        if spent is not None
        else NO_CONSTANTS,
    )


def _cold_prefixes(facts: Facts, engine: str, model: str, rows: list[ReportRow]) -> Iterator[Finding]:
    read, cached = _input(rows)
    best = _best_share(facts, engine, model, rows)
    if not read or best is None or best[0] - cached / read < CACHE_GAP or not _matters(facts, rows):
        return
    again = round(read * best[0]) - cached
    spent = _prefill_ns(facts, engine, rows, again)
    yield Finding(
        kind="cold_prefix",
        where={"engine": engine, "model": model},
        summary=f"{percent(cached, read)} of the prompt tokens of {model} came from the cache, and "
        f"{percent(best[0], 1)} for {best[1]}: up to {again:,} tokens were read that need not be.",
        figures=(
            ratio("cached_share", cached, read),
            Figure("cached_share_best", best[0], "ratio"),
            Figure("best", best[1], "text"),
            Figure("avoidable", again, "tokens"),
            *((gpu_seconds("avoidable_time", spent),) if spent is not None else ()),
        ),
        advice="Put what prompts share at their beginning and keep it the same to the byte; send those that share it "
        "to the same replica (the sidecar's sticky header); give the engine more memory for its cache.",
        gpu_ns=spent or 0,
        cost_nano=None if spent is None else facts.cost_of(engine, spent),
        covered_ns=facts.covered_ns,
        is_part=False,
        limits="At most: prompts that have nothing in common cannot share a cache. A prompt token is reckoned at "
        "what it costs by the model's shape."
        if spent is not None
        else NO_CONSTANTS,
    )


def _best_share(facts: Facts, engine: str, model: str, rows: list[ReportRow]) -> tuple[float, str] | None:
    """Cached part of the input in the best hour, or where no hours are told for the best tenant; and of whom."""
    whole = _input(rows)[0]
    of_model = (row for row in facts.hours_of.get(engine, ()) if row.group["model"] == model)
    by_hour = [row for row in of_model if row.group["state"] == "request" and row.end_ns - row.start_ns <= HOUR_NS]
    if by_hour:
        shares = [
            (row.input_cached_tokens / row.input_tokens, "it in its best hour")
            for row in by_hour
            if row.requests >= BEST_HOUR_REQUESTS and row.input_tokens * BEST_TOKENS_PART >= whole > 0
        ]
    else:
        shares = [
            (cached / read, tenant)
            for tenant, of in grouped(rows, "tenant").items()
            for read, cached in [_input(of)]
            if read * BEST_TOKENS_PART >= 10 * whole > 0
        ]
    best = max(shares, default=None)
    return best if best is not None and best[0] > 0 else None  # none from the cache at all: it may not be told


def _unused_limits(facts: Facts, engine: str, model: str, rows: list[ReportRow]) -> Iterator[Finding]:
    snapshot = facts.engines.get(engine)
    why = RESERVING.get(snapshot.status.kind or "") if snapshot else None
    counts = RequestCounts()
    for (name, _tenant), one in facts.statistics.counts.items():
        if name == model:
            counts.add(one)
    far = counts.far_below >= FAR_BELOW_RATIO * counts.limited
    if why is None or counts.limited < LEAST_LIMITED or not far or not _matters(facts, rows):
        return
    seen = facts.observed.get(engine)
    waiting = seen.requests_waiting if seen else None
    queued = " Requests waited for room meanwhile." if waiting else ""
    yield Finding(
        kind="unused_limit",
        where={"engine": engine, "model": model},
        summary=f"{percent(counts.far_below, counts.limited)} of the requests of {model} wrote less than a quarter of "
        f"what they allowed (max_tokens).{queued}",
        figures=(
            ratio("share_far_below", counts.far_below, counts.limited),
            Figure("mean_limit", counts.limit_tokens / counts.limited, "tokens"),
            Figure("mean_output", counts.limited_output_tokens / counts.limited, "tokens"),
            *((Figure("waiting_peak", waiting, "requests"),) if waiting is not None else ()),
        ),
        advice="Ask clients to send the limit they need, or set a lower default; then more requests run at once.",
        covered_ns=max(0, facts.end_ns - (facts.statistics.since_ns or facts.end_ns)),
        is_part=False,
        limits=f"No money is given: {why}, but how many more requests would have run is not known.",
    )


def _matters(facts: Facts, rows: list[ReportRow]) -> bool:
    """Whether what these requests cost is worth looking at; of findings that may have no money of their own."""
    return 100 * (money(rows) or 0) >= (facts.bill_nano or 0)


def _input(rows: Iterable[ReportRow]) -> tuple[int, int]:
    """(prompt tokens with the cached ones, the cached ones)."""
    found = [(row.input_tokens, row.input_cached_tokens) for row in rows]
    return sum(read for read, _ in found), sum(cached for _, cached in found)


def _prefill_ns(facts: Facts, engine: str, rows: list[ReportRow], tokens: float) -> int | None:
    """GPU time of reading so many prompt tokens; at most what the requests had. None: the model's shape is unknown."""
    models = {row.group["model"]: row.gpu_ns for row in rows}
    constants = facts.constants_of(engine, max(models, key=lambda name: models[name]))
    if constants is None:
        return None
    had = sum(row.gpu_ns for row in rows)
    return min(had, round(tokens * constants.prefill_ns * max(1, facts.gpus_of(engine))))
