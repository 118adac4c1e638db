"""The page against prometheus_client's, byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.metrics.published import histogram
from agent.core.metrics.published_gpu import gpu_samples
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.readings import Histogram
from exporters import prometheus
from tests.support import client_page

GPU = GpuReading(
    uuid="GPU-1",
    index=0,
    model='odd "name"\\\n',
    read_at_ns=1,
    state="ok",
    power_watts=70.5,
    energy_joules=5.0,
    energy_source="counter",
    memory_used_bytes=10**11 + 1,
    memory_total_bytes=2 * 10**11,
)
SAMPLES = [
    *gpu_samples("n", GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU,))),
    *histogram(
        "engineroom_llm_request_duration_seconds",
        Histogram(bounds=(2.0,), counts=(1.0, 3.0), sum=9.0),
        (("node", "n"),),
    ),
]


@pytest.mark.parametrize("open_metrics", [False, True])
def test_the_same_bytes(open_metrics: bool) -> None:
    assert prometheus.render(SAMPLES, open_metrics=open_metrics) == client_page.render(
        SAMPLES, open_metrics=open_metrics
    )
    assert prometheus.render([], open_metrics=open_metrics) == client_page.render([], open_metrics=open_metrics)


@given(st.floats() | st.integers(-(2**62), 2**62) | st.floats(1e3, 1e9))
def test_numbers(value: float) -> None:
    key = SeriesKey("engineroom_gpu_power_watts")
    last = prometheus.render([Sample(key, value)]).decode().splitlines()[-1]
    assert last == f"{key.name} {floatToGoString(value)}"


@given(st.text(min_size=1))
def test_labels(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    samples = [Sample(SeriesKey("engineroom_gpu_power_watts", (("gpu", value),)), 1.0)]
    assert prometheus.render(samples) == client_page.render(samples)


def test_a_name_outside_the_catalogue_is_a_bug() -> None:
    with pytest.raises(prometheus.UnknownMetricError, match="engineroom_invented"):
        prometheus.render([Sample(SeriesKey("engineroom_invented"), 1.0)])
