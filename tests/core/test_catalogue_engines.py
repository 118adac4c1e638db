from agent.core.catalogue_engines import ENGINES, LLM
from agent.core.election import RULES

BY_NAME = {metric.name: metric for metric in ENGINES}


def test_every_signal_that_is_elected_has_a_metric_that_names_its_source() -> None:
    for signal in RULES:
        assert BY_NAME[f"engineroom_llm_{signal}"].labels[: len(LLM)] == LLM


def test_histograms_are_told_by_engine_model_and_source_alone() -> None:
    assert all(metric.labels == LLM for metric in ENGINES if metric.type == "histogram")
