"""From GPUs, engines and records through settlement and a real ledger to findings: the same money everywhere."""

from pathlib import Path

from msgspec.structs import replace

from agent.api.savings import find_savings
from agent.api.savings_sources import SavingsSources, TallyStatistics
from agent.core.cost.request_statistics import RequestTally
from agent.core.workloads import Attribution
from agent.runners.settlement import Settlement
from tests.support.api import node
from tests.support.ledger import T0, opened
from tests.support.money import NS, HandClock, Sidecar, book, engine, gpus, record

HOUR_NS = 3600 * NS
TRAINING = 777


async def test_findings_of_a_real_ledger(tmp_path: Path) -> None:
    """Two hours of three GPUs: an engine whose clients leave and try again, a training job, and a free one."""
    ledger = await opened(tmp_path / "ledger.sqlite")
    clock, tally, sidecar = HandClock(T0), RequestTally(T0), Sidecar()
    settlement = Settlement(ledger, book(), "node-a", clock, gpu_interval_seconds=600, on_ended=tally.add)
    ids = []
    for minute in range(120):
        clock.at_ns = T0 + minute * 60 * NS
        snapshot = gpus(clock.at_ns, 3)
        trained = gpus(clock.at_ns, 3, (TRAINING,)).gpus[1]
        settlement.observe_gpus(replace(snapshot, gpus=(snapshot.gpus[0], trained, snapshot.gpus[2])))
        settlement.observe_workloads(Attribution(read_at_ns=clock.at_ns, users_known=True))
        settlement.observe_engine(engine(clock.at_ns))
        left = minute % 3 == 0
        name = f"r{minute}"
        ids.append((name, left))
        told = record(
            name,
            clock.at_ns - 20 * NS,
            clock.at_ns - NS,
            outcome="client_abort" if left else "ok",
            attempt=1 if minute % 3 == 1 else 0,
            max_output_tokens=64,
        )
        if minute:
            await settlement.accept(sidecar.batch(clock.at_ns, sidecar.end(told)))
        await settlement.step()
    await settlement.drain()
    end = clock.at_ns
    sources = SavingsSources(statistics=TallyStatistics(tally), price_of=lambda _: None)
    services = node(ledger=ledger, unix_ns=lambda: end)
    told = await find_savings(services, sources, T0, end + 60 * NS)
    proof = await ledger.reconcile()
    costs = {name: await ledger.request_cost(name) for name, _ in ids[1:]}
    ledger.close()

    assert proof.reconciles
    assert told.bill_nano == proof.bill_nano
    by_kind = {one.kind: one for one in told.findings}
    training = by_kind["other_workload"]
    assert (training.is_waste, training.where) == (False, {"gpu": "GPU-1"})
    assert by_kind["unallocated"].where["gpu"] == "GPU-2"
    left = by_kind["client_abort"]
    assert left.cost_nano == sum((costs[name].cost_nano or 0) for name, was_left in ids[1:] if was_left)
    again = by_kind["retries"]
    assert [each.value for each in again.figures if each.name == "retries"] == [40]
    assert again.cost_nano == left.cost_nano  # every attempt that was left was followed by another
    assert by_kind["loaded_idle"].where["engine"] == "vllm"
    waste = [one for one in told.findings if one.is_waste and one.is_part]
    assert told.parts_nano == sum(one.cost_nano or 0 for one in waste)
    requests = sum((cost.cost_nano or 0) for cost in costs.values())
    served = requests - (left.cost_nano or 0)
    small = (told.bill_nano or 0) - served - (told.parts_nano or 0) - (training.cost_nano or 0)
    assert 0 <= small <= (told.bill_nano or 0) // 50  # what is below a hundredth each: the gap at the start
