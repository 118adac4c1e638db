from agent.core.catalogue import BY_NAME, CATALOGUE
from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot
from agent.core.metrics.published import engine_samples, gpu_samples, traffic_samples
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus, Histogram
from agent.core.requests import RequestRecord
from agent.core.traffic import Traffic

GPU = GpuReading(
    uuid="GPU-1",
    index=0,
    model="NVIDIA H100 80GB HBM3",
    read_at_ns=1,
    state="ok",
    utilization_ratio=0.0,
    memory_used_bytes=96,
    memory_total_bytes=100,
    temperature_celsius=41,
    clocks_hertz={"sm": 1e9},
    energy_joules=5.0,
    energy_source="counter",
    throttle_seconds={"sw_power_cap": 2.0},
    processes=(GpuProcess(pid=1, kind="compute", memory_used_bytes=90), GpuProcess(pid=2, kind="compute")),
)
LOST = GpuReading(uuid="GPU-2", index=1, model="NVIDIA H100 80GB HBM3", read_at_ns=1, state="lost")
READING = EngineReading(
    engine="e",
    kind="vllm",
    url="http://127.0.0.1:8000",
    model="m",
    read_at_ns=1,
    requests_running=0.0,
    requests_total={"ok": 3.0},
    request_duration_seconds=Histogram(bounds=(1.0, 2.0), counts=(1.0, 2.0, 3.0), sum=4.0),
)
ENGINE = EngineSnapshot(
    status=EngineStatus(engine="e", kind="vllm", url="http://127.0.0.1:8000", state="ready"), readings=(READING,)
)


def as_dict(samples: object) -> dict[str, float]:
    return {repr(sample.key): sample.value for sample in samples}  # type: ignore[attr-defined]


def test_what_was_not_reported_is_absent_and_zero_is_zero() -> None:
    got = as_dict(gpu_samples("n", GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU, LOST))))
    one = 'gpu="0",gpu_model="NVIDIA H100 80GB HBM3",node="n",uuid="GPU-1"'
    assert got[f"engineroom_gpu_utilization_ratio{{{one}}}"] == 0.0
    assert got[f"engineroom_gpu_memory_used_ratio{{{one}}}"] == 0.96
    assert got[f"engineroom_gpu_processes{{{one}}}"] == 2
    assert not [key for key in got if "power_watts" in key]
    lost = [key for key in got if "GPU-2" in key]
    assert sorted(key.split("{")[0] for key in lost) == [
        "engineroom_gpu_info",
        "engineroom_gpu_state",
        "engineroom_gpu_up",
    ]
    assert got['engineroom_gpu_up{gpu="1",gpu_model="NVIDIA H100 80GB HBM3",node="n",uuid="GPU-2"}'] == 0


def test_one_source_feeds_each_signal() -> None:
    traffic = Traffic()
    alone = as_dict(engine_samples("n", ENGINE, traffic))
    assert alone['engineroom_llm_requests_total{engine="e",model="m",node="n",outcome="ok",source="engine"}'] == 3
    traffic.add(
        "e",
        RequestRecord(
            id="r", upstream="127.0.0.1:8000", path="/", started_at_ns=0, ended_at_ns=1, outcome="ok", model="m"
        ),
    )
    both = as_dict(engine_samples("n", ENGINE, traffic)) | as_dict(traffic_samples("n", traffic))
    totals = [key for key in both if key.startswith("engineroom_llm_requests_total")]
    assert totals
    assert all('source="sidecar"' in key for key in totals)
    assert both['engineroom_llm_requests_running{engine="e",model="m",node="n",source="engine"}'] == 0


def test_every_published_series_is_in_the_catalogue_with_its_labels() -> None:
    traffic = Traffic()
    traffic.add(
        "e",
        RequestRecord(
            id="r", upstream="u", path="/", started_at_ns=0, ended_at_ns=9, first_token_at_ns=4, outcome="ok", model="m"
        ),
    )
    samples = [
        *gpu_samples(
            "n", GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU,), nvml_calls={"f": 1}, nvml_call_seconds={"f": 1.0})
        ),
        *engine_samples("n", ENGINE, Traffic()),
        *traffic_samples("n", traffic),
    ]
    for key, _ in samples:
        metric = BY_NAME.get(key.name) or next(
            m
            for m in CATALOGUE
            if m.type == "histogram" and key.name in {m.name + s for s in ("_bucket", "_sum", "_count")}
        )
        assert {name for name, _ in key.labels} <= {*metric.labels, "le"}, key
