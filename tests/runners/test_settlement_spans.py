"""Requests that only a span tells of, through a settlement with a real ledger: priced out of unattributed time."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.core.cost.reports import Report, ReportQuery, RequestCost
from agent.core.ports import TryLater
from agent.core.requests import RequestRecord, Usage
from agent.ledger.ledger import Ledger
from agent.runners.settlement import Settlement
from agent.runners.spans import GRACE_NS, UNKNOWN_NS
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, gpus, record

T0 = 1_800_000_000 * NS  # a full minute
BUSY_FROM, BUSY_TO = 10, 20  # seconds in which somebody asks the engine without the sidecar
TOKENS_A_SECOND = 100
PRICED = 60 + GRACE_NS // NS + 12  # its minute, the wait, the watermark and a quiet stretch: spans have their price


@dataclass
class Bench:
    """One GPU of one engine, that is busy for ten seconds with what nobody announced."""

    path: Path
    clock: HandClock = field(default_factory=lambda: HandClock(T0))
    sidecar: Sidecar = field(default_factory=lambda: Sidecar("spans"))
    counted: int = 0
    ledger: Ledger = field(init=False)
    settlement: Settlement = field(init=False)

    async def start(self) -> None:
        self.ledger = await Ledger.open(self.path, "node-a")
        self.settlement = Settlement(self.ledger, book(), "node-a", self.clock)

    async def restart(self) -> None:
        self.ledger.close()
        await self.start()

    def see(self) -> None:
        at = self.clock.at_ns
        second = (at - T0) // NS
        busy = BUSY_FROM <= second < BUSY_TO
        self.counted += TOKENS_A_SECOND if busy else 0
        self.settlement.observe_gpus(gpus(at, 2))
        self.settlement.observe_engine(engine(at, output=float(self.counted), running=1.0 if busy else 0.0))

    async def run_to(self, second: int) -> None:
        while self.clock.at_ns < T0 + second * NS:
            self.see()
            await self.settlement.step()
            self.clock.at_ns += NS

    async def tell(self, *records: RequestRecord) -> int:
        """How many of them were repeats."""
        batch = self.sidecar.batch(self.clock.at_ns, *[self.sidecar.end(one) for one in records])
        return (await self.settlement.accept(batch)).repeated

    async def cost(self, name: str) -> RequestCost:
        found = await self.ledger.request_cost(name)
        assert found is not None
        return found

    async def totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """GPU ns and nano-units by state, of both GPUs; they are proven to be the bill."""
        found = await self.ledger.reconcile()
        assert found.reconciles
        closed = self.settlement.settled_through_ns
        assert closed is not None
        assert [slot.gpu for slot in found.slots] == ["GPU-0", "GPU-1"]
        times: Counter[str] = Counter()
        for slot in found.slots:
            assert sum(slot.parts_ns.values()) == closed - T0
            assert sum(slot.parts_nano.values()) == slot.bill_nano == expected_bill(T0, closed)
            times.update(slot.parts_ns)
        return dict(times), dict(found.parts_nano)

    async def report(self) -> Report:
        return await self.ledger.report(ReportQuery(start_ns=0, end_ns=2 * T0, aggregate=("state", "tenant")))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "ledger.sqlite")
    await bench.start()
    yield bench
    bench.ledger.close()


def span(name: str, start: float, end: float, *, tokens: int = 100, tenant: str = "acme") -> RequestRecord:
    usage = Usage(input_tokens=5, output_tokens=tokens, source="reported")
    times = (T0 + int(start * NS), T0 + int(end * NS))
    return record(name, *times, tenant=tenant, usage=usage, seen_by="span")


async def test_a_span_is_priced_out_of_what_was_booked_as_unattributed(bench: Bench) -> None:
    await bench.run_to(40)
    before, _ = await bench.totals()
    assert abs(before["unattributed"] - 10 * NS) <= 2 * NS
    assert await bench.tell(span("s", 12, 16, tokens=400)) == 0
    await bench.run_to(60 + GRACE_NS // NS)
    waiting = await bench.cost("s")
    assert (waiting.settled, waiting.gpu_ns, waiting.seen_by) == (False, 0, "span")
    assert waiting.precision == "Nothing is booked for it yet."

    await bench.run_to(PRICED)
    after, nano = await bench.totals()
    cost = await bench.cost("s")
    assert (cost.settled, cost.gpu_ns, cost.seen_by) == (True, 4 * NS, "span")
    assert cost.cost_nano == nano["request"]
    assert abs(cost.cost_nano - expected_bill(0, 4 * NS)) <= 2
    assert (cost.outcome, cost.tenant, cost.model, cost.engine) == ("ok", "acme", "llama", "vllm")
    assert cost.precision.startswith("Known from a span only, after it had ended: a share of the time")
    assert "nobody watched its GPUs" not in cost.precision
    assert after["request"] == 4 * NS
    assert after["unattributed"] == before["unattributed"] - 4 * NS

    rows = {row.group["state"]: row for row in (await bench.report()).rows}
    assert (rows["request"].requests, rows["request"].output_tokens) == (1, 400)
    assert rows["unattributed"].output_tokens == bench.counted - 400, "no token is told of twice"
    assert rows["request"].output_tokens + rows["unattributed"].output_tokens == bench.counted


async def test_spans_of_the_same_time_share_it(bench: Bench) -> None:
    await bench.run_to(40)
    before, _ = await bench.totals()
    await bench.tell(span("one", 10, 20), span("two", 10, 15, tenant="zeta"))
    await bench.run_to(PRICED)
    after, nano = await bench.totals()
    one, two = await bench.cost("one"), await bench.cost("two")
    assert after.get("unattributed", 0) == 0
    assert one.gpu_ns + two.gpu_ns == after["request"] == before["unattributed"], "all there is, and no more"
    assert (one.cost_nano or 0) + (two.cost_nano or 0) == nano["request"]
    assert abs(one.gpu_ns - 2 * two.gpu_ns) <= 2, "by time in flight"
    by_tenant = {row.group["tenant"]: row.cost_nano for row in (await bench.report()).rows}
    assert (by_tenant["acme"], by_tenant["zeta"]) == (one.cost_nano, two.cost_nano)


async def test_a_span_of_a_time_without_anything_booked_costs_nothing_and_says_why(bench: Bench) -> None:
    await bench.run_to(40)
    before, nano_before = await bench.totals()
    # Nothing went past the sidecar in that minute; and an engine that is none of this node's.
    elsewhere = record("elsewhere", T0 + 11 * NS, T0 + 12 * NS, upstream="10.0.0.9:8000", seen_by="span")
    await bench.tell(span("quiet", -300, -290), elsewhere)
    await bench.run_to(40 + UNKNOWN_NS // NS)
    assert (await bench.cost("quiet")).settled
    assert not (await bench.cost("elsewhere")).settled, "its engine may still be found"
    await bench.run_to(55 + UNKNOWN_NS // NS)
    for name in ("quiet", "elsewhere"):
        cost = await bench.cost(name)
        assert (cost.settled, cost.gpu_ns, cost.cost_nano, cost.slots) == (True, 0, None, ())
        assert cost.precision.startswith("Known from a span only, after it had ended, so it was to have a share")
    after, nano = await bench.totals()
    assert (after["unattributed"], nano["unattributed"]) == (before["unattributed"], nano_before["unattributed"])
    assert "request" not in after
    rows = [row for row in (await bench.report()).rows if row.group["state"] == "request"]
    assert sum(row.requests for row in rows) == 2, "they are counted"


async def test_a_later_span_finds_what_is_left(bench: Bench) -> None:
    await bench.run_to(40)
    unattributed = (await bench.totals())[0]["unattributed"]
    await bench.tell(span("all", 5, 25))
    await bench.run_to(PRICED)
    assert (await bench.cost("all")).gpu_ns == unattributed
    await bench.tell(span("late", 5, 25))
    await bench.run_to(PRICED + 10)
    cost = await bench.cost("late")
    assert (cost.settled, cost.gpu_ns) == (True, 0)
    assert "other spans have it" in cost.precision


async def test_a_restart_between_arrival_and_price_loses_nothing(bench: Bench) -> None:
    """The engine is found anew after it, later than the first steps: the span waits for its name."""
    await bench.run_to(40)
    await bench.tell(span("s", 12, 16))
    bench.clock.at_ns += 100 * NS
    await bench.restart()
    for _ in range(5):
        bench.settlement.observe_gpus(gpus(bench.clock.at_ns, 2))
        await bench.settlement.step()
        bench.clock.at_ns += NS
    assert not (await bench.cost("s")).settled
    await bench.run_to(160)
    cost = await bench.cost("s")
    assert (cost.settled, cost.gpu_ns, cost.engine) == (True, 4 * NS, "vllm")
    times, _ = await bench.totals()
    assert times["request"] == 4 * NS
    assert times["gap"] > 180 * NS
    await bench.restart()
    assert await bench.tell(span("s", 12, 16)) == 1, "still known"
    await bench.run_to(240)
    assert (await bench.totals())[0]["request"] == 4 * NS


async def test_the_same_span_twice_is_counted_once(bench: Bench) -> None:
    await bench.run_to(40)
    assert await bench.tell(span("s", 12, 16), span("s", 12, 16)) == 1
    await bench.run_to(45)
    assert await bench.tell(span("s", 12, 16)) == 1
    await bench.run_to(PRICED)
    assert await bench.tell(span("s", 12, 16)) == 1, "after it was priced"
    await bench.run_to(2 * PRICED)
    assert (await bench.totals())[0]["request"] == 4 * NS
    (row,) = [row for row in (await bench.report()).rows if row.group["state"] == "request"]
    assert (row.requests, row.output_tokens) == (1, 100)


async def test_a_span_of_time_that_is_still_open_is_priced_with_the_tick(bench: Bench) -> None:
    """It ended before the watermark passed it: as if the sidecar had told of it."""
    await bench.run_to(13)
    assert await bench.tell(span("quick", 10, 12.5, tokens=250)) == 0
    await bench.run_to(25)
    cost = await bench.cost("quick")
    assert (cost.settled, cost.seen_by) == (True, "span")
    assert 2 * NS < cost.gpu_ns <= 2.5 * NS
    assert cost.precision.startswith("Known from a span only, while its time was open")
    await bench.run_to(60)
    times, _ = await bench.totals()
    assert times["request"] == cost.gpu_ns
    assert abs(times["unattributed"] + cost.gpu_ns - 10 * NS) <= 2 * NS, "its tokens are not found again"


async def test_a_span_of_which_a_part_is_closed_waits_for_the_rest(bench: Bench) -> None:
    await bench.run_to(21)
    await bench.tell(span("s", 11, 20))  # closed up to 15 or so
    await bench.run_to(PRICED)
    cost = await bench.cost("s")
    assert cost.settled
    assert abs(cost.gpu_ns - 9 * NS) <= NS


async def test_a_ledger_that_cannot_be_read_or_written_delays_it(bench: Bench) -> None:
    await bench.run_to(40)
    await bench.tell(span("s", 12, 16))
    driver = bench.ledger._writer.raw_connection().driver_connection
    assert driver is not None
    driver.execute("PRAGMA query_only=ON")
    with pytest.raises(TryLater):
        await bench.run_to(PRICED)
    driver.execute("PRAGMA query_only=OFF")
    await bench.run_to(PRICED)
    cost = await bench.cost("s")
    assert (cost.settled, cost.gpu_ns) == (True, 4 * NS)
    assert (await bench.totals())[0]["request"] == 4 * NS


async def test_the_totals_for_metrics_never_decrease(bench: Bench) -> None:
    unattributed = ("unattributed", "", "llama", "CNY")
    await bench.run_to(40)
    most = bench.settlement.cost_total_nano[unattributed]
    assert most == bench.settlement.cost_nano[unattributed]
    await bench.tell(span("s", 12, 16))
    await bench.run_to(PRICED)
    settlement, (_, nano) = bench.settlement, await bench.totals()
    assert settlement.cost_nano[unattributed] == nano["unattributed"] < most
    assert settlement.cost_total_nano[unattributed] == most
    assert settlement.cost_total_nano["request", "acme", "llama", "CNY"] == nano["request"]
    assert settlement.slot_total_ns["GPU-0", "unattributed"] > settlement.slot_ns["GPU-0", "unattributed"]
