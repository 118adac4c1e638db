"""Requests that were in flight when the agent ended: what is booked of them gets their outcome all the same."""

from pathlib import Path

from agent.runners.settlement import Settlement
from tests.support.ledger import T0, booked, opened
from tests.support.money import NS, HandClock, Sidecar, book, engine, gpus, record


async def test_after_a_restart_nothing_stays_in_flight(tmp_path: Path) -> None:
    path, clock, sidecar = tmp_path / "ledger.sqlite", HandClock(T0), Sidecar()
    async with await opened(path) as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        for second in range(130):
            settlement.observe_gpus(gpus(clock.at_ns, 2))
            settlement.observe_engine(engine(clock.at_ns, owns=("GPU-0", "GPU-1")))
            if second in (1, 50, 70):
                tenant = "zeta" if second == 50 else "acme"
                told = sidecar.start(f"r{second}", clock.at_ns, tenant=tenant)
                await settlement.accept(sidecar.batch(clock.at_ns, told))
            await settlement.step()
            clock.at_ns += NS
        in_flight = sum(row["gpu_ns"] for row in booked(ledger) if row["outcome"] == "in_flight")
        assert in_flight > 0
    async with await opened(path) as ledger:
        lives = {live.id: live for live in ledger.opened.live}
        assert sum(parts.gpu_ns for live in lives.values() for parts in live.provisional.values()) == in_flight
        for live in lives.values():
            assert sum(parts.gpu_ns for parts in live.provisional.values()) == live.gpu_ns
            assert sum(parts.nano for parts in live.provisional.values()) == live.nano
        settlement = Settlement(ledger, book(), "node-a", clock)
        settlement.observe_engine(engine(clock.at_ns, owns=("GPU-0", "GPU-1")))
        ends = [record(name, live.started_ns, clock.at_ns, tenant=live.tenant) for name, live in lives.items()]
        await settlement.accept(sidecar.batch(clock.at_ns, *(sidecar.end(one) for one in ends)))
        clock.at_ns += 10 * NS
        await settlement.drain()
        left = {row["gpu_ns"] for row in booked(ledger) if row["outcome"] == "in_flight"}
        assert left <= {0}
        assert (await ledger.reconcile()).reconciles


async def test_what_was_booked_with_its_outcome_keeps_its_price_over_a_restart(tmp_path: Path) -> None:
    """Its end was known while only a part of its time was closed: nothing of it was in flight in the books."""
    path, clock, sidecar = tmp_path / "ledger.sqlite", HandClock(T0), Sidecar()
    async with await opened(path) as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        for second in range(9):
            settlement.observe_gpus(gpus(clock.at_ns))
            settlement.observe_engine(engine(clock.at_ns))
            if second == 7:
                told = record("r", T0 + NS, clock.at_ns)
                await settlement.accept(
                    sidecar.batch(clock.at_ns, sidecar.start("r", T0 + NS), sidecar.end(told)),
                )
            await settlement.step()
            clock.at_ns += NS
        half = await ledger.request_cost("r")
        assert half is not None
        assert (half.settled, half.gpu_ns > 0) == (False, True)
    async with await opened(path) as ledger:  # killed: nothing was drained
        settlement = Settlement(ledger, book(), "node-a", clock)
        settlement.observe_gpus(gpus(clock.at_ns))
        clock.at_ns += NS
        await settlement.drain()
        found = await ledger.request_cost("r")
        assert found is not None
        assert (found.settled, found.currency, found.gpu_ns) == (True, "CNY", half.gpu_ns)
        assert found.cost_nano == half.cost_nano == sum(r["nano"] for r in booked(ledger) if r["state"] == "request")
        (counted,) = [row for row in booked(ledger) if row["requests"]]
        assert counted["gpu"] == "GPU-0"
