"""Samples as metric families: what prometheus-client writes of them is what the agent reads."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.requests import RequestRecord, Usage
from agent.sidecar.admin.families import families
from agent.sidecar.records.histograms import Histograms

PREFIX = "engineroom_sidecar_"


def some() -> Histograms:
    histograms = Histograms()
    usage = Usage(input_tokens=3, output_tokens=5)
    histograms.observe(
        RequestRecord(
            id="r", upstream="u:1", path="/", started_at_ns=0, ended_at_ns=3, outcome="ok", model='a"b', usage=usage
        )
    )
    return histograms


def test_families_have_the_types_and_texts_of_the_catalogue() -> None:
    made = {family.name: family for family in families(some().samples())}
    duration, tokens = made[PREFIX + "request_duration_seconds"], made[PREFIX + "tokens"]
    assert (duration.type, duration.documentation) == ("histogram", "First byte in to last byte out.")
    assert {s.name for s in duration.samples} == {duration.name + suffix for suffix in ("_bucket", "_sum", "_count")}
    assert (tokens.type, {s.name for s in tokens.samples}) == ("counter", {PREFIX + "tokens_total"})


def test_nothing_is_lost_on_the_way_to_the_page() -> None:
    histograms = some()

    class Once(Collector):
        def collect(self):
            return families(histograms.samples())

    registry = CollectorRegistry()
    registry.register(Once())
    page = Exposition().parse(generate_latest(registry))
    assert {(s.key, s.value) for s in page.samples} == {(s.key, s.value) for s in histograms.samples()}


def test_a_name_that_is_not_in_the_catalogue_is_a_bug() -> None:
    with pytest.raises(KeyError, match="engineroom_made_up"):
        families([Sample(SeriesKey("engineroom_made_up"), 1.0)])
