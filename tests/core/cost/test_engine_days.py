"""Gauges of engines, day by day: peaks, preemptions over restarts, memory of processes."""

from typing import Any

from agent.core.cost.engine_days import DAY_NS, LONGEST_LOOK_NS, MOST_DAYS, MOST_ENGINES, EngineDays, Observed
from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus

NS = 1_000_000_000
T0 = 20_000 * DAY_NS


def engine(name: str = "chat", *, pids: tuple[int, ...] = (7, 8), models: int = 1, **gauges: Any) -> EngineSnapshot:
    status = EngineStatus(engine=name, kind="vllm", url="http://e", state="ready", pids=pids)
    readings = tuple(
        EngineReading(engine=name, kind="vllm", url="http://e", model=f"m{n}", read_at_ns=T0, **gauges)
        for n in range(models)
    )
    return EngineSnapshot(status=status, readings=readings)


def gpus(*processes: tuple[tuple[int, int | None], ...], driver: Any = "ok") -> GpuSnapshot:
    readings = tuple(
        GpuReading(
            uuid=f"GPU-{index}",
            index=index,
            model="L4",
            read_at_ns=T0,
            state="ok",
            processes=tuple(GpuProcess(pid=pid, kind="compute", memory_used_bytes=size) for pid, size in of),
        )
        for index, of in enumerate(processes)
    )
    return GpuSnapshot(read_at_ns=T0, driver=driver, gpus=readings)


def test_peaks_and_the_time_somebody_looked() -> None:
    days = EngineDays()
    for second, (kv, running, waiting) in enumerate([(0.2, 1, None), (0.9, 4, 2), (0.1, 0, 0)]):
        reading = engine(kv_cache_usage_ratio=kv, requests_running=running, requests_waiting=waiting)
        days.observe(T0 + second * NS, None, {"chat": reading})
    days.observe(T0 + 2 * NS + 900 * NS, None, {"chat": engine()})  # a pause: at most a minute of it was watched
    assert days.observed(T0, T0 + DAY_NS) == {
        "chat": Observed(
            seen_ns=2 * NS + LONGEST_LOOK_NS, kv_cache_usage_ratio=0.9, requests_running=4, requests_waiting=2
        )
    }


def test_preemptions_go_on_over_a_restart_of_the_engine() -> None:
    days = EngineDays()
    for second, total in enumerate([100, 103, 103, 2, 5]):
        days.observe(T0 + second, None, {"chat": engine(preemptions_total=total, models=2)})
    assert days.observed(T0, T0)["chat"].preemptions == 2 * (3 + 2 + 3)  # before we looked is not ours to count


def test_memory_is_that_of_its_processes_on_the_fullest_gpu() -> None:
    days = EngineDays()
    days.observe(T0, gpus(((7, 10), (8, 5), (9, 99)), ((8, 12),), ((9, 99),)), {"chat": engine()})
    days.observe(T0 + 1, gpus(((7, 3),), ((8, 2),)), {"chat": engine()})
    seen = days.observed(T0, T0)["chat"]
    assert (seen.gpu_memory_bytes, seen.gpus) == (15, 2)


def test_memory_that_is_not_told_is_not_nothing() -> None:
    for snapshot in (None, gpus(((7, None), (8, 5))), gpus(((9, 5),)), gpus(((7, 5),), driver="hung")):
        days = EngineDays()
        days.observe(T0, snapshot, {"chat": engine()})
        assert days.observed(T0, T0)["chat"].gpu_memory_bytes is None


def test_days_and_engines_are_bounded() -> None:
    days = EngineDays()
    days.observe(T0, None, {f"e{n}": engine(f"e{n}") for n in range(MOST_ENGINES + 5)})
    assert len(days.observed(T0, T0)) == MOST_ENGINES
    for day in range(1, MOST_DAYS + 1):
        days.observe(T0 + day * DAY_NS, None, {"chat": engine()})
    assert days.observed(T0, T0) == {}
    assert set(days.observed(T0, T0 + 90 * DAY_NS)) == {"chat"}


def test_an_engine_that_is_gone_begins_anew() -> None:
    days = EngineDays()
    days.observe(T0, None, {"chat": engine(preemptions_total=9)})
    days.observe(T0 + NS, None, {})
    days.observe(T0 + 5 * NS, None, {"chat": engine(preemptions_total=50)})
    assert days.observed(T0, T0)["chat"] == Observed(preemptions=0)
