from agent.clock import BillClock
from agent.core.board import Board
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.metrics.promql import Vector, evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from agent.core.readings import EngineSnapshot, EngineStatus
from agent.core.requests import RequestRecord
from agent.core.traffic import Traffic
from agent.lifecycle import Health
from agent.runners.publish import Publisher
from exporters.prometheus import render

GPU = GpuReading(uuid="GPU-1", index=0, model="m", read_at_ns=1, state="ok", temperature_celsius=40)
UP = EngineStatus(engine="e", kind="vllm", url="http://127.0.0.1:8000", state="ready")
DOWN = EngineStatus(engine="e", kind="vllm", url="http://127.0.0.1:8000", state="down", reason="refused")
RAW = Sample(SeriesKey("vllm:num_requests_running", (("model_name", "m"),)), 2.0)


class Ticking(BillClock):
    """A clock that moves a second at every look."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def now_ns(self) -> int:
        self.ns += 10**9
        return self.ns

    def steps_ns(self) -> int:
        return 0


def publisher() -> Publisher:
    return Publisher(
        node="n",
        version="1",
        board=Board(node="n"),
        history=History(),
        traffic=Traffic(),
        health=Health(),
        clock=Ticking(),
    )


def ask(p: Publisher, query: str) -> list[float]:
    value = evaluate(parse(query), p.history, p.now_ms())
    assert isinstance(value, Vector)
    return [sample.value for sample in value.samples]


def test_the_history_and_the_metrics_page_say_the_same() -> None:
    p = publisher()
    p.on_gpus(GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU,)))
    assert ask(p, "engineroom_gpu_temperature_celsius") == [40]
    assert b'engineroom_gpu_temperature_celsius{gpu="0",gpu_model="m",node="n",uuid="GPU-1"} 40.0' in render(
        p.samples()
    )


def test_an_engine_that_goes_down_ends_its_series_at_once() -> None:
    p = publisher()
    p.on_engine(EngineSnapshot(status=UP), (RAW,))
    assert ask(p, "vllm:num_requests_running") == [2]
    assert ask(p, "engineroom_llm_up") == [1]
    p.on_engine(EngineSnapshot(status=DOWN), ())
    assert ask(p, "vllm:num_requests_running") == []
    assert ask(p, "engineroom_llm_up") == [0]


def test_an_engine_that_is_watched_no_more_is_nowhere() -> None:
    p = publisher()
    p.on_engine(EngineSnapshot(status=UP), (RAW,))
    p.forget_engine("e")
    assert ask(p, "vllm:num_requests_running") == []
    assert ask(p, "engineroom_llm_up") == []
    assert p.board.engines == {}
    assert b"engineroom_llm_up{" not in render(p.samples())
    p.forget_engine("e")  # once more, and one that nobody knows, is no error


async def test_own_series_come_round_with_every_step() -> None:
    p = publisher()
    p.on_ended(
        "e", RequestRecord(id="r", upstream="u", path="/", started_at_ns=0, ended_at_ns=1, outcome="error", model="m")
    )
    p.health.cycle("rules").failures = 3
    await p.step()
    assert ask(p, 'engineroom_llm_requests_total{outcome="error", source="sidecar"}') == [1]
    assert ask(p, 'engineroom_cycle_runs_total{cycle="rules", result="failed"}') == [3]


def test_raw_engine_series_stay_inside() -> None:
    p = publisher()
    p.on_engine(EngineSnapshot(status=UP), (RAW,))
    assert b"vllm:" not in render(p.samples())
