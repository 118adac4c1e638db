"""One cell of time and what its engines' requests did in it, in; how engines and requests share it, out. Integers.

A cell of length T of a slot is active for ``A = U + (T - U) * min(1, X / T)``: U is the union of the in-flight
intervals of proxied requests, X the in-flight time of traffic that went past the sidecar (of a worker whose requests
another node knows: T while its group works). Of A each request first has its own work (prefill and decode, by the
model's shape), scaled down where that is more than A; the rest goes by in-flight time. Traffic past the sidecar is
taken to work as the proxied requests did in the same time: with none, what a saturated engine did for it would be
charged to the others. Unless the shape of every engine on the slot is known that has requests, all goes by time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agent.core.cost.accounts import Account
from agent.core.cost.closed import IN_FLIGHT, Closed
from agent.core.cost.exact import Ints, Runs, split_array
from agent.core.cost.flights import Flights, merged
from agent.core.cost.in_flight import InFlight
from agent.core.cost.live import Booking, Live
from agent.core.cost.money import split
from agent.core.cost.presence import presence
from agent.core.cost.views import Owner

MOST_WORK_NS = 1 << 40  # of a request in a cell: 18 minutes. More is nonsense, and would not fit 64 bits in sums


class Use(NamedTuple):
    """A part of a slot's time: a state of an engine, or its requests of one model, tenant and outcome."""

    state: str
    engine: str
    model: str = ""
    tenant: str = ""
    outcome: str = ""
    group: str = ""


