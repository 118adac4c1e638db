"""What the ledger costs for each request: CPU time to store and settle it, and bytes on disk for weeks after.

The load of the bar: 5,000 requests a second on 8 GPUs, by 50 tenants, of 10 models. A request runs for half a second in
the middle, some for many. Events and settlement steps are made before the clock runs: what is measured is the ledger's
part alone, with every commit on disk. Garbage is collected as the agent does it.
"""

import math
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

import anyio

from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.requests import RecordBatch, RequestEnded, RequestEvent, RequestRecord, RequestStarted, Usage
from agent.ledger.ledger import Ledger
from agent.lifecycle import rest_from_collecting
from bench.figures import Figure, print_figures

NS = 1_000_000_000
T0 = 30_000_000 * 60 * NS
RATE = 5000
SECONDS = 60
ROUNDS = 3
GPUS, TENANTS, MODELS = 8, 50, 10
BAR_US = 60.0
BAR_BYTES = 60.0
BAR_BYTES_ROW = 80.0
NANO_PER_NS = 694e-6  # 2.50 an hour


class Told(NamedTuple):
    """One second: what sidecars tell, and what the settlement decides of the second before last."""

    batch: RecordBatch
    closed: Closed


def _id(chance: random.Random, at_ns: int) -> str:
    text = f"{at_ns // 1_000_000:012x}7{chance.getrandbits(12):03x}{0x8 | chance.getrandbits(2):x}"
    text += f"{chance.getrandbits(60):015x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class _Load:
    """Makes the seconds of a run. `gpu_ns`: GPU time of a request, in the middle."""

    def __init__(self, rate: int, gpu_ns: float) -> None:
        self._chance = random.Random(7)
        self._rate = rate
        self._gpu_ns = gpu_ns
        self._open: dict[str, tuple[Live, RequestRecord, int]] = {}
        self._sequence = 0
        self._number = 0
        self._models = [f"organisation/model-{number}-70b-instruct" for number in range(MODELS)]

    def seconds(self, count: int) -> Iterator[Told]:
        """One after the other, and then those in which what is still under way ends."""
        for second in range(count):
            yield self._second(T0 + second * NS, self._rate)

    def _second(self, now: int, rate: int) -> Told:
        chance, events = self._chance, list[tuple[int, RequestEvent]]()
        for _ in range(rate):
            begin = now + chance.randrange(NS)
            end = begin + int(NS * min(30.0, chance.lognormvariate(math.log(0.4), 0.7)))
            model = chance.choice(self._models)
            record = RequestRecord(
                id=_id(chance, begin),
                upstream=f"10.0.0.1:80{int(model[19])}0",
                path="/v1/chat/completions",
                started_at_ns=begin,
                ended_at_ns=end,
                outcome="ok" if chance.random() < 0.98 else "client_abort",
                model=model,
                tenant=f"tenant-{chance.randrange(TENANTS)}",
                first_token_at_ns=begin + 50_000_000,
                usage=Usage(input_tokens=chance.randrange(20, 3000), output_tokens=chance.randrange(10, 800)),
                max_output_tokens=chance.choice((256, 1024, 2048)),
            )
            gpu_ns = int(chance.lognormvariate(math.log(self._gpu_ns), 0.8))
            live = Live(record.id, record.upstream, f"vllm-{model[19]}", begin, model, record.tenant or "")
            live.currency = "CNY"
            self._open[record.id] = (live, record, gpu_ns)
            started = RequestStarted(
                sequence=0, id=record.id, upstream=record.upstream, path=record.path, started_at_ns=begin,
                model=model, tenant=record.tenant,
            )  # fmt: skip
            events.append((begin, started))
        return Told(self._batch(now, events), self._closed(now))

    def _batch(self, now: int, events: list[tuple[int, RequestEvent]]) -> RecordBatch:
        for live, record, _ in self._open.values():
            if live.ended_ns is None and record.ended_at_ns < now + NS:
                live.ended_ns, live.outcome, live.usage = record.ended_at_ns, record.outcome, record.usage
                events.append((record.ended_at_ns, RequestEnded(sequence=0, record=record)))
        told: list[RequestEvent] = []
        for _, event in sorted(events, key=lambda pair: pair[0]):
            self._sequence += 1
            if isinstance(event, RequestEnded):
                told.append(RequestEnded(sequence=self._sequence, record=event.record))
            else:
                told.append(
                    RequestStarted(
                        sequence=self._sequence, id=event.id, upstream=event.upstream, path=event.path,
                        started_at_ns=event.started_at_ns, model=event.model, tenant=event.tenant,
                    )
                )  # fmt: skip
        return RecordBatch(sidecar="sidecar", epoch=1, sent_at_ns=now + NS, events=tuple(told))

    def _closed(self, now: int) -> Closed:
        self._number += 1
        closed = Closed(self._number, now, now + NS)
        minute = now - now % (60 * NS)
        for live, record, whole in list(self._open.values()):
            gpu = f"GPU-{hash(record.model) % GPUS}-5ad26f7c-1d2a-4a8b-9a55-000000000000"
            first = live.last_booking is None
            ended = live.ended_ns is not None
            part = whole - live.gpu_ns if ended else whole // 4 if first else 0
            outcome = (live.outcome or "ok") if ended else "in_flight"
            place = Booking(minute, gpu, T0, "request", live.engine, live.model, live.tenant, outcome, gpu, "process")
            amount = closed.entries.setdefault(place, Amount())
            amount.gpu_ns += part
            amount.nano += int(part * NANO_PER_NS)
            live.last_booking = place
            live.gpu_ns += part
            live.nano += int(part * NANO_PER_NS)
            live.work_ns, live.energy_uj, live.metered_ns = live.gpu_ns * 6 // 10, live.gpu_ns * 7 // 10, live.gpu_ns
            live.seen_ns = record.ended_at_ns - record.started_at_ns
            closed.requests[live.id] = live
            if ended:
                amount.requests += 1
                closed.settled.append(live.id)
                del self._open[live.id]
        return closed


