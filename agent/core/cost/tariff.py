"""GPU and engine observations and request intervals in; every nanosecond of every GPU, priced, out.

Time is cut into ticks of one second of the bill's clock (longer ones where only states are booked), each closed by
`agent.core.cost.tick`, which has the formula.
"""

from collections.abc import Callable, Iterable

from agent.core.cost.accounts import Account, open_account, reprice
from agent.core.cost.bypass import Bypass
from agent.core.cost.closed import HOUR_NS, MINUTE_NS, Closed
from agent.core.cost.live import Live
from agent.core.cost.prices import PriceBook
from agent.core.cost.slots import Timeline
from agent.core.cost.tick import Tick
from agent.core.gpu_readings import GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution

NS = 1_000_000_000


class Tariff:
    """All that is open. `through_ns` is the instant up to which everything is closed, None before the first GPU."""

    def __init__(self, book: PriceBook | None, hold_ns: int = 3 * NS, held_ns: int = 60 * NS) -> None:
        self.book = book
        self.accounts: dict[str, Account] = {}  # gpu uuid -> the open account
        self.live: dict[str, Live] = {}
        self.through_ns: int | None = None
        self.number = 0
        self.timeline = Timeline(hold_ns, held_ns)
        self._models: dict[str, str] = {}
        self._running: dict[str, float] = {}  # requests, by the engine's own gauge
        self._bypass: dict[str, Bypass] = {}
        self._by_engine: dict[str, dict[str, Live]] = {}
        self._settled: dict[str, list[Live]] = {}  # still needed to read the counters
        self._changed: list[Account] = []
        self._retired: list[tuple[str, int]] = []

    def restore(self, accounts: Iterable[Account], through_ns: int, number: int) -> None:
        """Go on where the ledger ends. Prices that the book changed since count from `through_ns` on, never before."""
        self.through_ns, self.number = through_ns, number
        for account in accounts:
            now_open = reprice(account, self.book, max(through_ns, account.from_ns))
            self.accounts[account.gpu] = now_open
            if now_open is not account:
                self._changed.append(now_open)

    def retire(self, gpu: str) -> bool:
        """The GPU is gone for good: its bill ends where it is closed now. False if it has no account."""
        account = self.accounts.pop(gpu, None)
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
            bypass = self._bypass.setdefault(name, Bypass())
            bypass.scrape(at_ns, sum(counted) if counted else None, sum(running) if running else None)
            self._running[name] = sum(running)

    def add(self, request: Live) -> None:
        """A request began (or is loaded from the ledger after a restart)."""
        self.live[request.id] = request
        self._by_engine.setdefault(request.engine, {})[request.id] = request

    def rename_engine(self, resolve: Callable[[str], str]) -> None:
        """Find engines of requests again: an engine became known after its requests."""
        for request in list(self.live.values()):
            name = resolve(request.upstream)
            if name != request.engine:
                del self._by_engine[request.engine][request.id]
                request.engine = name
                self._by_engine.setdefault(name, {})[request.id] = request

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
            most_ticks -= 1
        closed.through_ns = self.through_ns
        closed.changed_accounts, self._changed = self._changed, []
        closed.retired, self._retired = self._retired, []
        for account in self.accounts.values():
            closed.accounts_through[account.gpu, account.from_ns] = max(account.from_ns, self.through_ns)
        self._settle_requests(closed)
        self.timeline.forget_before(self.through_ns)
        return closed

    def _next_end(self, until_ns: int) -> int:
        """End of the next stretch that is closed at once: a tick, or more where only states are booked."""
        start = self.through_ns or 0
        tick = min(until_ns, start - start % NS + NS)
        period, change = self.timeline.period_at(start)
        # Nobody watched: no request is booked, however many were in flight.
        if period is not None and self._is_active(start, tick):
            return tick
        end = min(until_ns, start - start % MINUTE_NS + MINUTE_NS)
        if start % HOUR_NS == 0 and until_ns >= start + HOUR_NS:
            end = start + HOUR_NS
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
                at = self.book.priced_from(account.gpu_model, account.from_ns)
                if at is not None:
                    found.append(at)
        return found

    def _roll_accounts(self, at_ns: int, closed: Closed) -> None:
        """A GPU whose first price takes effect now goes on under a priced account."""
        for gpu, account in list(self.accounts.items()):
            if account.currency is not None or self.book is None or account.from_ns >= at_ns:
                continue
            if self.book.price_at(account.gpu_model, at_ns) is not None:
                closed.accounts_through[gpu, account.from_ns] = at_ns
                follower = open_account(self.book, gpu, account.gpu_model, at_ns)
                self.accounts[gpu] = follower
                self._changed.append(follower)

    def _settle_requests(self, closed: Closed) -> None:
        through = closed.through_ns
        for request in [r for r in self.live.values() if r.ended_ns is not None and r.ended_ns <= through]:
            closed.finish(request)
            del self.live[request.id]
            self._by_engine[request.engine].pop(request.id, None)
            self._settled.setdefault(request.engine, []).append(request)
        for engine, requests in self._settled.items():
            bypass = self._bypass.get(engine)
            for request in list(requests):
                if bypass is None or not bypass.keeps(request):
                    requests.remove(request)
                    if bypass is not None:
                        bypass.ended(request)

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
        if bypass is None:
            return 0
        return bypass.take(start_ns, end_ns, [*self.live_of(engine).values(), *self._settled.get(engine, ())])

    def skip_bypass(self, end_ns: int, asked: Iterable[str]) -> None:
        """Engines that own no slot now: their counters are read, nothing is booked."""
        for engine in self._bypass.keys() - set(asked):
            self._bypass[engine].skip(end_ns)
