"""Series of engines: health, and each signal from the one source that was elected for it."""

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from agent.core.catalogue import BY_NAME, CATALOGUE
from agent.core.metrics.published_engine import EngineSampler
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineReading, EngineSnapshot, EngineState, EngineStatus, Histogram
from agent.core.requests import RequestRecord, Usage
from agent.core.traffic import Traffic

READING = EngineReading(
    engine="e",
    kind="vllm",
    url="http://127.0.0.1:8000",
    model="m",
    read_at_ns=1,
    model_memory_bytes=5e9,
    requests_running=0.0,
    requests_waiting=2.0,
    kv_cache_usage_ratio=0.5,
    preemptions_total=1.0,
    requests_total={"ok": 3.0},
    tokens_total={"output": 7.0},
    request_duration_seconds=Histogram(bounds=(1.0, 2.0), counts=(1.0, 2.0, 3.0), sum=4.0),
    queue_seconds=Histogram(bounds=(1.0,), counts=(1.0, 1.0)),
)
STATUS = EngineStatus(engine="e", kind="vllm", url="http://127.0.0.1:8000", state="ready")
ENGINE = EngineSnapshot(status=STATUS, readings=(READING,))
RECORD = RequestRecord(
    id="r", upstream="127.0.0.1:8000", path="/", started_at_ns=0, ended_at_ns=9, first_token_at_ns=4, outcome="ok",
    model="m", usage=Usage(output_tokens=3),
)  # fmt: skip


def by_series(samples: Iterable[Sample]) -> dict[str, float]:
    found = [(repr(sample.key), sample.value) for sample in samples]
    assert len(found) == len(dict(found)), "a series is given twice"
    return dict(found)


def everything(sampler: EngineSampler, *engines: EngineSnapshot) -> dict[str, float]:
    board = {engine.status.engine: engine for engine in engines}
    own = [sample for engine in engines for sample in sampler.samples(engine)]
    return by_series([*own, *sampler.sidecar_samples(board)])


def sources(series: dict[str, float], signal: str) -> set[str]:
    name = f"engineroom_llm_{signal}"
    return {
        key.rpartition('source="')[2].partition('"')[0] for key in series if key.startswith((name + "{", name + "_"))
    }


def test_from_the_engine_while_no_sidecar_saw_its_requests() -> None:
    found = everything(EngineSampler("n", Traffic()), ENGINE)
    assert found['engineroom_llm_requests_total{engine="e",model="m",node="n",outcome="ok",source="engine"}'] == 3
    assert found['engineroom_llm_tokens_total{engine="e",kind="output",model="m",node="n",source="engine"}'] == 7
    assert found['engineroom_llm_model_memory_bytes{engine="e",model="m",node="n",source="engine"}'] == 5e9
    assert sources(found, "queue_seconds") == {"engine"}


def test_one_source_feeds_each_signal() -> None:
    traffic = Traffic()
    traffic.add("e", RECORD)
    found = everything(EngineSampler("n", traffic), ENGINE)
    for signal in ("requests_total", "tokens_total", "request_duration_seconds", "time_to_first_token_seconds"):
        assert sources(found, signal) == {"sidecar"}, signal
    for signal in (
        "requests_running",
        "requests_waiting",
        "kv_cache_usage_ratio",
        "preemptions_total",
        "queue_seconds",
    ):
        assert sources(found, signal) == {"engine"}, signal


def test_what_is_under_way_stands_for_an_engine_that_does_not_tell_what_it_runs() -> None:
    silent = EngineSnapshot(status=STATUS, readings=(replace(READING, requests_running=None),))
    traffic = Traffic()
    assert not sources(everything(EngineSampler("n", traffic), silent), "requests_running")  # absent, not 0
    traffic.add("e", RECORD)
    sampler = EngineSampler("n", traffic, in_flight=lambda: {("e", "other-model"): 2, ("elsewhere", "m"): 1})
    found = everything(sampler, silent)
    series = 'engineroom_llm_requests_running{engine="%s",model="%s",node="n",source="sidecar"}'
    assert found[series % ("e", "other-model")] == 2
    assert found[series % ("e", "m")] == 0
    assert found[series % ("elsewhere", "m")] == 1  # an engine that nobody here reads
    assert sources(everything(sampler, ENGINE), "requests_running") == {"engine", "sidecar"}