class Share:
    """How a slot's time is shared: `uses` with their `ns` and `work`; the first ones are of requests, in `runs`.

    `requests` are in the order of the places of `runs`, whose weights are their times; `request_work` in the same. What
    the slots of a cell book of them is added up here (`add`), until `settle` gives it to them.
    """

    __slots__ = ("_booked", "_open", "_split", "ns", "request_work", "requests", "runs", "uses", "work")

    def __init__(
        self,
        requests: list[Live],
        runs: Runs | None,
        request_work: Ints | None,
        uses: list[Use],
        rest: Sequence[tuple[Use, int, int]] = (),
    ) -> None:
        """`uses`: of the runs; `rest`: the others, with their time and work."""
        self.requests, self.runs = requests, runs
        times, works = [], []
        if runs is not None:
            request_work = np.zeros_like(runs.weights) if request_work is None else request_work
            times, works = runs.sums(), np.add.reduceat(request_work, runs.starts).tolist()
        self.request_work = request_work
        self.uses = [*uses, *[use for use, _, _ in rest]]
        self.ns: list[int] = [*times, *[ns for _, ns, _ in rest]]
        self.work: list[int] = [*works, *[work for _, _, work in rest]]
        self._booked: _Booked | None = None
        self._open: list[Open] | None = None
        self._split: dict[str, tuple[list[int], Ints]] = {}

    def scaled(self, length_ns: int) -> "Share":
        """The same shares of a slot that has `length_ns` of the cell's time."""
        count = len(self.runs.starts) if self.runs else 0
        rest = self.ns[count:]
        if self.runs is None or self.request_work is None:
            times = split(length_ns, rest)
            kept = zip(self.uses, times, rest, self.work, strict=True)
            return Share([], None, None, [], [(u, ns, w * ns // old) for u, ns, old, w in kept if ns])
        own = self.runs.weights
        both = split_array(length_ns, np.concatenate([own, np.array(rest, dtype=np.int64)]))
        times, mine = both[len(own) :].tolist(), both[: len(own)]
        kept = zip(self.uses[count:], times, rest, self.work[count:], strict=True)
        others = [(u, ns, w * ns // old) for u, ns, old, w in kept if ns]
        work = _part(self.request_work, mine, own)
        return _share(self.requests, mine, work, self.runs.starts, self.uses[:count], others)

    def add(
        self, account: Account, bookings: list[Booking], nano: list[int], energy_uj: list[int], metered_ns: list[int]
    ) -> list[Ints]:
        """A slot booked so much at `bookings`, the places of the runs: each request's part, in the order of `Parts`."""
        runs, work = self.runs, self.request_work
        if runs is None or work is None:
            return []
        parts = [runs.weights, *map(self._over_requests, ("nano", "uj", "ns"), (nano, energy_uj, metered_ns))]
        if self._booked is None:
            self._booked = _Booked(bookings)
        self._booked.add(account, bookings, parts)
        return [*parts[:2], work, *parts[2:]]

    def _over_requests(self, name: str, amounts: list[int]) -> Ints:
        runs = self.runs
        assert runs is not None
        count = len(runs.starts)
        amounts = amounts[:count]
        if name == "ns" and amounts == self.ns[:count]:
            return runs.weights
        last = self._split.get(name)  # GPUs of a group often cost the same
        if last is None or last[0] != amounts:
            last = self._split[name] = amounts, runs.split(amounts)
        return last[1]

    def open_rows(self, in_flight_of: Callable[[str], InFlight]) -> "list[Open]":
        """The requests whose end is not known."""
        runs = self.runs
        if self._open is None:
            self._open = []
            ends = [*runs.starts.tolist()[1:], len(self.requests)] if runs else []
            first = 0
            found: dict[tuple[str, str], list[int]] = {}
            for use, end in zip(self.uses, ends, strict=False):
                if use.outcome == IN_FLIGHT:
                    found.setdefault((use.engine, use.group), []).extend(range(first, end))
                first = end
            for (engine, group), places in found.items():
                rows = in_flight_of(engine).rows([self.requests[place] for place in places])
                self._open.append(Open(engine, group, np.array(places, dtype=np.int64), rows))
        return self._open

    def settle(self, closed: Closed) -> None:
        """Give each request what was booked of it."""
        runs, booked, work = self.runs, self._booked, self.request_work
        if booked is None or runs is None or work is None:
            return
        lengths = np.diff(np.append(runs.starts, len(self.requests))).tolist()
        lasts = [last for last, length in zip(booked.bookings, lengths, strict=True) for _ in range(length)]
        columns = [one.tolist() for one in (booked.ns, booked.nano, work * booked.slots, booked.energy, booked.metered)]
        for request, last, ns, nano, worked, energy, metered in zip(self.requests, lasts, *columns, strict=True):
            request.last_booking = last
            request.gpu_ns += ns
            request.nano += nano
            request.work_ns += worked
            request.energy_uj += energy
            request.metered_ns += metered
        if booked.currency is not None:
            for request in self.requests:
                request.currency = booked.currency
        if booked.unpriced:
            for request in self.requests:
                request.unpriced = True
        closed.requests.update(zip([request.id for request in self.requests], self.requests, strict=True))


class Open(NamedTuple):
    """Requests of an engine whose end is not known: where in the share they are, their rows in its `InFlight`."""

    engine: str
    group: str
    places: Ints
    rows: Ints


class _Booked:
    """What the slots of a cell booked of the requests of a share together."""

    __slots__ = ("bookings", "currency", "energy", "metered", "nano", "ns", "slots", "unpriced")

    def __init__(self, bookings: list[Booking]) -> None:
        self.bookings = bookings
        self.slots = 0
        self.ns: Ints = np.zeros(1, dtype=np.int64)
        self.nano = self.energy = self.metered = self.ns
        self.currency: str | None = None
        self.unpriced = False

    def add(self, account: Account, bookings: list[Booking], parts: Sequence[Ints]) -> None:
        self.bookings = bookings
        self.slots += 1
        self.ns, self.nano = self.ns + parts[0], self.nano + parts[1]
        self.energy, self.metered = self.energy + parts[2], self.metered + parts[3]
        self.currency = account.currency or self.currency
        self.unpriced = self.unpriced or account.currency is None


def _part(work: Ints, ns: Ints, whole: Ints) -> Ints:
    """Work in a part `ns` of the time `whole`, rounded down."""
    if int(work.max()) * int(ns.max()) < 1 << 63:
        found: Ints = work * ns // whole
        return found
    return np.array([w * n // t for w, n, t in zip(work.tolist(), ns.tolist(), whole.tolist(), strict=True)])


def _share(
    requests: list[Live], ns: Ints, work: Ints | None, starts: Ints, uses: list[Use], rest: list[tuple[Use, int, int]]
) -> Share:
    """A share without the requests and places that got no time."""
    if ns.all():
        return Share(requests, Runs(ns, starts), work, uses, rest)
    kept = np.flatnonzero(ns)
    if not len(kept):
        return Share([], None, None, [], rest)
    place = np.searchsorted(starts, kept, side="right") - 1
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    requests = [requests[i] for i in kept.tolist()]
    uses = [uses[i] for i in place[begins].tolist()]
    return Share(requests, Runs(ns[kept], begins), None if work is None else work[kept], uses, rest)


def share_active(active_ns: int, in_flight_ns: Ints, work_ns: Ints | None = None) -> tuple[Ints, Ints | None]:
    """Active time over requests: first each one's own work, then the rest by in-flight time. Sums exactly.

    Answers each one's time, and how much of it is work (None: nobody's is known). Work that exceeds the active time is
    scaled down.
    """
    if work_ns is None or not work_ns.any():
        return split_array(active_ns, in_flight_ns), None
    worked = min(sum(work_ns.tolist()), active_ns)
    first = split_array(worked, work_ns)
    return first + split_array(active_ns - worked, in_flight_ns), first


def share_cell(
    length_ns: int, owners: Sequence[Owner], flights: Mapping[str, Flights | None], bypass_ns: Mapping[str, int]
) -> Share:
    """Split a cell of `length_ns` of a slot with `owners` into uses, in a fixed order; their times sum to it.

    `flights`: what each engine's requests did in the cell. `bypass_ns`: engine -> X.
    """
    flying = [(owner, found) for owner in owners if (found := flights.get(owner.engine)) is not None]
    passing = [(owner, x) for owner in owners if (x := bypass_ns.get(owner.engine, 0))]
    union = merged([found for _, found in flying])
    active = union + (length_ns - union) * min(sum(x for _, x in passing), length_ns) // length_ns
    rest = _idle(length_ns - active, owners)
    unattributed = [Use("unattributed", owner.engine, group=owner.group) for owner, _ in passing]
    extra = [x for _, x in passing]
    if not flying:
        times = split(active, extra) if active else []
        taken = [(use, ns, 0) for use, ns in zip(unattributed, times, strict=bool(active)) if ns]
        return Share([], None, None, [], [*taken, *rest])
    requests = [request for _, found in flying for request in found.requests]
    begins = np.concatenate([found.begins for _, found in flying])
    ends = np.concatenate([found.ends for _, found in flying])
    works = _work([found for _, found in flying], ends - begins, extra)
    weights, passed = presence(length_ns, begins, ends, extra)
    ns, work = share_active(active, np.concatenate([weights, np.array(passed, dtype=np.int64)]), works)
    count = len(requests)
    more = ns[count:].tolist(), [0] * len(extra) if work is None else work[count:].tolist()
    taken = [part for part in zip(unattributed, *more, strict=True) if part[1]]
    offsets = np.cumsum([0, *(len(found.requests) for _, found in flying)])
    starts = np.concatenate([found.starts + offset for (_, found), offset in zip(flying, offsets, strict=False)])
    uses = [Use("request", owner.engine, *key, owner.group) for owner, found in flying for key in found.keys]
    return _share(requests, ns[:count], None if work is None else work[:count], starts, uses, [*taken, *rest])


def _idle(idle_ns: int, owners: Sequence[Owner]) -> list[tuple[Use, int, int]]:
    if not idle_ns:
        return []
    parts = zip(owners, split(idle_ns, [1] * len(owners)), strict=True)
    states = [("loaded_idle" if owner.ready else "warmup", owner, ns) for owner, ns in parts if ns]
    return [(Use(state, owner.engine, group=owner.group), ns, 0) for state, owner, ns in states]


def _work(flying: Sequence[Flights], weights: Ints, extra: Sequence[int]) -> Ints | None:
    """Work of all requests, and of traffic past the sidecar at their pace."""
    known = [found.work for found in flying if found.work is not None]
    if len(known) < len(flying):
        return None
    mine = np.concatenate(known)
    total, in_flight = sum(mine.tolist()), sum(weights.tolist())
    passing = [min(total * x // in_flight, MOST_WORK_NS << 16) for x in extra]
    return np.concatenate([mine, np.array(passing, dtype=np.int64)])
