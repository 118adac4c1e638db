import re

from agent.core.catalogue_workloads import WORKLOADS


def test_names_and_units_follow_the_rules() -> None:
    names = [metric.name for metric in WORKLOADS]
    assert len(names) == len(set(names))
    for metric in WORKLOADS:
        assert re.fullmatch(r"engineroom_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert not metric.unit or metric.name.endswith("_" + metric.unit)
        assert metric.labels[0] == "node"


def test_workloads_have_labels_that_no_scraper_renames() -> None:
    reserved = {"namespace", "pod", "container", "job", "instance"}
    assert not [metric.name for metric in WORKLOADS if reserved & set(metric.labels)]
