import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.metrics.published import histogram
from agent.core.metrics.published_gpu import gpu_samples
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.readings import Histogram
from exporters.prometheus import UnknownMetricError, render
from tests.support.components import need

GPU = GpuReading(
    uuid="GPU-1",
    index=0,
    model='odd "name"\\',
    read_at_ns=1,
    state="ok",
    power_watts=70.5,
    energy_joules=5.0,
    energy_source="counter",
    memory_used_bytes=1,
    memory_total_bytes=2,
)
SAMPLES = [
    *gpu_samples("n", GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU,))),
    *histogram(
        "engineroom_llm_request_duration_seconds",
        Histogram(bounds=(2.0,), counts=(1.0, 3.0), sum=9.0),
        (("node", "n"),),
    ),
]


def test_text_is_typed_and_parses_back_to_the_same_samples() -> None:
    families = {family.name: family for family in parse_text(render(SAMPLES).decode())}
    assert families["engineroom_gpu_energy_joules"].type == "counter"
    assert families["engineroom_llm_request_duration_seconds"].type == "histogram"
    got = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}
    assert got == {(key.name, key.labels): value for key, value in SAMPLES}


def test_openmetrics_is_valid_and_carries_units() -> None:
    page = render(SAMPLES, open_metrics=True).decode()
    families = {family.name: family for family in parse_openmetrics(page)}
    assert families["engineroom_gpu_energy_joules"].unit == "joules"
    assert page.endswith("# EOF\n")


def test_a_name_outside_the_catalogue_is_a_bug() -> None:
    with pytest.raises(UnknownMetricError, match="engineroom_invented"):
        render([Sample(SeriesKey("engineroom_invented"), 1.0)])


@pytest.mark.component("promtool")
def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(
        [need("promtool"), "check", "metrics"], input=render(SAMPLES), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
