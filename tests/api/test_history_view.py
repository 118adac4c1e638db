import re

import pytest

from agent.api.history_view import LATEST_MS, QUERIES, STEP_MS, WINDOW_MS, ChartCache, chart_caches, frame_for, latest
from agent.core.catalogue import BY_NAME
from agent.core.metrics.promql import parse
from tests.support.api import WaveQueries

NOW_MS = 1_763_894_400_000


def test_the_first_refresh_asks_for_the_whole_window_later_ones_for_what_is_new():
    queries = WaveQueries()
    cache = ChartCache("engineroom_gpu_power_watts", ("uuid",))
    first = cache.refresh(queries, NOW_MS)
    cache.refresh(queries, NOW_MS + 1_000)
    assert [(end - start) for _, start, end in queries.asked] == [WINDOW_MS]
    cache.refresh(queries, NOW_MS + STEP_MS)
    assert queries.asked[1][1:] == (NOW_MS - 3 * STEP_MS, NOW_MS + STEP_MS)
    points = cache.series["GPU-5c9f1a2e-0000",]
    assert len(points) == len(first["GPU-5c9f1a2e-0000",]) == WINDOW_MS // STEP_MS + 1


def test_refreshing_in_parts_gives_what_one_refresh_gives():
    queries = WaveQueries()
    parts = ChartCache("engineroom_gpu_power_watts", ("uuid",))
    for now in range(NOW_MS, NOW_MS + 2 * WINDOW_MS, 37_000):
        parts.refresh(queries, now)
    whole = ChartCache("engineroom_gpu_power_watts", ("uuid",))
    assert parts.series == whole.refresh(queries, now)


def test_a_clock_set_back_starts_over():
    queries = WaveQueries()
    cache = ChartCache("engineroom_gpu_power_watts", ("uuid",))
    cache.refresh(queries, NOW_MS)
    cache.refresh(queries, NOW_MS - 3_600_000)
    assert max(t for points in cache.series.values() for t, _ in points) == NOW_MS - 3_600_000


def test_a_series_that_ended_leaves_when_its_points_do():
    queries = WaveQueries()
    cache = ChartCache("engineroom_gpu_power_watts", ("uuid",))
    cache.refresh(queries, NOW_MS)
    queries.labels["gpu"] = []
    assert cache.refresh(queries, NOW_MS + 60_000)
    assert not cache.refresh(queries, NOW_MS + WINDOW_MS + 60_000)


def test_a_young_agent_shows_a_short_window():
    spans = [frame_for(NOW_MS, uptime) for uptime in (3, 90, 200, 500, 1e6)]
    assert [(f.end_ms - f.start_ms) // 60_000 for f in spans] == [1, 2, 5, 10, 10]


def test_an_old_value_is_not_the_latest():
    frame = frame_for(NOW_MS, 1e6)
    assert latest([(NOW_MS - STEP_MS, 4.0)], frame) == 4.0
    assert latest([(NOW_MS - 60_000, 4.0)], frame) is None
    assert latest(None, frame) is None


def test_every_chart_has_a_cache():
    assert chart_caches().keys() == QUERIES.keys()


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_promql_over_metrics_and_labels_of_the_catalogue(name: str):
    query, labels = QUERIES[name]
    parse(query)
    (metric,) = set(re.findall(r"engineroom_\w+", query))
    found = BY_NAME[metric.removesuffix("_bucket")]
    assert set(labels) <= set(found.labels)
    assert ("_bucket" in metric) == (found.type == "histogram")


def test_a_longer_window_than_before_is_asked_anew():
    queries = WaveQueries()
    cache = ChartCache(*QUERIES["requests"])
    (short, *_) = cache.refresh(queries, NOW_MS, LATEST_MS).values()
    assert len(short) == LATEST_MS // STEP_MS + 1
    (whole, *_) = cache.refresh(queries, NOW_MS).values()
    assert len(whole) == WINDOW_MS // STEP_MS + 1
    (short, *_) = cache.refresh(queries, NOW_MS + STEP_MS, LATEST_MS).values()
    assert len(short) == LATEST_MS // STEP_MS + 1
