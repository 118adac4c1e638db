"""Settlement of a node with eight GPUs: CPU time for a second of the bill, quiet and under load, on a real ledger.

Quiet: eight GPUs, one engine, nothing in flight. 32 rps: 64 requests in flight at any moment on a group of eight GPUs.
5,000 rps: two seconds each, so 10,000 in flight, half of them streamed (their progress is told), 50 tenants, 10 models
whose shapes are known; once as one engine on all eight GPUs, once as eight engines on one GPU each; energy is metered.
The clock is turned by hand, so an hour passes in seconds; CPU time counts all threads, and garbage is collected as the
agent does it. A tick is late by as long as its
step takes while the events of the same second are being accepted.
"""

import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import NamedTuple

import anyio

from agent.core.cost.work import Constants
from agent.core.requests import RequestEvent, RequestProgressed, RequestStarted
from agent.ledger.ledger import Ledger
from agent.lifecycle import rest_from_collecting
from agent.runners.settlement import Settlement
from bench.figures import Figure
from tests.support.money import NS, HandClock, Sidecar, book, engine, gpus, record

ROUNDS = 3
QUIET_SECONDS = 600
LOAD_SECONDS = 60
HEAVY_SECONDS = 15
WARM_SECONDS = 7  # until ticks are closed, and every request in them began and ended under load
HEAVY_RPS = 5000
SIDECARS = 8
BAR_QUIET_PERCENT = 0.5
BAR_LOAD_PERCENT = 10.0
BAR_HEAVY_PERCENT = 50.0
BAR_LATE_MS = 500.0
GPUS = tuple(str(index) for index in range(8))
GROUP, SINGLES = "one engine on 8 GPUs", "8 engines on a GPU each"


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


class Heavy(NamedTuple):
    """Of a second of the bill: CPU seconds, and by how much the latest tick was late."""

    cpu_seconds: float
    late_seconds: float


class Traffic:
    """What sidecars tell of 5,000 requests that begin in each second, evenly, and take two seconds."""

    def __init__(self, engines: int) -> None:
        self._dice = random.Random(1)
        self._engines = engines
        self.sidecars = [Sidecar(f"sidecar-{i}") for i in range(SIDECARS)]
        self._running: list[list[RequestStarted]] = [[], []]  # begun in the last second, and in the one before
        self._count = 0

    def second(self, now: int) -> list[list[RequestEvent]]:
        """Events of the second that ends at `now`, by sidecar. Half of the requests tell their progress."""
        told: list[list[RequestEvent]] = [[] for _ in self.sidecars]
        for number, start in enumerate(self._running.pop(0)):
            sidecar = self.sidecars[number % SIDECARS]
            fields = {"model": start.model, "tenant": start.tenant, "upstream": start.upstream}
            end = record(start.id, start.started_at_ns, start.started_at_ns + 2 * NS, tokens=100, **fields)
            told[number % SIDECARS].append(sidecar.end(end))
        for number, start in enumerate(self._running[0]):
            sequence = self.sidecars[number % SIDECARS].next()
            if number % 16 < SIDECARS:
                progress = RequestProgressed(sequence=sequence, id=start.id, at_ns=now, output_tokens=50)
                told[number % SIDECARS].append(progress)
        begun = []
        for number in range(HEAVY_RPS):
            self._count += 1
            begun.append(
                self.sidecars[number % SIDECARS].start(
                    f"01900000-0000-7000-8000-{self._count:012x}",
                    now - NS + number * NS // HEAVY_RPS,
                    model=f"model-{self._dice.randrange(10)}",
                    tenant=f"tenant-{self._dice.randrange(50)}",
                    upstream=f"127.0.0.1:{8000 + self._dice.randrange(self._engines)}",
                )
            )
            told[number % SIDECARS].append(begun[-1])
        self._running.append(begun)
        return told


async def _heavy(folder: Path, layout: str) -> Heavy:
    async with await Ledger.open(folder / "ledger.sqlite", "bench") as ledger:
        clock = HandClock(1_800_000_000 * NS)
        shape = Constants(20_000.0, 0.4)
        settlement = Settlement(ledger, book(), "bench", clock)
        settlement._tariff.constants_of = lambda _engine, _model: shape
        owned: Sequence[tuple[str, ...]] = [GPUS] if layout == GROUP else [(gpu,) for gpu in GPUS]
        traffic = Traffic(len(owned))
        spent, late = 0.0, 0.0
        for second in range(WARM_SECONDS + HEAVY_SECONDS):
            clock.at_ns += NS
            now = clock.at_ns
            told = traffic.second(now)
            began = process_time()
            settlement.observe_gpus(gpus(now, 8, (7,), energy_joules=400.0 * second, energy_source="counter"))
            for number, owns in enumerate(owned):
                output, running = 100.0 * HEAVY_RPS * max(0, second - 1), 2.0 * HEAVY_RPS
                settlement.observe_engine(
                    engine(
                        now,
                        name=f"engine-{number}",
                        owns=owns,
                        output=output / len(owned),
                        running=running / len(owned),
                        url=f"http://127.0.0.1:{8000 + number}",
                    )
                )
            due = perf_counter()
            async with anyio.create_task_group() as tasks:
                for sidecar, events in zip(traffic.sidecars, told, strict=True):
                    tasks.start_soon(partial(settlement.accept, sidecar.batch(now, *events)))
                await settlement.step()
                took = perf_counter() - due
            if second >= WARM_SECONDS:
                spent += process_time() - began
                late = max(late, took)
        await settlement.drain()
        assert (await ledger.reconcile()).reconciles
    return Heavy(spent / HEAVY_SECONDS, late)


def _percent(requests_per_second: int, seconds: int) -> float:
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(100 * anyio.run(_seconds, Path(folder), requests_per_second, seconds))
    return median(found)


def heavy(layout: str) -> Heavy:
    """Middle CPU time of the rounds, and the latest tick of all of them."""
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(anyio.run(_heavy, Path(folder), layout))
    return Heavy(median(one.cpu_seconds for one in found), max(one.late_seconds for one in found))


def run() -> list[Figure]:
    """Percent of one core, and milliseconds."""
    rest_from_collecting()
    quiet, load = _percent(0, QUIET_SECONDS), _percent(32, LOAD_SECONDS)
    figures = [
        Figure(name="settlement_cpu_quiet", value=quiet, unit="% of a core", bar=BAR_QUIET_PERCENT, better="lower"),
        Figure(name="settlement_cpu_32_rps", value=load, unit="% of a core", bar=BAR_LOAD_PERCENT, better="lower"),
    ]
    for layout, suffix in ((GROUP, "1_engine"), (SINGLES, "8_engines")):
        cpu, late = heavy(layout)
        cpu_name, late_name = f"settlement_cpu_5000_rps_{suffix}", f"tick_late_ms_max_{suffix}"
        figures += [
            Figure(name=cpu_name, value=100 * cpu, unit="% of a core", bar=BAR_HEAVY_PERCENT, better="lower"),
            Figure(name=late_name, value=1000 * late, unit="ms", bar=BAR_LATE_MS, better="lower"),
        ]
    return figures
