import pytest

from agent.api.adapters import HistoryQueries
from agent.api.engine_figures import read_figures, read_latencies
from agent.core.metrics.series import History
from agent.core.quantiles import mean, quantile
from tests.support.engine_figures import NOW_MS, STEP_MS, history, samples

SERVED = ("chat", "m")
RULE = """histogram_quantile(0.99,
  sum by (node, engine, model, source, le) (rate(engineroom_llm_request_duration_seconds_bucket[5m])))"""


def test_a_quantile_is_the_one_of_the_rule_with_its_bounds() -> None:
    queries = HistoryQueries(history([SERVED, ("chat", "other"), ("embed", "e")]))
    found = read_latencies(queries, NOW_MS, sums=True)
    assert found.keys() == {SERVED, ("chat", "other"), ("embed", "e")}
    latency = found[SERVED]["request_duration_seconds"]
    told = quantile(latency.histogram, 0.99)
    assert told is not None
    by_rule = next(line for line in queries.instant(RULE, NOW_MS).lines if line.labels["model"] == "m")
    assert told.value == pytest.approx(by_rule.points[-1][1])
    assert (told.lower, told.upper, latency.source) == (1.5, 2.5, "engine")
    assert mean(latency.histogram) == pytest.approx((0.9 * 6 + 1.2 * 2 + 1.9 * 0.3) / 8.3)


def test_sums_are_asked_only_where_they_are_wanted() -> None:
    found = read_latencies(HistoryQueries(history([SERVED])), NOW_MS, sums=False)
    assert {latency.histogram.sum for latency in found[SERVED].values()} == {None}


def test_rates_totals_and_gauges_have_their_source() -> None:
    found = read_figures(HistoryQueries(history([SERVED], "sidecar")), NOW_MS, 60)
    assert found.served() == [SERVED]
    assert found.rates[SERVED]["requests_total"].values == pytest.approx({"ok": 8.3 / 5, "error": 0.1 / 5})
    assert found.rates[SERVED]["tokens_total"].values["output"] == pytest.approx(300)
    assert found.totals[SERVED]["tokens_total"].values["input"] == 4000 * 72
    assert found.gauges[SERVED]["kv_cache_usage_ratio"].values == {"": 0.62}
    assert "requests_waiting" not in found.gauges[SERVED]
    assert {part[SERVED][signal].source for part in found[1:] for signal in part[SERVED]} == {"sidecar"}


@pytest.mark.parametrize(("first", "then"), [("engine", "sidecar"), ("sidecar", "engine")])
def test_where_the_source_changed_within_the_window_the_present_one_counts(first: str, then: str) -> None:
    kept = History()
    for at in range(61):
        source = first if at < 50 else then
        kept.append("engine chat", NOW_MS - (60 - at) * STEP_MS, samples("chat", "m", at, source))
    found = read_figures(HistoryQueries(kept), NOW_MS, 300)
    assert found.latencies[SERVED]["queue_seconds"].source == then
    assert found.rates[SERVED]["requests_total"].source == then
    # An engine that has gone still shows what it did.
    kept.append("engine chat", NOW_MS + STEP_MS, [])
    gone = read_figures(HistoryQueries(kept), NOW_MS + STEP_MS, 300)
    assert gone.latencies[SERVED]["queue_seconds"].source == first
    assert gone.gauges == {}


def test_nothing_happened_and_nothing_known_are_two_things() -> None:
    assert read_figures(HistoryQueries(History()), NOW_MS, 300).served() == []
    kept = History()
    for at in range(10):
        kept.append("engine chat", NOW_MS - (9 - at) * STEP_MS, samples("chat", "m", 0, "engine"))
    found = read_figures(HistoryQueries(kept), NOW_MS, 300)
    assert found.rates[SERVED]["requests_total"].values == {"ok": 0, "error": 0}
    assert quantile(found.latencies[SERVED]["queue_seconds"].histogram, 0.5) is None
