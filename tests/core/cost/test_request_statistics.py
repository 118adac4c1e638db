"""Ended requests → how many were retries, and how far they stayed below their limits."""

from typing import Any

from agent.core.cost.request_statistics import DAY_NS, MOST_DAYS, MOST_PAIRS, OTHER, RequestCounts, RequestTally
from agent.core.requests import RequestRecord, Usage

T0 = 20_000 * DAY_NS


def ended(at_ns: int = T0, output: int | None = 10, **fields: Any) -> RequestRecord:
    base: dict[str, Any] = {"id": "r", "upstream": "e:1", "path": "/v1", "started_at_ns": at_ns, "outcome": "ok"}
    base |= {"model": "m", "tenant": "a", "usage": Usage(output_tokens=output)}
    return RequestRecord(**{**base, "ended_at_ns": at_ns, **fields})


def test_what_is_counted_of_requests() -> None:
    tally = RequestTally(T0 - 1)
    for record in (
        ended(max_output_tokens=41),
        ended(max_output_tokens=40),  # a quarter is not far below
        ended(attempt=2),
        ended(max_output_tokens=4096, outcome="client_abort"),  # nobody knows how much it would have written
        ended(max_output_tokens=4096, output=None),
        ended(max_output_tokens=0, output=0),
        ended(model=None, tenant=None, attempt=1),
    ):
        tally.add(record)
    told = tally.counted(T0 - DAY_NS, T0 + 5)
    assert told.since_ns == T0 - 1
    assert told.counts == {
        ("m", "a"): RequestCounts(
            requests=6, retries=1, limited=2, far_below=1, limit_tokens=81, limited_output_tokens=20
        ),
        ("", ""): RequestCounts(requests=1, retries=1),
    }


def test_a_window_is_of_whole_days() -> None:
    tally = RequestTally(0)
    for day in range(4):
        tally.add(ended(T0 + day * DAY_NS + 7))
    told = tally.counted(T0 + DAY_NS + 9, T0 + 2 * DAY_NS + 1)
    assert (told.since_ns, told.counts["m", "a"].requests) == (T0 + DAY_NS + 9, 2)


def test_memory_is_bounded() -> None:
    tally = RequestTally(0)
    for number in range(MOST_PAIRS + 3):
        tally.add(ended(model=f"m{number}"))
    for day in range(1, MOST_DAYS):
        tally.add(ended(T0 + day * DAY_NS))
    assert tally.overflow == 3
    counts = tally.counted(T0, T0).counts
    assert (len(counts), counts[OTHER].requests) == (MOST_PAIRS + 1, 3)
    tally.add(ended(T0 + MOST_DAYS * DAY_NS))
    assert tally.counted(T0, T0).counts == {}  # the oldest day went
