"""Costs by outcome and counts of retries in; work that nobody got anything for, by cause, out."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agent.core.cost.evidence import (
    Facts,
    Figure,
    Finding,
    Kind,
    gpu_seconds,
    grouped,
    hours,
    money,
    most_of,
    percent,
    ratio,
    time_of,
)
from agent.core.cost.reports import ReportRow
from agent.core.cost.request_statistics import RequestCounts

WASTE_OF: Mapping[str, str] = {
    "error": "error",
    "timeout": "timeout",
    "client_abort": "client_abort",
    "lost_record": "lost",
    "lost": "lost",
}
"""Why a request's cost bought nothing, by its outcome; other outcomes bought something, or cost nothing."""


class _Cause(NamedTuple):
    did: str
    advice: str


_CAUSES: dict[Kind, _Cause] = {
    "error": _Cause(
        "ended in an error", "Read the engine's log around these requests; `error` in their records says more."
    ),
    "timeout": _Cause(
        "ran into a time limit",
        "Raise the limit, limit what is asked (max_tokens), or refuse earlier: a quota costs less than a late answer.",
    ),
    "client_abort": _Cause(
        "were left by their clients before the end",
        "Find out why clients leave: their own time limit, a slow first token, or a user who closed the window.",
    ),
    "lost": _Cause(
        "lost their sidecar while they ran: nobody knows how they ended",
        "Find out what killed the sidecar: memory limits and short grace periods do.",
    ),
}


def waste_of(outcome: str) -> str:
    """Why the cost of a request with this outcome bought nothing; '' where it did, or is not known yet."""
    return WASTE_OF.get(outcome, "")


def wasted(facts: Facts) -> Iterator[Finding]:
    """Findings about how requests ended, for each cause and model a part of the bill of its own; and retries."""
    for model, rows in _models(facts).items():
        causes: dict[str, list[ReportRow]] = {}
        for row in rows:
            if cause := waste_of(row.group["outcome"]):
                causes.setdefault(cause, []).append(row)
        for kind, told in _CAUSES.items():
            if kind in causes:
                yield _outcome(facts, kind, told, model, causes[kind], rows)
    yield from _retries(facts)


def _models(facts: Facts) -> dict[str, list[ReportRow]]:
    rows = [row for row in facts.requests if row.group["state"] == "request"]
    found = grouped(rows, "model")
    unnamed = [row for row in rows if not row.group["model"]]
    return {**found, **({"": unnamed} if unnamed else {})}


def _outcome(
    facts: Facts, kind: Kind, told: _Cause, model: str, rows: list[ReportRow], of_model: list[ReportRow]
) -> Finding:
    spent, requests = time_of(rows), sum(row.requests for row in rows)
    everything = sum(row.requests for row in of_model)
    by_tenant = {tenant: float(time_of(of)) for tenant, of in grouped(rows, "tenant").items()}
    whose = most_of(by_tenant)
    named = f" of {model}" if model else ""
    return Finding(
        kind=kind,
        where=_where(model=model, tenant=next(iter(by_tenant)) if len(by_tenant) == 1 else ""),
        summary=f"{requests:,} requests{named} ({percent(requests, everything)}) {told.did}, after {hours(spent)} of "
        f"GPU time{f'; by tenant: {whose}' if whose else ''}.",
        figures=(
            gpu_seconds("wasted", spent),
            Figure("requests", requests, "requests"),
            ratio("share_of_requests", requests, everything),
            Figure("output_tokens", sum(row.output_tokens for row in rows), "tokens"),
        ),
        advice=told.advice,
        gpu_ns=spent,
        cost_nano=money(rows),
        covered_ns=facts.covered_ns,
    )


def _retries(facts: Facts) -> Iterator[Finding]:
    """What the attempts cost that retries followed: of a pair's failed requests as many as there were retries."""
    since = facts.statistics.since_ns
    if since is None:
        return
    counts: dict[str, dict[str, RequestCounts]] = {}
    for (model, tenant), one in facts.statistics.counts.items():
        counts.setdefault(model, {})[tenant] = one
    for model, rows in _models(facts).items():
        failed: dict[str, list[ReportRow]] = {}
        for row in rows:
            if waste_of(row.group["outcome"]) or row.group["outcome"] == "rejected":
                failed.setdefault(row.group["tenant"], []).append(row)
        spent, cost, retries, requests = 0, 0, {}, 0
        for tenant, one in counts.get(model, {}).items():
            requests += one.requests
            if not one.retries:
                continue
            retries[tenant] = float(one.retries)
            before = failed.get(tenant, [])
            if number := sum(row.requests for row in before):
                followed = min(one.retries, number)
                spent += time_of(before) * followed // number
                cost += (money(before) or 0) * followed // number
        if not retries:
            continue
        total = int(sum(retries.values()))
        named = f" of {model}" if model else ""
        yield Finding(
            kind="retries",
            where=_where(model=model, tenant=next(iter(retries)) if len(retries) == 1 else ""),
            summary=f"{total:,} requests{named} ({percent(total, requests)}) were sent again after a failure: "
            f"{most_of(retries) or 'by tenants without a name'}.",
            figures=(
                Figure("retries", total, "requests"),
                ratio("share_of_requests", total, requests),
                gpu_seconds("failed_attempts", spent),
            ),
            advice="Cure what fails first (see errors, timeouts and aborts); then let clients wait longer between "
            "attempts, and fewer of them.",
            gpu_ns=spent,
            cost_nano=cost if facts.bill_nano is not None else None,
            covered_ns=max(0, facts.end_ns - since),
            is_part=False,
            limits="Clients say which attempt a request is (x-stainless-retry-count, x-envoy-attempt-count); others "
            "are not counted. The cost is that of as many failed requests of the same tenant and model, and is "
            "also in the findings about errors, timeouts and aborts.",
        )


def _where(**names: str) -> dict[str, str]:
    return {name: value for name, value in names.items() if value}