async def _run(folder: Path, rate: int, seconds: int, gpu_ns: float) -> tuple[float, float, float]:
    """CPU microseconds for each request, bytes for each that is settled, and for each row of entries."""
    path, load = folder / "ledger.sqlite", _Load(rate, gpu_ns)
    async with await Ledger.open(path, "bench") as ledger:
        spent, settled, before = 0.0, 0, _size(ledger)
        for told in load.seconds(seconds):
            began = process_time()
            await ledger.accept(told.batch)
            await ledger.settle(told.closed)
            spent += process_time() - began
            settled += len(told.closed.settled)
        bytes_each = (_size(ledger) - before) / settled
        return 1e6 * spent / (rate * seconds), bytes_each, _row_bytes(path)


def _size(ledger: Ledger) -> int:
    with ledger._writer.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        return int((pages - free) * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def _row_bytes(path: Path) -> float:
    """What a row of entries takes: days are kept for ever, one row for each place that was booked on a day."""
    with closing(sqlite3.connect(path.with_name("rows.sqlite"))) as copy:
        copy.execute("ATTACH ? AS ledger", (str(path),))
        copy.execute(
            "CREATE TABLE entries (grain, minute, place, gpu_ns, nano, requests, input_tokens, input_cached_tokens,"
            " output_tokens, work_ns, energy_uj, metered_ns, PRIMARY KEY (grain, minute, place)) WITHOUT ROWID"
        )
        rows = copy.execute("INSERT INTO entries SELECT * FROM ledger.entries").rowcount
        copy.commit()
    return path.with_name("rows.sqlite").stat().st_size / rows


def run() -> list[Figure]:
    """Microseconds of one core, and bytes, for each request."""
    rest_from_collecting()  # as the agent does
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(anyio.run(_run, Path(folder), RATE, SECONDS, GPUS * NS / RATE))
    microseconds, size, row = (median(values) for values in zip(*found, strict=True))
    return [
        Figure(name="ledger_write_us_per_request", value=microseconds, unit="us", bar=BAR_US, better="lower"),
        Figure(name="ledger_bytes_per_request", value=size, unit="bytes", bar=BAR_BYTES, better="lower"),
        Figure(name="ledger_bytes_per_day_and_place", value=row, unit="bytes", bar=BAR_BYTES_ROW, better="lower"),
    ]


if __name__ == "__main__":
    print_figures(run())
