"""GPU and engine observations and request intervals in; every nanosecond of every GPU, priced, out.

Time is cut into ticks of one second of the bill's clock (longer ones where only states are booked), each closed by
`agent.core.cost.tick`. The formula is in `agent.core.cost.shares`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.core.cost.accounts import Account, open_account, reprice
from agent.core.cost.bypass import Bypass
from agent.core.cost.closed import MINUTE_NS, Closed
from agent.core.cost.counted import Told
from agent.core.cost.energy import Meter, Reading, reading_of
from agent.core.cost.in_flight import InFlight
from agent.core.cost.live import Live
from agent.core.cost.prices import PriceBook
from agent.core.cost.slots import Timeline
from agent.core.cost.tick import Tick
from agent.core.cost.work import Constants
from agent.core.gpu_readings import GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution

NS = 1_000_000_000
# At most so much is closed at once. All time zones of today differ by quarters of an hour, so that no stretch lies over
# the border of anybody's hour or day.
QUARTER_NS = 15 * MINUTE_NS
KEPT_POINTS = 64  # of a request that streams for hours: progress of closed time is told by its first and its last
ConstantsOf = Callable[[str, str], Constants | None]


Observe = Callable[[str, Sequence[Live], int, int, int], None]
"""Engine, its requests in flight in [start, end), start, end, and the in-flight time past the sidecar."""


def nobody_learns(_engine: str, _lives: Sequence[Live], _start_ns: int, _end_ns: int, _bypass_ns: int) -> None:
    """Constants stay as they are."""


def nobody_knows(_engine: str, _model: str) -> Constants | None:
    """No shape of any model is known: equal shares."""
    return None


class Tariff:
    """All that is open. `through_ns` is the instant up to which everything is closed, None before the first GPU."""

    def __init__(
        self,
        book: PriceBook | None,
        hold_ns: int = 3 * NS,
        held_ns: int = 60 * NS,
        constants_of: ConstantsOf = nobody_knows,
        observe: Observe = nobody_learns,
    ) -> None:
        """`constants_of`: engine and model -> what a token costs there; None: its requests share by time alone.

        `observe` is told of each stretch of an engine that was closed, with what is known of its requests then.
        """
        self.book = book
        self.constants_of = constants_of
        self.observe = observe
        self.accounts: dict[str, Account] = {}  # gpu uuid -> the open account
        self.live: dict[str, Live] = {}
        self.through_ns: int | None = None
        self.number = 0
        self.timeline = Timeline(hold_ns, held_ns)
        self.meters: dict[str, Meter] = {}  # gpu uuid -> its energy meter
        self._models: dict[str, str] = {}
        self._running: dict[str, float] = {}  # requests, by the engine's own gauge
        self._bypass: dict[str, Bypass] = {}
        self._by_engine: dict[str, dict[str, Live]] = {}
        self._in_flight: dict[str, InFlight] = {}
        self._told: dict[str, Told] = {}  # requests that are needed to read an engine's counters
        self._changed: list[Account] = []
        self._retired: list[tuple[str, int]] = []
        self._extend_at: int | None = None  # where prices go on changing by themselves, bill clocks are made longer

    def restore(
        self, accounts: Iterable[Account], through_ns: int, number: int, readings: Mapping[str, Reading] | None = None
    ) -> None:
        """Go on where the ledger ends. Prices that the book changed since count from `through_ns` on, never before.

        `readings`: `Closed.meters` of the last step; where meters ran on meanwhile, the gap gets that energy.
        """
        self.through_ns, self.number = through_ns, number
        self.meters = {gpu: Meter(reading) for gpu, reading in (readings or {}).items()}
        for account in accounts:
            now_open = reprice(account, self.book, max(through_ns, account.from_ns))
            self.accounts[account.gpu] = now_open
            if now_open is not account:
                self._changed.append(now_open)
        self._extend_at = self.book.extends_at(through_ns) if self.book else None

    def retire(self, gpu: str) -> bool:
        """The GPU is gone for good: its bill ends where it is closed now. False if it has no account."""
        account = self.accounts.pop(gpu, None)
        self.meters.pop(gpu, None)
        if account is not None:
            self._retired.append((account.gpu, account.from_ns))
        return account is not None

    def see_gpus(self, at_ns: int, snapshot: GpuSnapshot) -> None:
        """GPUs as seen at `at_ns`; a GPU never seen before gets an account from now on."""
        if self.through_ns is not None and at_ns < self.through_ns:
            return
        self.timeline.see_gpus(at_ns, snapshot)
        for gpu in snapshot.gpus:
            account = self.accounts.get(gpu.uuid)
            if account is None:
                account = open_account(self.book, gpu.uuid, gpu.model, at_ns)
                self.accounts[gpu.uuid] = account
                self._changed.append(account)
                if self.through_ns is None:
                    self.through_ns = at_ns
                    self._extend_at = self.book.extends_at(at_ns) if self.book else None
            reading = reading_of(at_ns, gpu)
            if reading is not None:
                self.meters.setdefault(gpu.uuid, Meter()).see(reading, max(self.through_ns or 0, account.from_ns))

    def see_workloads(self, at_ns: int, attribution: Attribution) -> None:
        """Who holds and uses what, as known at `at_ns`."""
        if self.through_ns is None or at_ns >= self.through_ns:
            self.timeline.see_workloads(at_ns, attribution)

    def see_engine(self, at_ns: int, snapshot: EngineSnapshot) -> None:
        """One scrape round of an engine, seen at `at_ns`."""
        name = snapshot.status.engine
        self.timeline.see_engine(at_ns, snapshot.status)
        models = {reading.model for reading in snapshot.readings}
        if models:
            self._models[name] = models.pop() if len(models) == 1 else ""
            counted = [
                r.tokens_total["output"] for r in snapshot.readings if r.tokens_total and "output" in r.tokens_total
            ]
            running = [r.requests_running for r in snapshot.readings if r.requests_running is not None]
            bypass = self._bypass.get(name)
            if bypass is None:
                bypass = self._bypass[name] = Bypass()
                self._told[name] = Told(self.live_of(name).values())
            bypass.scrape(at_ns, sum(counted) if counted else None, sum(running) if running else None)
            self._running[name] = sum(running)

    def add(self, request: Live) -> None:
        """A request began (or is loaded from the ledger after a restart)."""
        self.live[request.id] = request
        self._add_to_engine(request)

    def _add_to_engine(self, request: Live) -> None:
        self._by_engine.setdefault(request.engine, {})[request.id] = request
        if request.engine in self._told:
            self._told[request.engine].add(request)

    def rename_engine(self, resolve: Callable[[str], str]) -> None:
        """Find engines of requests again: an engine became known after its requests."""
        for request in list(self.live.values()):
            name = resolve(request.upstream)
            if name != request.engine:
                del self._by_engine[request.engine][request.id]
                self.in_flight_of(request.engine).spill(request)
                if request.engine in self._told:
                    self._told[request.engine].remove(request)
                request.engine = name
                self._add_to_engine(request)

    def is_quiet(self, until_ns: int) -> bool:
        """True when closing up to `until_ns` would book states only, and nothing else is waiting to be written."""
        if self._changed or self._retired:
            return False
        return not any(r.started_ns < until_ns for r in self.live.values()) and all(
            b.is_idle for b in self._bypass.values()
        )

    def close(self, until_ns: int, most_ticks: int = 600) -> Closed | None:
        """Close up to `until_ns`, or less when that is more than `most_ticks` of work; None: nothing to do."""
        if self.through_ns is None or until_ns <= self.through_ns:
            return None
        self.number += 1
        closed = Closed(self.number, self.through_ns, self.through_ns)
        while self.through_ns < until_ns and most_ticks > 0:
            end = self._next_end(until_ns)
            Tick(self, closed, self.through_ns, end).close()
            self.through_ns = end
            self._roll_accounts(end, closed)
            self._extend_accounts(end)
            most_ticks -= 1
        closed.through_ns = self.through_ns
        closed.changed_accounts, self._changed = self._changed, []
        closed.retired, self._retired = self._retired, []
        for account in self.accounts.values():
            closed.accounts_through[account.gpu, account.from_ns] = max(account.from_ns, self.through_ns)
        self._settle_requests(closed)
        self.timeline.forget_before(self.through_ns)
        for gpu, meter in self.meters.items():
            meter.forget_before(self.through_ns)
            shown = meter.at(self.through_ns)
            if shown is not None:
                closed.meters[gpu] = shown
        for in_flight in self._in_flight.values():
            in_flight.forget_before(self.through_ns)
        return closed

    def _next_end(self, until_ns: int) -> int:
        """End of the next stretch that is closed at once: a tick, or more where only states are booked."""
        start = self.through_ns or 0
        tick = min(until_ns, start - start % NS + NS)
        period, change = self.timeline.period_at(start)
        # Nobody watched: no request is booked, however many were in flight.
        if period is not None and self._is_active(start, tick):
            return tick
        end = start - start % MINUTE_NS + MINUTE_NS
        if start % MINUTE_NS == 0:  # whole minutes, as many as there are
            end = max(end, min(start - start % QUARTER_NS + QUARTER_NS, until_ns - until_ns % MINUTE_NS))
        end = min(until_ns, end)
        starts = [r.started_ns for r in self.live.values()] if period is not None else []
        starts += [a.from_ns for a in self.accounts.values()] + self._price_starts()
        limits = [at for at in starts if start < at < end]
        if change is not None and start < change < end:
            limits.append(change)
        return max(tick, min(limits) - min(limits) % NS) if limits else max(tick, end)

    def _is_active(self, start_ns: int, end_ns: int) -> bool:
        if not all(bypass.is_idle for bypass in self._bypass.values()):
            return True
        return any(request.overlap(start_ns, end_ns) for request in self.live.values())

    def _price_starts(self) -> list[int]:
        if self.book is None:
            return []
        found = []
        for account in self.accounts.values():
            if account.currency is None:
                at = self.book.priced_from(account.gpu_model, account.from_ns, account.gpu)
                if at is not None:
                    found.append(at)
        return found

    def _roll_accounts(self, at_ns: int, closed: Closed) -> None:
        """A GPU whose first price takes effect now goes on under a priced account."""
        for gpu, account in list(self.accounts.items()):
            if account.currency is not None or self.book is None or account.from_ns >= at_ns:
                continue
            if self.book.price_at(account.gpu_model, at_ns, gpu) is not None:
                closed.accounts_through[gpu, account.from_ns] = at_ns
                follower = open_account(self.book, gpu, account.gpu_model, at_ns)
                self.accounts[gpu] = follower
                self._changed.append(follower)

    def _extend_accounts(self, at_ns: int) -> None:
        """Prices that change by the time of day are known some weeks ahead: append those of the next ones."""
        if self.book is None or self._extend_at is None or at_ns < self._extend_at:
            return
        for gpu, account in self.accounts.items():
            longer = reprice(account, self.book, at_ns)
            if longer is not account:
                self.accounts[gpu] = longer
                self._changed.append(longer)
        self._extend_at = self.book.extends_at(at_ns)

    def _settle_requests(self, closed: Closed) -> None:
        through = closed.through_ns
        over: dict[str, list[Live]] = {}
        for request in self.live.values():
            if request.ended_ns is not None and request.ended_ns <= through:
                over.setdefault(request.engine, []).append(request)
            elif len(request.points) > 2 * KEPT_POINTS:
                request.forget_points(through - MINUTE_NS, KEPT_POINTS)
        for engine, requests in over.items():
            self.in_flight_of(engine).move(closed, requests)
            of_engine = self._by_engine[engine]
            for request in requests:
                closed.finish(request)
                del self.live[request.id]
                of_engine.pop(request.id, None)
        for engine, told in self._told.items():
            used = self._bypass[engine].used_until_ns
            self._bypass[engine].ended(told.take_ended(through if used is None else min(used, through)))

    def in_flight_of(self, engine: str) -> InFlight:
        """What is booked of an engine's requests of which nobody knows how they end."""
        return self._in_flight.setdefault(engine, InFlight())

    def model_of(self, engine: str) -> str:
        """The model an engine serves, where it is one."""
        return self._models.get(engine, "")

    def live_of(self, engine: str) -> dict[str, Live]:
        """Requests of an engine that are not settled."""
        return self._by_engine.get(engine, {})

    def running_of(self, engine: str) -> tuple[int, float]:
        """Proxied requests of an engine in flight, as told so far; and running ones by its own gauge."""
        proxied = sum(live.ended_ns is None for live in self.live_of(engine).values())
        return proxied, self._running.get(engine, 0.0)

    def bypass_of(self, engine: str, start_ns: int, end_ns: int) -> int:
        """Bypass in-flight time to book for an engine on [start, end); asked once for each stretch."""
        bypass = self._bypass.get(engine)
        return bypass.take(start_ns, end_ns, self._told[engine].counted(start_ns)) if bypass is not None else 0

    def bypass_tokens_of(self, engine: str) -> int:
        """Output tokens of traffic past the sidecar that no entry holds yet; they are the caller's to book."""
        bypass = self._bypass.get(engine)
        return bypass.take_tokens() if bypass is not None else 0

    def skip_bypass(self, end_ns: int, asked: Iterable[str]) -> None:
        """Engines that own no slot now: their counters are read, nothing is booked."""
        for engine in self._bypass.keys() - set(asked):
            self._bypass[engine].skip(end_ns)
            self._told[engine].counted(end_ns)
