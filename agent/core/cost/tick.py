"""One stretch of time, and all that was seen and told of it, in; every nanosecond of every GPU in a booking out.

A stretch is cut into cells in which nothing about ownership changes. A cell of a GPU is split over its slots by their
weights, a slot's time over its engines and their requests (`shares.share_cell`). The cell's money, by the bill clock,
and its energy, by the meter, are split over the places of the GPU (slot, state, model, tenant, outcome) and then, place
by place, over the requests there: both levels are exact. All splits are by largest remainder.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.core.cost.accounts import Account
from agent.core.cost.closed import IN_FLIGHT, MINUTE_NS, Closed
from agent.core.cost.energy import NOTHING
from agent.core.cost.exact import Ints, split_list
from agent.core.cost.flights import Flights, flights_of
from agent.core.cost.judging import unwatched
from agent.core.cost.live import Booking
from agent.core.cost.mig_prices import price_weights
from agent.core.cost.money import split
from agent.core.cost.shares import MOST_WORK_NS, Share, Use, share_cell
from agent.core.cost.slots import Period
from agent.core.cost.views import Owner, SlotView
from agent.core.cost.work import charges

if TYPE_CHECKING:
    from agent.core.cost.tariff import Tariff


class Slot(NamedTuple):
    """A slot in a cell, and how it is shared."""

    view: SlotView
    share: Share


class Amounts(NamedTuple):
    """Quantities of each place of a GPU, besides its time."""

    nano: list[int]
    energy_uj: list[int]
    metered_ns: list[int]


class Tick:
    """Closing of one stretch [start, end) of all slots of all GPUs."""

    def __init__(self, tariff: "Tariff", closed: Closed, start_ns: int, end_ns: int) -> None:
        self._tariff = tariff
        self._closed = closed
        self._start = start_ns
        self._end = end_ns
        self._asked: set[str] = set()

    def close(self) -> None:
        """Book it. Called once."""
        bucket = self._start - self._start % MINUTE_NS
        for start, end, period in self._cells():
            Cell(self._tariff, self._closed, bucket, start, end, self._asked).close(period)
        self._tariff.skip_bypass(self._end, self._asked)

    def _cells(self) -> list[tuple[int, int, Period | None]]:
        """The stretch, cut where ownership may change and where an account begins."""
        begins = sorted({a.from_ns for a in self._tariff.accounts.values() if self._start < a.from_ns < self._end})
        cells = []
        at = self._start
        while at < self._end:
            period, until = self._tariff.timeline.period_at(at)
            end = self._end if until is None else min(until, self._end)
            end = next((b for b in begins if at < b < end), end)
            cells.append((at, end, period))
            at = end
        return cells


class Cell:
    """A part of a tick in which nothing about ownership changes."""

    def __init__(
        self, tariff: "Tariff", closed: Closed, bucket_ns: int, start_ns: int, end_ns: int, asked: set[str]
    ) -> None:
        self._tariff = tariff
        self._closed = closed
        self._bucket = bucket_ns
        self._start = start_ns
        self._end = end_ns
        self._asked = asked  # engines whose counters were asked
        self._bypass: dict[str, int] = {}
        self._flights: dict[str, Flights | None] = {}
        self._shares: dict[tuple[tuple[Owner, ...], int], Share] = {}

    def close(self, period: Period | None) -> None:
        """Book all slots of all GPUs; `period` None: nobody watched."""
        lengths: dict[tuple[int, ...], list[int]] = {}
        whole = self._end - self._start
        for gpu, account in self._tariff.accounts.items():
            if account.from_ns >= self._end:
                continue
            views = unwatched(gpu) if period is None else period.of(gpu)
            weights = tuple([view.weight for view in views])
            if weights not in lengths:
                lengths[weights] = split(whole, weights)
            # A cell of fewer nanoseconds than slots leaves some without.
            parts = zip(views, lengths[weights], strict=True)
            slots = [Slot(view, self._share(view, length)) for view, length in parts if length]
            self._book(account, slots, self._price_weights(account, slots, period))
        for share in self._shares.values():
            share.settle(self._closed)

    def _share(self, view: SlotView, length: int) -> Share:
        """What a slot was used for in `length` ns: its part of the cell's time."""
        if view.state is not None:
            return Share([], None, None, [], [(Use(view.state, ""), length, 0)])
        return self._of_owners(view.owners, length)

    def _of_owners(self, owners: tuple[Owner, ...], length: int) -> Share:
        found = self._shares.get((owners, length))
        if found is None:
            whole = self._end - self._start
            found = self._share_whole(owners) if length == whole else self._of_owners(owners, whole).scaled(length)
            self._shares[owners, length] = found
        return found

    def _share_whole(self, owners: tuple[Owner, ...]) -> Share:
        length = self._end - self._start
        for engine, _, _, works in owners:
            if works is not None:  # one request of somebody else that goes on all the time, or none
                self._bypass[engine] = length if works else 0
            elif engine not in self._flights:
                self._asked.add(engine)
                self._flights[engine] = self._fly(engine)
                self._bypass[engine] = self._tariff.bypass_of(engine, self._start, self._end)
                if (flights := self._flights[engine]) is not None:
                    self._tariff.observe(engine, flights.requests, self._start, self._end, self._bypass[engine])
        flying = {owner.engine: None if owner.works is not None else self._flights[owner.engine] for owner in owners}
        return share_cell(length, owners, flying, self._bypass)

    def _fly(self, engine: str) -> Flights | None:
        flights = flights_of(self._tariff.live_of(engine).values(), self._start, self._end)
        if flights is not None:
            flights.work = self._work(engine, flights)
        return flights

    def _work(self, engine: str, flights: Flights) -> Ints | None:
        """What each request's own work took of the engine's time; None: not known for all of them."""
        ends = [*flights.starts.tolist()[1:], len(flights.requests)]
        works: list[int] = []
        for (model, _, _), end in zip(flights.keys, ends, strict=True):
            constants = self._tariff.constants_of(engine, model)
            if constants is None:
                return None
            works += charges(flights.requests[len(works) : end], self._start, self._end, constants)
        return np.array([min(work, MOST_WORK_NS) for work in works], dtype=np.int64)

    def _price_weights(self, account: Account, slots: Sequence[Slot], period: Period | None) -> list[int] | None:
        """What of the GPU's money is each slot's, where the price book says something of MIG devices."""
        book = self._tariff.book
        if book is None or period is None or len(slots) < 2:
            return None
        row = book.row_at(account.gpu_model, self._start, account.gpu)
        return price_weights(row, [slot.view for slot in slots], period.profiles(account.gpu))

    def _book(self, account: Account, slots: Sequence[Slot], weights: list[int] | None) -> None:
        closed, gpu = self._closed, (account.gpu, account.from_ns)
        closed.currencies[gpu] = account.currency
        times = [ns for slot in slots for ns in slot.share.ns]
        meter = self._tariff.meters.get(account.gpu)
        energy, metered = NOTHING if meter is None else meter.drawn(self._start, self._end)
        if metered:
            closed.energy[gpu] = closed.energy.get(gpu, 0) + energy
        amounts = Amounts(
            _money(account.nano(self._start, self._end), slots, times, weights),
            split_list(energy, times),
            times if metered == self._end - self._start else split_list(metered, times),
        )
        first = 0
        for slot in slots:
            last = first + len(slot.share.ns)
            self._book_slot(account, slot, Amounts(*[amount[first:last] for amount in amounts]))
            first = last

    def _book_slot(self, account: Account, slot: Slot, amounts: Amounts) -> None:
        closed, share, view = self._closed, slot.share, slot.view
        holder = view.holders[0] if len(view.holders) == 1 else None
        where = (holder.namespace, holder.pod) if holder else ("", "")
        rows = zip(share.uses, share.ns, amounts.nano, share.work, amounts.energy_uj, amounts.metered_ns, strict=True)
        bookings = []
        for (state, engine, model, tenant, outcome, group), *quantities in rows:
            if engine and state != "request":
                model = self._tariff.model_of(engine)
            key = (self._bucket, account.gpu, account.from_ns, state, engine, model, tenant, outcome)
            booking = Booking(*key, view.slot, view.reason, group, *where)
            amount = closed.book(booking, *quantities)
            if state == "unattributed":
                amount.output_tokens += self._tariff.bypass_tokens_of(engine)
            bookings.append(booking)
        if share.runs is not None:
            self._book_requests(account, share, bookings[: len(share.runs.starts)], amounts)

    def _book_requests(self, account: Account, share: Share, bookings: list[Booking], amounts: Amounts) -> None:
        """The requests' parts of what their places got."""
        parts = share.add(account, bookings, *amounts)
        for engine, group, places, rows in share.open_rows(self._tariff.in_flight_of):
            place = bookings[0]._replace(engine=engine, group=group, model="", tenant="", outcome=IN_FLIGHT)
            self._tariff.in_flight_of(engine).add(place, rows, [part[places] for part in parts])


def _money(nano: int, slots: Sequence[Slot], times: list[int], weights: list[int] | None) -> list[int]:
    """Money of each place: by time, or slot by slot where those have prices of their own."""
    if weights is None:
        return split_list(nano, times)
    parts = zip(split_list(nano, weights), slots, strict=True)
    return [amount for part, slot in parts for amount in split_list(part, slot.share.ns)]