def test_logs_are_the_last_source() -> None:
    told = replace(READING, requests_waiting=9.0)
    sampler = EngineSampler("n", Traffic(), from_logs=lambda engine: (told,) if engine == "e" else ())
    known = replace(READING, requests_waiting=None, queue_seconds=None)
    found = everything(sampler, EngineSnapshot(status=STATUS, readings=(known,)))
    assert found['engineroom_llm_requests_waiting{engine="e",model="m",node="n",source="log"}'] == 9
    assert sources(found, "queue_seconds") == {"log"}
    assert sources(found, "tokens_total") == {"engine"}


@pytest.mark.parametrize(
    ("state", "live", "up", "ready"),
    [
        ("ready", True, 1, 1),
        ("not_ready", True, 1, 0),
        ("starting", True, 1, 0),
        ("starting", False, None, 0),
        ("down", False, 0, 0),
        ("unknown_format", True, 0, 0),
    ],
)
def test_health(state: EngineState, live: bool, up: int | None, ready: int) -> None:
    status = replace(STATUS, state=state, live=live, started=True, restarts=2, ready_after_seconds=4.5)
    found = by_series(EngineSampler("n", Traffic()).samples(EngineSnapshot(status=status)))
    labels = '{engine="e",kind="vllm",node="n"}'
    assert found.get("engineroom_llm_up" + labels) == up
    assert found["engineroom_llm_ready" + labels] == ready
    assert found["engineroom_llm_live" + labels] == live
    assert found["engineroom_llm_started" + labels] == 1
    assert found["engineroom_llm_ready_after_seconds" + labels] == 4.5
    assert found['engineroom_engine_restarts_total{engine="e",node="n"}'] == 2
    assert found['engineroom_engine_crash_looping{engine="e",node="n"}'] == 0


def test_of_a_server_out_of_reach_nobody_says_that_it_is_down() -> None:
    status = replace(STATUS, url="", state="unknown_format", live=None)
    found = by_series(EngineSampler("n", Traffic()).samples(EngineSnapshot(status=status)))
    assert not [key for key in found if key.startswith(("engineroom_llm_up", "engineroom_llm_ready"))]
    worker = replace(STATUS, url="", part="worker", live=True)
    found = by_series(EngineSampler("n", Traffic()).samples(EngineSnapshot(status=worker)))
    assert found['engineroom_llm_up{engine="e",kind="vllm",node="n"}'] == 1


def test_info_tells_version_role_and_group_of_each_model() -> None:
    status = replace(STATUS, version="1.2", role="prefill", group="10.0.0.1:29500", service="chat")
    models = (READING, replace(READING, model="lora", role="decode"))
    found = by_series(EngineSampler("n", Traffic()).samples(EngineSnapshot(status=status, readings=models)))
    rest = 'node="n",part="server",role="%s",service="chat",version="1.2"}'
    start = 'engineroom_llm_info{engine="e",group="10.0.0.1:29500",kind="vllm",model="%s",'
    assert found[start % "m" + rest % "prefill"] == 1
    assert found[start % "lora" + rest % "decode"] == 1
    without = by_series(EngineSampler("n", Traffic()).samples(EngineSnapshot(status=STATUS)))
    assert without['engineroom_llm_info{engine="e",kind="vllm",node="n",part="server"}'] == 1


def test_every_published_series_is_in_the_catalogue_with_its_labels() -> None:
    traffic = Traffic()
    traffic.add("other", RECORD)
    status = replace(
        STATUS, version="1", role="decode", group="g", service="s", live=True, started=False, ready_after_seconds=1.0,
        scrape_seconds=0.1,
    )  # fmt: skip
    engine = EngineSnapshot(status=status, readings=(replace(READING, role="decode"),))
    board = {"e": engine}
    sampler = EngineSampler("n", traffic)
    for key, _ in [*sampler.samples(engine), *sampler.sidecar_samples(board)]:
        metric = BY_NAME.get(key.name) or next(
            m
            for m in CATALOGUE
            if m.type == "histogram" and key.name in {m.name + s for s in ("_bucket", "_sum", "_count")}
        )
        assert {name for name, _ in key.labels} <= {*metric.labels, "le"}, key
