"""Synthetic GPUs, engines and sidecars for tests of the bill, on a clock that the test turns."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from agent.core.cost.prices import HOUR_NS, Part, PriceBook, PriceRow
from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus
from agent.core.requests import RecordBatch, RequestEnded, RequestEvent, RequestRecord, RequestStarted, Usage

NS = 1_000_000_000
MODEL = "NVIDIA H100 80GB HBM3"
URL = "http://127.0.0.1:8000"
UPSTREAM = "127.0.0.1:8000"
PRICE_PER_HOUR = Fraction(12345678901, 987654321)


class HandClock:
    """The bill's clock, turned by hand."""

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns

    def now_ns(self) -> int:
        return self.at_ns


def book(*rows: PriceRow, currency: str = "CNY") -> PriceBook:
    return PriceBook(currency, rows or (PriceRow("NVIDIA H100*", (Part("rent", PRICE_PER_HOUR),)),))


def expected_bill(from_ns: int, to_ns: int, per_hour: Fraction = PRICE_PER_HOUR) -> int:
    """Price x wall time, without the agent's arithmetic."""
    product = per_hour.numerator * 10**9 * (to_ns - from_ns)
    return product // (per_hour.denominator * HOUR_NS)


def gpus(at_ns: int, count: int = 1, pids: Iterable[int] = (), model: str = MODEL, **fields: Any) -> GpuSnapshot:
    """A snapshot of healthy GPUs named GPU-0..., each with processes `pids`."""
    processes = tuple(GpuProcess(pid=pid, kind="compute") for pid in pids)
    readings = tuple(
        GpuReading(
            **{
                "uuid": f"GPU-{index}",
                "index": index,
                "model": model,
                "read_at_ns": at_ns,
                "state": "ok",
                "processes": processes,
                **fields,
            }
        )
        for index in range(count)
    )
    return GpuSnapshot(read_at_ns=at_ns, driver="ok", gpus=readings)


def engine(
    at_ns: int,
    *,
    name: str = "vllm",
    state: Any = "ready",
    pids: tuple[int, ...] = (),
    owns: tuple[str, ...] = ("GPU-0",),
    output: float | None = None,
    running: float | None = None,
    url: str = URL,
) -> EngineSnapshot:
    """One scrape round of an engine that owns `owns` by configuration."""
    tokens = None if output is None else {"output": output, "input": 10.0}
    reading = EngineReading(
        engine=name,
        kind="vllm",
        url=url,
        model="llama",
        read_at_ns=at_ns,
        requests_running=running,
        tokens_total=tokens,
    )
    status = EngineStatus(engine=name, kind="vllm", url=url, state=state, pids=pids, gpus=owns)
    return EngineSnapshot(status=status, readings=(reading,))


def record(id: str, start_ns: int, end_ns: int, **fields: Any) -> RequestRecord:  # noqa: A002 - the field's name
    tokens = fields.pop("tokens", 10)
    values: dict[str, Any] = {
        "upstream": UPSTREAM,
        "path": "/v1/completions",
        "outcome": "ok",
        "model": "llama",
        "tenant": "acme",
        "usage": Usage(input_tokens=5, output_tokens=tokens, source="reported"),
    }
    return RequestRecord(id=id, started_at_ns=start_ns, ended_at_ns=end_ns, **{**values, **fields})


class Sidecar:
    """Numbers events as a sidecar does."""

    def __init__(self, name: str = "sidecar", epoch: int = 1) -> None:
        self.name = name
        self.epoch = epoch
        self._sequence = 0

    def next(self) -> int:
        self._sequence += 1
        return self._sequence

    def start(self, id: str, at_ns: int, **fields: Any) -> RequestStarted:  # noqa: A002
        values: dict[str, Any] = {"upstream": UPSTREAM, "path": "/v1/completions", "model": "llama", "tenant": "acme"}
        return RequestStarted(sequence=self.next(), id=id, started_at_ns=at_ns, **{**values, **fields})

    def end(self, record: RequestRecord) -> RequestEnded:
        return RequestEnded(sequence=self.next(), record=record)

    def batch(self, now_ns: int, *events: RequestEvent) -> RecordBatch:
        return RecordBatch(sidecar=self.name, epoch=self.epoch, sent_at_ns=now_ns, events=events)
