"""GPU snapshots, engine snapshots and request records in; settled GPU time and money in the ledger out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import anyio
import structlog

from agent.core.cost.closed import Closed
from agent.core.cost.constants import WorkConstants, gpus_of
from agent.core.cost.live import Live
from agent.core.cost.present import PresentSlot, present
from agent.core.cost.prices import PriceBook
from agent.core.cost.reassign import book
from agent.core.cost.reports import GpuPrice
from agent.core.cost.tariff import Tariff
from agent.core.gpu_readings import GpuSnapshot
from agent.core.ports import TryLater
from agent.core.readings import EngineSnapshot, EngineStatus
from agent.core.requests import (
    RecordBatch,
    RecordReceipt,
    RefusedEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.core.traffic import UNKNOWN_MODEL
from agent.core.workloads import Attribution
from agent.engines.addresses import endpoint
from agent.ledger.ledger import CostKey, Ledger
from agent.ledger.storing import LOST
from agent.ledger.unattributed import Unattributed
from agent.runners.senders import Senders
from agent.runners.spans import Spans, minutes_among

log = structlog.get_logger()
Key = TypeVar("Key")

NS = 1_000_000_000
QUIET_SECONDS = 5  # where nothing but states is booked, one transaction covers this much time
MOST_NAMES = 1000
MAX_WAITING = 16  # batches; each sidecar sends one at a time


class Clock(Protocol):
    """The bill's clock: `agent.clock.BillClock`, or a test's."""

    def now_ns(self) -> int: ...


def _ignore(_record: RequestRecord) -> None:
    return None


def _raise(totals: dict[Key, int], booked: Mapping[Key, int]) -> None:
    """A total stays where what is booked became less."""
    totals.update((key, value) for key, value in booked.items() if value > totals.get(key, -1))


class Settlement:
    """Feeds the tariff and writes what it decides. One per process; all methods are called from one event loop.

    Time is closed `watermark_seconds` after it passed: events that arrive later than that change counts and outcomes,
    no cost. After a restart the time in which no agent watched is booked as `gap`, and requests of that time cost what
    was seen of them. A GPU that is no longer listed by a working driver stays on the bill as `broken`, one that cannot
    be watched because the driver or its reader is away as `gap`, until `retire` is called.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook | None,
        node: str,
        clock: Clock,
        *,
        watermark_seconds: float = 5.0,
        gpu_interval_seconds: float = 1.0,
        workload_interval_seconds: float = 15.0,
        on_ended: Callable[[RequestRecord], None] = _ignore,
        work: WorkConstants | None = None,
    ) -> None:
        """`work`: what a token costs each engine; it learns from what is closed. None: equal shares by time."""
        self.node = node
        self.prices = prices
        opened = ledger.opened
        # What is booked since the ledger began.
        self.cost_nano: dict[CostKey, int] = dict(opened.cost_nano)  # (state, tenant, model, currency)
        self.slot_ns: dict[tuple[str, str], int] = dict(opened.slot_ns)  # (gpu uuid, state)
        # The same for /metrics. They never decrease: what a span takes out of a state is missing there from what grows.
        self.cost_total_nano: dict[CostKey, int] = dict(opened.cost_nano)
        self.slot_total_ns: dict[tuple[str, str], int] = dict(opened.slot_ns)
        self.senders = Senders(opened.senders, opened.missing, opened.ended, clock.now_ns())
        self._ledger = ledger
        self._clock = clock
        self._watermark_ns = int(watermark_seconds * NS)
        self._on_ended = on_ended
        held_ns = int(max(60.0, 3 * workload_interval_seconds) * NS)
        self._work = work or WorkConstants()
        hold_ns = int(3 * max(gpu_interval_seconds, 1.0) * NS)
        self._tariff = Tariff(prices, hold_ns, held_ns, self._work.constants_of, self._work.observe)
        if opened.through_ns is not None:
            self._tariff.restore(opened.accounts, opened.through_ns, opened.step, opened.meters)
        self._spans = Spans()
        for live in opened.live:
            self._add(live)
        self._prepared: Closed | None = None  # decided, not in the ledger yet
        self._engines: dict[str, str] = {}  # host:port -> name
        self._names: dict[str, str] = {}  # upstream -> name, as long as no engine's address changes
        self._last_read_ns = -1
        self._turn = anyio.Lock(fast_acquire=True)

    @property
    def settled_through_ns(self) -> int | None:
        """Everything before this instant of the bill's clock is closed."""
        return self._tariff.through_ns

    def observe_gpus(self, snapshot: GpuSnapshot) -> None:
        """A new snapshot of the GPUs. The same one again says nothing new."""
        if snapshot.read_at_ns == self._last_read_ns:
            return
        self._last_read_ns = snapshot.read_at_ns
        self._tariff.see_gpus(self._clock.now_ns(), snapshot)

    def observe_workloads(self, attribution: Attribution) -> None:
        """Who holds and uses which slot. It is believed for three intervals, at least for a minute.

        Without it nothing counts as held and idle.
        """
        self._tariff.see_workloads(self._clock.now_ns(), attribution)

    def present_slots(self) -> tuple[PresentSlot, ...]:
        """In which state each slot is now, and why."""
        return present(self._tariff, self._clock.now_ns())

    def observe_engine(self, snapshot: EngineSnapshot) -> None:
        """One scrape round of an engine, failed ones too."""
        name, url = snapshot.status.engine, snapshot.status.url
        address = endpoint(url) if url else ""  # a worker answers nobody
        if address and self._engines.get(address) != name:
            self._engines[address] = name
            self._names.clear()
            self._tariff.rename_engine(self.engine_of)
            self._spans.rename_engine(self.engine_of)
        self._work.tell_shapes(name, "engine", snapshot.status.shapes)
        self._tariff.see_engine(self._clock.now_ns(), snapshot)

    def observe_status(self, status: EngineStatus) -> None:
        """It became known which processes are an engine's; nothing new of its traffic."""
        self._tariff.timeline.see_engine(self._clock.now_ns(), status)

    def forget_engine(self, name: str) -> None:
        """The engine is no target any more: from now on its GPUs are judged by their processes alone."""
        self._tariff.timeline.forget_engine(self._clock.now_ns(), name)
        self._work.forget(name)

    def engine_of(self, upstream: str) -> str:
        """Name of the engine behind a sidecar's upstream; the address itself when no engine is known there."""
        name = self._names.get(upstream)
        if name is None:
            address = endpoint(upstream)
            if len(self._names) >= MOST_NAMES:
                self._names.clear()
            name = self._names[upstream] = self._engines.get(address, address)
        return name

    def retire(self, gpu: str) -> bool:
        """A GPU left this node for good: its bill ends. False when there is no such GPU."""
        return self._tariff.retire(gpu)

    async def accept(self, batch: RecordBatch, sender: str = "", refused: Sequence[RefusedEvent] = ()) -> RecordReceipt:
        """Store a sidecar's events durably, then let them count. Raises `TryLater` when they cannot be stored.

        `sender` is who the doors say is telling, '' when they do not ask. `refused` was sorted out of the batch before
        and goes into the receipt. Batches are taken one after the other; too many at once are told to come later.
        """
        now = self._clock.now_ns()
        self.senders.hear(batch, sender, now)  # also when it cannot be stored now
        if self._turn.statistics().tasks_waiting >= MAX_WAITING:
            raise TryLater(f"{MAX_WAITING} batches wait for the ledger already", 1.0)
        skew = self.senders.skew_ns(batch, sender, now)  # before it waits: what is measured is the way here
        async with self._turn:
            # What the ledger has stored must count here too, even if whoever sent it does not wait any more.
            with anyio.CancelScope(shield=True):
                receipt = await self._take(batch, skew, sender, refused)
        return receipt

    async def _take(self, batch: RecordBatch, skew: int, sender: str, refused: Sequence[RefusedEvent]) -> RecordReceipt:
        ends_older = self.senders.is_new_start(batch, sender)
        accepted = await self._ledger.accept(batch, skew, sender, refused, ends_older=ends_older)
        self.senders.stored(batch, sender, accepted)
        for started in accepted.started:
            self._start(started, skew)
        for progressed in accepted.progressed:
            self._progress(progressed, skew)
        for record in accepted.ended:
            # A request that was taken for lost and settled keeps its cost; its outcome and tokens are in the ledger.
            if record.id in self._tariff.live or record.id not in accepted.revised:
                self._end(record, skew)
        self._lose(accepted.lost)
        for record in accepted.ended:
            self._on_ended(record)
        return accepted.receipt

    def _start(self, event: RequestStarted, skew_ns: int) -> None:
        self._tariff.add(
            Live(
                id=event.id,
                upstream=event.upstream,
                engine=self.engine_of(event.upstream),
                started_ns=event.started_at_ns + skew_ns,
                model=event.model or "",
                tenant=event.tenant or "",
                input_estimate=event.input_tokens_estimate,
            )
        )

    def _add(self, live: Live) -> None:
        """A request to price: with its time while that is open, else out of what was booked then."""
        through = self._tariff.through_ns
        if live.seen_by == "span" and not live.gpu_ns and through is not None and live.started_ns < through:
            self._spans.add(live, self._clock.now_ns())
        else:
            self._tariff.add(live)

    def _progress(self, event: RequestProgressed, skew_ns: int) -> None:
        live = self._tariff.live.get(event.id)
        if live is None or live.ended_ns is not None:
            return
        at = event.at_ns + skew_ns
        if not live.points or live.points[-1][0] < at:
            live.points.append((at, event.output_tokens))

    def _end(self, record: RequestRecord, skew_ns: int) -> None:
        live = self._tariff.live.get(record.id)
        if live is None:
            start = record.started_at_ns + skew_ns
            live = Live(record.id, record.upstream, self.engine_of(record.upstream), start, seen_by=record.seen_by)
            self._add(live)
        if not live.model_is_booked:
            live.model = record.model or live.model
            live.tenant = record.tenant or live.tenant
        live.ended_ns = max(live.started_ns, record.ended_at_ns + skew_ns)
        live.outcome = record.outcome
        live.usage = record.usage
        live.input_estimate = record.input_tokens_estimate
        live.max_output_tokens = record.max_output_tokens
        live.attempt = record.attempt
        if record.first_token_at_ns is not None:
            live.first_token_ns = record.first_token_at_ns + skew_ns

    @property
    def open_requests(self) -> int:
        """Requests whose end is not known."""
        return sum(live.ended_ns is None for live in self._tariff.live.values())

    def in_flight(self) -> Mapping[tuple[str, str], int]:
        """(engine, model) -> requests of sidecars that are under way there."""
        under_way = (live for live in self._tariff.live.values() if live.ended_ns is None)
        return Counter((live.engine, live.model or UNKNOWN_MODEL) for live in under_way)

    async def _give_up_silent(self) -> None:
        """End the open requests of sidecars that are gone: they would go on taking their engine's time for ever."""
        for key, heard_ns in self.senders.silent(self._clock.now_ns()):
            sender, sidecar, epoch = key
            lost = await self._ledger.lose(sidecar, epoch, heard_ns, sender)
            self.senders.forget(key)
            self._lose(lost)
            if lost:
                log.warning("sidecar_silent", sidecar=sidecar, requests=len(lost))

    def _lose(self, lost: dict[str, int]) -> None:
        for request_id, heard_ns in lost.items():
            live = self._tariff.live.get(request_id)
            if live is not None and (live.ended_ns is None or live.outcome == LOST):
                live.ended_ns, live.outcome = max(live.started_ns, heard_ns), LOST

    async def step(self) -> None:
        """Close what is older than the watermark and write it, at most once; called every second.

        Raises `TryLater` while the ledger cannot be written: the decided step is kept and offered again.
        """
        await self._give_up_silent()
        until = self._clock.now_ns() - self._watermark_ns
        until -= until % NS
        through = self._tariff.through_ns
        short = through is not None and until - through < QUIET_SECONDS * NS
        if self._prepared is None and short and self._tariff.is_quiet(until):
            return
        await self.settle_to(until)

    async def drain(self) -> None:
        """Close everything up to now: the agent is stopping."""
        until = self._clock.now_ns()
        while self._prepared or (self._tariff.through_ns is not None and self._tariff.through_ns < until):
            await self.settle_to(until)

    async def settle_to(self, until_ns: int) -> None:
        """Close up to `until_ns` and write it, or write the step that could not be written before."""
        if self._prepared is None:
            spans = self._spans.due(self._tariff.through_ns, set(self._engines.values()))
            booked = await self._ledger.unattributed(minutes_among(spans)) if spans else Unattributed()
            self._tell_gpus()
            self._prepared = self._tariff.close(until_ns)
            if spans and self._prepared is not None:
                self._prepared.currencies |= booked.currencies
                book(self._prepared, spans, booked.entries, self._work.constants_of, self._prepared.currencies)
                self._spans.priced(spans)
        if self._prepared is None:
            return
        await self._ledger.settle(self._prepared)
        self._count(self._prepared)
        self._prepared = None

    def _tell_gpus(self) -> None:
        """Which GPUs each engine has decides what a token costs there."""
        periods = self._tariff.timeline.periods
        if not periods:
            return
        accounts = self._tariff.accounts
        for engine, gpus in gpus_of(
            periods[-1], lambda gpu: accounts[gpu].gpu_model if gpu in accounts else None
        ).items():
            self._work.tell_gpus(engine, gpus)

    def _count(self, closed: Closed) -> None:
        currencies = closed.currencies
        for booking, amount in closed.entries.items():
            if not booking.gpu:
                continue
            slot = (booking.gpu, booking.state)
            self.slot_ns[slot] = self.slot_ns.get(slot, 0) + amount.gpu_ns
            currency = currencies.get((booking.gpu, booking.account_ns))
            if currency is not None:
                key = (booking.state, booking.tenant, booking.model, currency)
                self.cost_nano[key] = self.cost_nano.get(key, 0) + amount.nano
        _raise(self.cost_total_nano, self.cost_nano)
        _raise(self.slot_total_ns, self.slot_ns)

    def prices_in_force(self) -> Sequence[GpuPrice]:
        """The price of each GPU model of this node, as shown to people."""
        if self.prices is None:
            return ()
        models = sorted({account.gpu_model for account in self._tariff.accounts.values()})
        now = self._clock.now_ns()
        return tuple(price for model in models if (price := self.prices.shown(model, now)) is not None)
