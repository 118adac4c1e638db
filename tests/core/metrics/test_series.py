import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.metrics.block import STALE
from agent.core.metrics.matchers import Matcher
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History, is_stale

ALL = (Matcher("__name__", "=~", ".+"),)
UP = SeriesKey("up", [("job", "a")])
LOAD = SeriesKey("load", [("job", "a"), ("Zone", "z")])


def points(
    history: History, *matchers: Matcher, start: int = 0, end: int = 10**15
) -> dict[str, list[tuple[int, object]]]:
    """Every series as (time, value), stale markers by name."""
    found = {}
    for window in history.select(matchers or ALL, start, end):
        values = [
            "stale" if stale else value
            for stale, value in zip(is_stale(window.values), window.values.tolist(), strict=True)
        ]
        name = dict(window.labels)["__name__"]
        assert name not in found
        found[name] = list(zip(window.times.tolist(), values, strict=True))
    return found


def test_scrapes_are_remembered_with_their_instants() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0), Sample(LOAD, 0.5)])
    history.append("gpu", 2000, [Sample(UP, 0.0), Sample(LOAD, 0.6)])
    assert points(history) == {"up": [(1000, 1.0), (2000, 0.0)], "load": [(1000, 0.5), (2000, 0.6)]}


def test_labels_are_sorted_and_hold_the_name() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(LOAD, 0.5)])
    assert history.select(ALL, 0, 1000)[0].labels == (("Zone", "z"), ("__name__", "load"), ("job", "a"))


def test_windows_are_open_on_the_left_and_closed_on_the_right() -> None:
    history = History()
    for at in (1000, 2000, 3000):
        history.append("gpu", at, [Sample(UP, float(at))])
    assert points(history, start=1000, end=3000) == {"up": [(2000, 2000.0), (3000, 3000.0)]}
    assert points(history, start=3000, end=4000) == {}


def test_series_missing_from_a_scrape_end_with_one_stale_marker() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0), Sample(LOAD, 0.5)])
    history.append("gpu", 2000, [Sample(UP, 1.0)])
    history.append("gpu", 3000, [Sample(UP, 1.0)])
    history.append("gpu", 4000, [Sample(UP, 1.0), Sample(LOAD, 0.7)])
    assert points(history)["load"] == [(1000, 0.5), (2000, "stale"), (4000, 0.7)]


def test_stale_marker_has_prometheus_bits() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0)])
    history.mark_stale("gpu", 2000)
    value = history.select(ALL, 1000, 2000)[0].values[0]
    assert struct.pack(">d", value).hex() == "7ff0000000000002"
    assert struct.pack(">d", STALE).hex() == "7ff0000000000002"


def test_failed_scrape_ends_all_series_of_its_source_only() -> None:
    history = History()
    history.append("a", 1000, [Sample(UP, 1.0)])
    history.append("b", 1000, [Sample(LOAD, 1.0)])
    history.mark_stale("a", 2000)
    history.mark_stale("a", 3000)
    history.mark_stale("never seen", 3000)
    assert points(history) == {"up": [(1000, 1.0), (2000, "stale")], "load": [(1000, 1.0)]}


def test_a_real_nan_stays_a_sample_whatever_its_bits() -> None:
    ours = struct.unpack(">d", bytes.fromhex("7ff0000000000003"))[0]  # the bits of our own hole
    history = History()
    history.append("gpu", 1000, [Sample(UP, math.nan), Sample(LOAD, ours)])
    found = points(history)
    assert [math.isnan(found[name][0][1]) for name in ("up", "load")] == [True, True]  # type: ignore[arg-type]


@pytest.mark.parametrize("at_ms", [1000, 999])
def test_scrapes_out_of_order_are_refused_and_counted(at_ms: int) -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0)])
    history.append("gpu", at_ms, [Sample(UP, 2.0), Sample(LOAD, 2.0)])
    assert points(history) == {"up": [(1000, 1.0)]}
    assert history.stats.dropped_samples == {"out_of_order": 2}


def test_a_series_twice_in_one_scrape_counts_once() -> None:
    history = History()
    for at in (1000, 2000):
        history.append("gpu", at, [Sample(UP, 1.0), Sample(UP, 2.0), Sample(LOAD, 3.0)])
    assert points(history) == {"up": [(1000, 1.0), (2000, 1.0)], "load": [(1000, 3.0), (2000, 3.0)]}
    assert history.stats.dropped_samples == {"duplicate": 2}


def test_the_same_series_of_two_sources_is_returned_twice() -> None:
    history = History()
    history.append("a", 1000, [Sample(UP, 1.0)])
    history.append("b", 1500, [Sample(UP, 2.0)])
    assert [window.values.tolist() for window in history.select(ALL, 0, 2000)] == [[1.0], [2.0]]


def test_what_left_the_retention_is_forgotten() -> None:
    history = History(retention_seconds=10)
    for second in range(1, 31):
        samples = [Sample(UP, float(second))] + ([Sample(LOAD, 1.0)] if second < 5 else [])
        history.append("gpu", second * 1000, samples)
    found = points(history)
    assert list(found) == ["up"]
    assert found["up"][0][0] >= 20_000
    assert found["up"][-1] == (30_000, 30.0)
    assert history.stats.series == 1


