from msgspec import structs

from agent.core.catalogue_types import NODE, Metric


def test_a_metric_has_no_unit_and_no_labels_unless_they_are_said() -> None:
    metric = Metric("engineroom_x", "gauge", "X.")
    assert (metric.labels, metric.unit) == ((), "")
    assert structs.replace(metric, labels=NODE).labels == ("node",)
