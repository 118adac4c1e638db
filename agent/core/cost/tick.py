"""One stretch of time, and all that was seen and told of it, in; every nanosecond of every GPU in a booking out.

A stretch is cut into cells in which nothing about ownership changes. A cell of a GPU is split over its slots by their
weights. In a cell of length T the slots of an engine are active for ``A = U + (T - U) * min(1, X / T)``: U is the union
of the in-flight intervals of its proxied requests, X the in-flight time of traffic that went past the sidecar (of a
worker whose requests another node knows: T while its group works). A is shared by in-flight time (after work charges,
see `shares.share_active`), the rest is loaded_idle or warmup. All splits are by largest remainder: the parts of a GPU
sum to the stretch, and its money, by the bill clock, is split over them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.core.cost.accounts import Account
from agent.core.cost.closed import HOUR_NS, MINUTE_NS, Closed
from agent.core.cost.judging import unwatched
from agent.core.cost.live import Booking
from agent.core.cost.money import split
from agent.core.cost.shares import Use, share_cell
from agent.core.cost.slots import Period
from agent.core.cost.views import Owner, SlotView

if TYPE_CHECKING:
    from agent.core.cost.tariff import Tariff


Intervals = list[tuple[str, int, int]]  # (request, start, end)
SlotUses = dict[tuple[str, str], dict[Use, int]]  # (slot, reason) -> what it was used for, ns


class Tick:
    """Closing of one stretch [start, end) of all slots of all GPUs."""

    def __init__(self, tariff: "Tariff", closed: Closed, start_ns: int, end_ns: int) -> None:
        self._tariff = tariff
        self._closed = closed
        self._start = start_ns
        self._end = end_ns
        self._bypass: dict[str, int] = {}
        self._intervals: dict[str, Intervals] = {}
        self._asked: set[str] = set()

    def close(self) -> None:
        """Book it. Called once."""
        uses: dict[str, SlotUses] = {}
        for start, end, period in self._cells():
            self._close_cell(start, end, period, uses)
        for gpu, slots in uses.items():
            self._book(self._tariff.accounts[gpu], slots)
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

    def _close_cell(self, start: int, end: int, period: Period | None, uses: dict[str, SlotUses]) -> None:
        self._bypass, self._intervals = {}, {}
        lengths: dict[tuple[int, ...], list[int]] = {}
        shared: dict[tuple[Owner, ...], list[tuple[Use, int]]] = {}
        for gpu, account in self._tariff.accounts.items():
            if account.from_ns >= end:
                continue
            views = unwatched(gpu) if period is None else period.of(gpu)
            weights = tuple([view.weight for view in views])
            if weights not in lengths:
                lengths[weights] = split(end - start, weights)
            slots = uses.setdefault(gpu, {})
            for view, length in zip(views, lengths[weights], strict=True):
                if not length:
                    continue  # a cell of fewer nanoseconds than slots
                slot = slots.setdefault((view.slot, view.reason), {})
                for use, ns in self._uses(view, start, end, length, shared):
                    slot[use] = slot.get(use, 0) + ns

    def _uses(
        self, view: SlotView, start: int, end: int, length: int, shared: dict[tuple[Owner, ...], list[tuple[Use, int]]]
    ) -> Sequence[tuple[Use, int]]:
        """What a slot was used for in a cell, in `length` ns: its part of the cell's time."""
        if view.state is not None:
            return ((Use(view.state, ""), length),)
        whole = shared.get(view.owners)
        if whole is None:
            whole = shared[view.owners] = self._share(start, end, view.owners)
        if length == end - start:
            return whole
        times = split(length, [ns for _, ns in whole])
        return [(use, ns) for (use, _), ns in zip(whole, times, strict=True) if ns]

    def _share(self, start: int, end: int, owners: tuple[Owner, ...]) -> list[tuple[Use, int]]:
        for engine, _, _, works in owners:
            if works is not None:  # one request of somebody else that goes on all the time, or none
                self._bypass[engine] = end - start if works else 0
            elif engine not in self._intervals:
                self._asked.add(engine)
                self._intervals[engine] = self._in_flight(engine, start, end)
                self._bypass[engine] = self._tariff.bypass_of(engine, start, end)
        return share_cell(end - start, owners, self._intervals, self._bypass)

    def _in_flight(self, engine: str, start: int, end: int) -> Intervals:
        found = []
        for request in self._tariff.live_of(engine).values():
            piece = request.overlap(start, end)
            if piece is not None:
                found.append((request.id, *piece))
                request.seen_ns += piece[1] - piece[0]
        return found

    def _book(self, account: Account, slots: SlotUses) -> None:
        self._closed.currencies[account.gpu, account.from_ns] = account.currency
        start = max(self._start, account.from_ns)
        ordered = [(slot, *part) for slot in sorted(slots) for part in sorted(slots[slot].items())]
        amounts = split(account.nano(start, self._end), [ns for _, _, ns in ordered])
        span = HOUR_NS if self._end - self._start >= HOUR_NS else MINUTE_NS
        bucket = self._start - self._start % span
        for (slot, use, ns), money in zip(ordered, amounts, strict=True):
            if use.request_id:
                request = self._tariff.live[use.request_id]
                self._closed.book_request(request, account, bucket, (*slot, use.group), ns, money)
            else:
                model, where = self._tariff.model_of(use.engine) if use.engine else "", (*slot, use.group)
                place = Booking(bucket, account.gpu, account.from_ns, use.state, use.engine, model, "", "", *where)
                self._closed.book(place, ns, money)
