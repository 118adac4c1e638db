"""Requests that only a span told of, and what was booked as unattributed in their time, in; moves between the two out.

A span tells of a request when it is over. Time that is closed by then was booked to the engine as `unattributed`: the
request's price is taken out of that, never more than is there, so that all sums stay what they were.

Of each minute and slot the spans get as much as was booked past the sidecar, at most as long as they were in flight,
and share it as requests share a tick: each one's own work first (where the model's shape is known), then by in-flight
time. Money, energy and metered time go along in proportion, and of the output tokens that were found past the sidecar
in those minutes as many as the request wrote. What cannot be told afterwards: how much of that traffic
had no span. So spans of a part of it are charged up to the whole; and what came first is priced, so spans should be
collected until those of the same time can be expected to have arrived.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from agent.core.cost.closed import MINUTE_NS, Amount, Closed
from agent.core.cost.exact import Ints
from agent.core.cost.live import Booking, Live, Parts
from agent.core.cost.money import split
from agent.core.cost.shares import MOST_WORK_NS, share_active
from agent.core.cost.work import Constants, charge

ConstantsOf = Callable[[str, str], Constants | None]
Unpriced = Literal["not_booked", "all_taken", "no_time"]
"""Why a request known from a span costs nothing: no traffic past the sidecar was booked for its engine then (no GPU of
it is known, or its counters showed none); what was booked, other spans of that time have; it took no time at all."""


@dataclass(slots=True)
class Reassigned:
    """What moves: `moves` are added to the entries (they sum to nothing), `parts` to each request by place."""

    moves: dict[Booking, Parts] = field(default_factory=dict)
    parts: dict[str, dict[Booking, Parts]] = field(default_factory=dict)  # request id -> where
    unpriced: dict[str, Unpriced] = field(default_factory=dict)  # request id -> why it has none


def is_due(span: Live, through_ns: int) -> bool:
    """Whether all of its time is closed. Until then it waits: the rest of its time may yet be booked."""
    return span.ended_ns is not None and span.ended_ns <= through_ns


def minutes_of(span: Live) -> range:
    """The minutes (Unix ns of their start) in which it was in flight."""
    end = span.started_ns if span.ended_ns is None else span.ended_ns
    return range(span.started_ns - span.started_ns % MINUTE_NS, end, MINUTE_NS)


def is_open_to(booking: Booking, engine: str) -> bool:
    """Whether spans of `engine` may be priced out of it. What works for another node is not for this node to move."""
    return booking.state == "unattributed" and booking.engine == engine and booking.reason != "group_worker"


def reassign(spans: Sequence[Live], booked: Mapping[Booking, Amount], constants_of: ConstantsOf) -> Reassigned:
    """Price `spans`, all of whose time is closed, out of `booked`: all entries of their engines in `minutes_of` them.

    The same spans must not come again: they would take of the rest.
    """
    found = Reassigned()
    had: set[str] = set()
    groups: dict[tuple[str, int, str, str], list[tuple[Booking, Amount]]] = {}
    for booking, amount in booked.items():
        if amount.gpu_ns > 0 and is_open_to(booking, booking.engine):
            key = booking.engine, booking.bucket_ns, booking.gpu, booking.slot
            groups.setdefault(key, []).append((booking, amount))
    by_engine: dict[str, list[Live]] = {}
    for span in sorted(spans, key=lambda span: span.id):
        by_engine.setdefault(span.engine, []).append(span)
    for (engine, minute, _, _), entries in sorted(groups.items()):
        flying = [s for s in by_engine.get(engine, ()) if s.overlap(minute, minute + MINUTE_NS)]
        if flying:
            had.update(span.id for span in flying)
            _share_minute(found, flying, sorted(entries, key=lambda entry: entry[0]), minute, constants_of)
    for span in spans:
        if span.id not in found.parts:
            found.unpriced[span.id] = _why(span, span.id in had)
    return found


def _why(span: Live, was_booked: bool) -> Unpriced:
    if span.overlap(span.started_ns, span.ended_ns or span.started_ns) is None:
        return "no_time"
    return "all_taken" if was_booked else "not_booked"


def _share_minute(
    found: Reassigned,
    spans: Sequence[Live],
    entries: Sequence[tuple[Booking, Amount]],
    minute: int,
    constants_of: ConstantsOf,
) -> None:
    """The entries of one slot in one minute (several, if its holder or its reason changed) over the spans."""
    ends = minute + MINUTE_NS
    pieces = [span.overlap(minute, ends) or (0, 0) for span in spans]
    times = np.array([end - start for start, end in pieces], dtype=np.int64)
    works = _works(spans, minute, ends, constants_of)
    whole = sum(amount.gpu_ns for _, amount in entries)
    taken = split(min(whole, int(times.sum())), [amount.gpu_ns for _, amount in entries])
    for (booking, amount), gpu_ns in zip(entries, taken, strict=True):
        if not gpu_ns:
            continue
        shares, first = share_active(gpu_ns, times, works)
        ns = shares.tolist()
        firsts = [0] * len(ns) if first is None else first.tolist()
        work = min(amount.work_ns * gpu_ns // amount.gpu_ns, sum(firsts))
        totals = (amount.nano, amount.energy_uj, amount.metered_ns)
        nano, energy, metered = (split(total * gpu_ns // amount.gpu_ns, ns) for total in totals)
        worked = split(work, firsts) if work else [0] * len(ns)
        rows = [Parts(*parts) for parts in zip(ns, nano, worked, energy, metered, strict=True)]
        for span, parts in zip(spans, rows, strict=True):
            if parts.gpu_ns:
                outcome = span.outcome or "error"
                place = booking._replace(state="request", model=span.model, tenant=span.tenant, outcome=outcome)
                _add(found.moves, place, parts)
                _add(found.moves, booking, Parts(*[-part for part in parts]))
                _add(found.parts.setdefault(span.id, {}), place, parts)


def _works(spans: Sequence[Live], start_ns: int, end_ns: int, constants_of: ConstantsOf) -> Ints | None:
    works = []
    for span in spans:
        constants = constants_of(span.engine, span.model)
        if constants is None:
            return None
        works.append(min(charge(span, start_ns, end_ns, constants), MOST_WORK_NS))
    return np.array(works, dtype=np.int64)


def _add(where: dict[Booking, Parts], booking: Booking, parts: Parts) -> None:
    before = where.get(booking)
    where[booking] = parts if before is None else Parts(*[a + b for a, b in zip(before, parts, strict=True)])


def book(
    closed: Closed,
    spans: Sequence[Live],
    booked: Mapping[Booking, Amount],
    constants_of: ConstantsOf,
    currencies: Mapping[tuple[str, int], str | None],
) -> Reassigned:
    """Price spans within a settlement step that is not written yet. They are settled by it.

    `booked`: what the ledger has of their engines and minutes; what this step itself books is added. `currencies`: of
    the accounts, by (gpu, from_ns).
    """
    minutes = {(span.engine, minute) for span in spans for minute in minutes_of(span)}
    whole = {booking: _sum(amount, Amount()) for booking, amount in booked.items()}
    for booking, amount in closed.entries.items():
        if (booking.engine, booking.bucket_ns) in minutes and is_open_to(booking, booking.engine):
            whole[booking] = _sum(whole.get(booking, Amount()), amount)
    found = reassign(spans, whole, constants_of)
    for booking, parts in found.moves.items():
        closed.book(booking, *parts)
    for span in spans:
        _take_tokens(closed, span, found.parts.get(span.id, {}), whole)
        for booking, parts in found.parts.get(span.id, {}).items():
            span.gpu_ns += parts.gpu_ns
            span.nano += parts.nano
            span.work_ns += parts.work_ns
            span.energy_uj += parts.energy_uj
            span.metered_ns += parts.metered_ns
            currency = currencies.get((booking.gpu, booking.account_ns))
            span.currency = currency or span.currency
            span.unpriced = span.unpriced or currency is None
            span.last_booking = booking
        closed.finish(span)
    return found


def _take_tokens(closed: Closed, span: Live, places: Mapping[Booking, Parts], whole: dict[Booking, Amount]) -> None:
    """What it wrote is counted with it from now on, and no more past the sidecar: as far as that was found there."""
    wanted = span.usage.output_tokens or 0
    at = {(place.engine, place.bucket_ns, place.gpu) for place in places}
    for booking in sorted(whole):
        if wanted <= 0:
            return
        there = whole[booking]
        taken = min(wanted, there.output_tokens)
        if taken > 0 and (booking.engine, booking.bucket_ns, booking.gpu) in at and is_open_to(booking, span.engine):
            wanted -= taken
            there.output_tokens -= taken
            closed.book(booking, 0, 0).output_tokens -= taken


def _sum(one: Amount, other: Amount) -> Amount:
    return Amount(
        output_tokens=one.output_tokens + other.output_tokens,
        gpu_ns=one.gpu_ns + other.gpu_ns,
        nano=one.nano + other.nano,
        work_ns=one.work_ns + other.work_ns,
        energy_uj=one.energy_uj + other.energy_uj,
        metered_ns=one.metered_ns + other.metered_ns,
    )
