import re

import pytest

from agent.core.catalogue import CATALOGUE
from agent.core.catalogue_types import Metric

UNITS = {"ratio", "bytes", "celsius", "watts", "joules", "hertz", "seconds"}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_types_and_units_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"engineroom_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.help.endswith(".")
    base = metric.name.removesuffix("_total")
    if metric.unit:
        assert metric.unit in UNITS
        assert base.endswith("_" + metric.unit)
    else:
        assert base.rsplit("_", 1)[-1] not in UNITS or base.endswith("per_second"), "the name has a unit, so say it"
    assert metric.labels[0] == "node"


def test_names_are_unique() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))


def test_no_tenant_on_histograms() -> None:
    assert not [metric.name for metric in CATALOGUE if metric.type == "histogram" and "tenant" in metric.labels]