def test_a_source_that_no_longer_reports_is_forgotten() -> None:
    history = History(retention_seconds=10)
    history.append("gone", 1000, [Sample(LOAD, 1.0)])
    for second in range(2, 31):
        history.append("gpu", second * 1000, [Sample(UP, 1.0)])
    assert list(points(history)) == ["up"]
    assert history.stats.series == 1


def test_columns_of_vanished_series_are_used_again() -> None:
    history = History(retention_seconds=10)
    for second in range(1, 2000):
        fresh = SeriesKey("job_info", [("id", str(second))])
        history.append("gpu", second * 1000, [Sample(UP, 1.0), Sample(fresh, float(second))])
    assert history.stats.series < 20
    assert history.stats.bytes < 200_000
    window = history.select((Matcher("id", "=", "1998"),), 0, 10**9)[0]
    assert window.times.tolist() == [1_998_000, 1_999_000]
    assert is_stale(window.values).tolist() == [False, True]


def test_many_series_that_left_give_their_memory_back() -> None:
    history = History(retention_seconds=10)
    many = [Sample(SeriesKey("x", [("n", str(n))]), 1.0) for n in range(500)]
    history.append("gpu", 1000, [Sample(UP, 1.0), *many])
    before = history.stats.bytes
    for second in range(2, 40):
        history.append("gpu", second * 1000, [Sample(UP, float(second))])
    assert history.stats.series == 1
    assert history.stats.bytes < before / 5
    assert points(history)["up"][-1] == (39_000, 39.0)


def test_drop_forgets_at_once() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0)])
    history.drop("gpu")
    history.drop("gpu")
    assert points(history) == {}
    assert history.stats.series == history.stats.bytes == 0
    history.append("gpu", 500, [Sample(UP, 2.0)])
    assert points(history) == {"up": [(500, 2.0)]}


def test_series_that_do_not_fit_are_refused_and_the_rest_goes_on() -> None:
    history = History(max_bytes=200_000)
    keys = [SeriesKey("x", [("n", str(n))]) for n in range(1000)]
    for second in range(1, 11):
        history.append("gpu", second * 1000, [Sample(key, float(second)) for key in keys])
    stats = history.stats
    assert 100 < stats.series < 1000
    assert stats.bytes <= 200_000
    assert stats.dropped_series == 10 * (1000 - stats.series)
    assert stats.dropped_samples["full"] == stats.dropped_series
    window = history.select((Matcher("n", "=", "0"),), 0, 10**9)[0]
    assert window.values.tolist() == [float(second) for second in range(1, 11)]


def test_when_rows_do_not_fit_the_oldest_go_early_and_are_counted() -> None:
    history = History(max_bytes=60_000)
    keys = [SeriesKey("x", [("n", str(n))]) for n in range(50)]
    for second in range(1, 1001):
        history.append("gpu", second * 1000, [Sample(key, float(second)) for key in keys])
    stats = history.stats
    assert stats.bytes <= 60_000
    assert stats.samples + stats.dropped_samples["shortened"] == 50_000
    assert points(history, Matcher("n", "=", "7"))["x"][-1] == (1_000_000, 1000.0)


def test_empty_history() -> None:
    history = History()
    history.append("gpu", 1000, [])
    assert points(history) == {}
    assert history.stats.samples == 0


def test_selection_sees_series_that_come_later() -> None:
    history = History()
    history.append("gpu", 1000, [Sample(UP, 1.0)])
    assert list(points(history, Matcher("job", "=", "a"))) == ["up"]
    history.append("gpu", 2000, [Sample(UP, 1.0), Sample(LOAD, 1.0)])
    assert set(points(history, Matcher("job", "=", "a"))) == {"up", "load"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sets(st.integers(0, 60)), st.sampled_from(["a", "b"])), min_size=1, max_size=120
    )
)
def test_history_answers_as_a_plain_list_does(scrapes: list[tuple[int, set[int], str]]) -> None:
    retention = 40_000
    history = History(retention_seconds=retention / 1000)
    keys = [SeriesKey("x", [("n", str(n))]) for n in range(61)]
    plain: dict[tuple[str, int], list[tuple[int, float]]] = {}
    alive: dict[str, set[int]] = {"a": set(), "b": set()}
    now = 0
    for step, present, source in scrapes:
        now += step * 1000
        history.append(source, now, [Sample(keys[n], float(now + n)) for n in sorted(present)])
        for n in present:
            plain.setdefault((source, n), []).append((now, float(now + n)))
        for n in alive[source] - present:
            plain.setdefault((source, n), []).append((now, -1.0))
        alive[source] = present
    found = sorted(
        (
            int(dict(window.labels)["n"]),
            list(
                zip(window.times.tolist(), np.where(is_stale(window.values), -1.0, window.values).tolist(), strict=True)
            ),
        )
        for window in history.select(ALL, now - retention // 2, now)
    )
    wanted = sorted(
        (n, kept)
        for (_, n), samples in plain.items()
        if (kept := [(at, value) for at, value in samples if at > now - retention // 2])
    )
    assert found == wanted
