"""Settlement of a node with eight GPUs: CPU time for a second of the bill, quiet and under load, on a real ledger.

Quiet: eight GPUs, one engine, nothing in flight. Load: 64 requests in flight at any moment on a group of eight GPUs, 32
of them ending each second. The clock is turned by hand, so an hour passes in seconds; CPU time counts all threads.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import process_time

import anyio

from agent.ledger.ledger import Ledger
from agent.runners.settlement import Settlement
from bench.figures import Figure
from tests.support.money import NS, HandClock, Sidecar, book, engine, gpus, record

ROUNDS = 3
QUIET_SECONDS = 600
LOAD_SECONDS = 60
BAR_QUIET_PERCENT = 0.5
BAR_LOAD_PERCENT = 10.0
GPUS = tuple(str(index) for index in range(8))


async def _seconds(folder: Path, requests_per_second: int, seconds: int) -> float:
    """CPU seconds for each second of the bill."""
    async with await Ledger.open(folder / "ledger.sqlite", "bench") as ledger:
        clock, sidecar = HandClock(1_800_000_000 * NS), Sidecar()
        settlement = Settlement(ledger, book(), "bench", clock)
        began = process_time()
        for second in range(seconds):
            now = clock.at_ns
            settlement.observe_gpus(gpus(now, 8, (7,)))
            settlement.observe_engine(
                engine(now, owns=GPUS, output=20.0 * requests_per_second * second, running=2.0 * requests_per_second)
            )
            if requests_per_second:
                batch = [sidecar.start(f"{second}-{i}", now) for i in range(requests_per_second)]
                done = [
                    sidecar.end(record(f"{second - 2}-{i}", now - 2 * NS, now, tokens=20))
                    for i in range(requests_per_second)
                    if second >= 2
                ]
                await settlement.accept(sidecar.batch(now, *batch, *done))
            await settlement.step()
            clock.at_ns += NS
        await settlement.drain()
        spent = process_time() - began
        assert (await ledger.reconcile()).reconciles
    return spent / seconds


def _percent(requests_per_second: int, seconds: int) -> float:
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(100 * anyio.run(_seconds, Path(folder), requests_per_second, seconds))
    return median(found)


def run() -> list[Figure]:
    """Percent of one core."""
    quiet, load = _percent(0, QUIET_SECONDS), _percent(32, LOAD_SECONDS)
    return [
        Figure(name="settlement_cpu_quiet", value=quiet, unit="% of a core", bar=BAR_QUIET_PERCENT, better="lower"),
        Figure(name="settlement_cpu_32_rps", value=load, unit="% of a core", bar=BAR_LOAD_PERCENT, better="lower"),
    ]
