"""Engines' own metrics code, run from their wheels: what our readings say is what that code was told, to the last one.

Long: the first run fetches the wheels (1.5 GB, of which a few megabytes are kept).
"""

import json
from math import inf, isclose
from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.readings import Histogram
from agent.engines.registry import classify
from tests.support.engine_pages import read_page
from tests.support.real_metrics.wheels import RUNS, Run, run_driver


@pytest.mark.long
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_reading_is_what_the_engine_was_told(run: Run, tmp_path: Path) -> None:
    page = (run_driver(run, tmp_path) / "metrics.prom").read_bytes()
    told = json.loads((tmp_path / "observed.json").read_text())
    scrape = Exposition().parse(page)
    assert (scrape.problems, scrape.malformed, scrape.duplicates) == ((), 0, 0)
    engine = classify(scrape)
    assert engine is not None
    assert engine.kind == run.package
    (reading,) = read_page(engine, page)
    assert reading.model == told["model"]
    for name, value in told["values"].items():
        assert getattr(reading, name) == value, name
    for name, counts in (("requests_total", reading.requests_total), ("tokens_total", reading.tokens_total)):
        wanted = told[name.removesuffix("_total")]
        assert counts is not None, name
        assert {kind: count for kind, count in counts.items() if count} == {k: n for k, n in wanted.items() if n}, name
    for name, observations in told["histograms"].items():
        agrees(name, getattr(reading, name), observations)


def agrees(name: str, histogram: Histogram | None, observations: list[float]) -> None:
    """Each observation in its bucket; of the sum only the order of adding may differ."""
    assert histogram is not None, name
    assert len(observations) > 0
    bounds = (*histogram.bounds, inf)
    assert histogram.counts == tuple(sum(seen <= bound for seen in observations) for bound in bounds), name
    assert histogram.sum is not None
    assert isclose(histogram.sum, sum(observations), rel_tol=1e-9), name
