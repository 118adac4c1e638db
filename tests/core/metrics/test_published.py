from agent.core.catalogue import BY_NAME, CATALOGUE
from agent.core.metrics.published import engine_samples, traffic_samples
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus, Histogram
from agent.core.requests import RequestRecord
from agent.core.traffic import Traffic

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
