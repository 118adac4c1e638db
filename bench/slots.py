"""Settlement of 16 GPUs cut into 7 MIG devices each: CPU time for a second of the bill, and what the ledger grows by.

Every device is held by a pod of its own and has an engine; nothing is in flight, or 64 requests a second end. The slots
of the present are asked for each second, as for /metrics. The clock is turned by hand; CPU time counts all threads.
"""

import sqlite3
import tempfile
from pathlib import Path
from statistics import median
from time import process_time

import anyio

from agent.core.gpu_readings import GpuSnapshot
from agent.core.workloads import Attribution
from agent.ledger.ledger import Ledger
from agent.runners.self_samples import slot_samples
from agent.runners.settlement import Settlement
from bench.figures import Figure
from tests.support.money import NS, HandClock, Sidecar, book, engine, record
from tests.support.slots import GIB, cut, device, held, known, pod, snapshot, user

ROUNDS = 3
GPUS, DEVICES = 16, 7
SECONDS = 180
T0 = 1_800_000_000 * NS
BAR_QUIET_PERCENT = 2.0
BAR_LOAD_PERCENT = 10.0
BAR_ROW_BYTES = 300.0


def _uuid(kind: str, gpu: int, device_: int = 0) -> str:
    return f"{kind}-{gpu:08d}-0000-0000-0000-{device_:012d}"


def _node(at: int) -> GpuSnapshot:
    sizes = {"memory_used_bytes": 9 * GIB, "memory_free_bytes": GIB, "memory_total_bytes": 10 * GIB}
    return snapshot(
        at,
        *(
            cut(
                at,
                *(device(_uuid("MIG", g, i), 1, (_pid(g, i),), gpu_instance=i, **sizes) for i in range(DEVICES)),
                uuid=_uuid("GPU", g),
                index=g,
            )
            for g in range(GPUS)
        ),
    )


def _pid(gpu: int, device_: int) -> int:
    return 1000 + DEVICES * gpu + device_


def _who() -> Attribution:
    places = [(g, i) for g in range(GPUS) for i in range(DEVICES)]
    return known(
        0,
        *(held(_uuid("MIG", g, i), pod(f"pod-{g}-{i}")) for g, i in places),
        *(user(_uuid("MIG", g, i), _pid(g, i), pod(f"pod-{g}-{i}")) for g, i in places),
    )


async def _run(folder: Path, requests_per_second: int, seconds: int) -> tuple[float, float]:
    """CPU seconds for each second of the bill, without what the engines' statuses cost; bytes of a booked row."""
    path = folder / "ledger.sqlite"
    spent = 0.0
    async with await Ledger.open(path, "bench") as ledger:
        clock, sidecar = HandClock(T0), Sidecar()
        settlement = Settlement(ledger, book(), "bench", clock)
        nodes, who = [_node(T0 + second * NS) for second in range(seconds)], _who()
        for second in range(seconds):
            now = clock.at_ns
            for n in range(GPUS * DEVICES):
                url = f"http://127.0.0.1:{8000 + n}"
                settlement.observe_engine(engine(now, name=f"engine-{n}", owns=(), pids=(1000 + n,), url=url))
            ended = [
                sidecar.end(record(f"{second}-{i}", now - 2 * NS, now, upstream=f"127.0.0.1:{8000 + i}"))
                for i in range(requests_per_second)
            ]
            began = process_time()
            settlement.observe_gpus(nodes[second])
            if second % 10 == 0:
                settlement.observe_workloads(who)
            if ended:
                await settlement.accept(sidecar.batch(now, *ended))
            await settlement.step()
            samples = sum(1 for _ in slot_samples("bench", settlement.present_slots()))
            spent += process_time() - began
            assert samples == 3 * GPUS * DEVICES
            clock.at_ns += NS
        await settlement.drain()
        assert (await ledger.reconcile()).reconciles
    with sqlite3.connect(path) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        (size,) = connection.execute("SELECT sum(pgsize) FROM dbstat WHERE name = 'entries'").fetchone()
    connection.close()
    return spent / seconds, size / rows


def run() -> list[Figure]:
    """Percent of one core, and bytes."""
    found: dict[int, list[tuple[float, float]]] = {0: [], 64: []}
    for rate, results in found.items():
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                results.append(anyio.run(_run, Path(folder), rate, SECONDS))
    quiet, load = (100 * median(cpu for cpu, _ in results) for results in found.values())
    size = median(size for _, size in found[0])
    unit = "% of a core"
    return [
        Figure(name="slots_cpu_112_quiet", value=quiet, unit=unit, bar=BAR_QUIET_PERCENT, better="lower"),
        Figure(name="slots_cpu_112_at_64_rps", value=load, unit=unit, bar=BAR_LOAD_PERCENT, better="lower"),
        Figure(name="slots_ledger_row", value=size, unit="B", bar=BAR_ROW_BYTES, better="lower"),
    ]
