"""Many pages of metrics become one whose counters never go back."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric

from agent.sidecar.workers.metrics import DURABLE, MergedPages, Page, read_page

PAGE = """\
# HELP engineroom_sidecar_forwarded_total Requests.
# TYPE engineroom_sidecar_forwarded_total counter
engineroom_sidecar_forwarded_total {0}
# HELP engineroom_sidecar_requests_in_flight Now.
# TYPE engineroom_sidecar_requests_in_flight gauge
engineroom_sidecar_requests_in_flight {0}
"""


def page(lines: str) -> Page:
    return read_page(lines)


def counted(value: float) -> Page:
    return page(PAGE.format(value))


def values(merged: MergedPages, more: list[Metric] | None = None) -> dict[str, float]:
    found = {}
    for family in merged.families(more or []):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}".replace("{}", "")] = sample.value
    return found


def test_counters_and_gauges_are_summed() -> None:
    merged = MergedPages()
    merged.take("0", counted(3))
    merged.take("1", counted(4))
    assert values(merged) == {"engineroom_sidecar_forwarded_total": 7, "engineroom_sidecar_requests_in_flight": 7}


def test_histograms_are_summed_bucket_by_bucket() -> None:
    text = """\
# TYPE engineroom_sidecar_seconds histogram
engineroom_sidecar_seconds_bucket{{le="2.0"}} {0}
engineroom_sidecar_seconds_bucket{{le="+Inf"}} {1}
engineroom_sidecar_seconds_sum {2}
engineroom_sidecar_seconds_count {1}
"""
    merged = MergedPages()
    merged.take("0", page(text.format(1, 2, 5.5)))
    merged.take("1", page(text.format(0, 3, 30)))
    assert values(merged) == {
        "engineroom_sidecar_seconds_bucket{le=2.0}": 1,
        "engineroom_sidecar_seconds_bucket{le=+Inf}": 5,
        "engineroom_sidecar_seconds_sum": 35.5,
        "engineroom_sidecar_seconds_count": 5,
    }


def test_of_states_the_worst_is_told() -> None:
    text = """\
# TYPE engineroom_delivery_up gauge
engineroom_delivery_up{{stream="records"}} {0}
# TYPE engineroom_spool_blocked gauge
engineroom_spool_blocked{{stream="records"}} {1}
# TYPE engineroom_delivery_oldest_age_seconds gauge
engineroom_delivery_oldest_age_seconds{{stream="records"}} {2}
"""
    merged = MergedPages()
    merged.take("0", page(text.format(1, 0, 2)))
    merged.take("1", page(text.format(0, 1, 1)))
    assert list(values(merged).values()) == [0, 1, 2]


def test_what_only_one_reports_is_told_as_it_is() -> None:
    merged = MergedPages()
    merged.take("0", page('# TYPE a_total counter\na_total{x="1"} 1\n'))
    merged.take("1", page('# TYPE a_total counter\na_total{x="2"} 5\n'))
    assert values(merged) == {"a_total{x=1}": 1, "a_total{x=2}": 5}


def test_a_process_has_its_own_numbers() -> None:
    merged = MergedPages()
    merged.take("0", page("# TYPE process_open_fds gauge\nprocess_open_fds 5\n"))
    merged.take("1", page("# TYPE process_open_fds gauge\nprocess_open_fds 6\n"))
    own = Metric("process_open_fds", "Files.", "gauge")
    own.add_sample("process_open_fds", {"worker": "parent"}, 9)
    assert values(merged, [own]) == {
        "process_open_fds{worker=0}": 5,
        "process_open_fds{worker=1}": 6,
        "process_open_fds{worker=parent}": 9,
    }
    merged.replaced("0")
    assert values(merged) == {"process_open_fds{worker=1}": 6}


def test_who_does_not_answer_keeps_counters_and_has_no_gauges() -> None:
    merged = MergedPages()
    merged.take("0", counted(3))
    merged.take("1", counted(4))
    merged.take("1", None)
    assert values(merged) == {"engineroom_sidecar_forwarded_total": 7, "engineroom_sidecar_requests_in_flight": 3}


def test_what_a_dead_worker_had_counted_stays_in_the_sum() -> None:
    merged = MergedPages()
    merged.take("0", counted(3))
    merged.replaced("0")
    assert values(merged) == {"engineroom_sidecar_forwarded_total": 3}
    merged.take("0", None)
    merged.take("0", counted(1))
    assert values(merged) == {"engineroom_sidecar_forwarded_total": 4, "engineroom_sidecar_requests_in_flight": 1}
    merged.replaced("0")
    merged.replaced("0")  # died again before anybody had asked it
    assert values(merged) == {"engineroom_sidecar_forwarded_total": 4}


def test_what_goes_on_from_the_disk_is_not_counted_twice() -> None:
    text = '# TYPE engineroom_delivery_items_total counter\nengineroom_delivery_items_total{{result="delivered"}} {0}\n'
    merged = MergedPages()
    merged.take("0", page(text.format(100)))
    merged.replaced("0")
    assert values(merged) == {"engineroom_delivery_items_total{result=delivered}": 100}
    merged.take("0", page(text.format(101)))
    assert values(merged) == {"engineroom_delivery_items_total{result=delivered}": 101}


def test_the_durable_ones_are_in_the_catalogue() -> None:
    from agent.core.catalogue import BY_NAME

    assert all(BY_NAME[name].type == "counter" for name in DURABLE)


ADDED, DIED, SILENT = "added", "died", "silent"


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([ADDED, ADDED, DIED, SILENT]), st.integers(0, 9)), max_size=40
    )
)
def test_the_sum_is_everything_that_was_seen_and_never_goes_back(steps: list[tuple[int, str, int]]) -> None:
    merged = MergedPages()
    total, now, last = 0, dict.fromkeys(range(3), 0), 0.0
    for worker, what, number in steps:
        if what == ADDED:
            now[worker] += number
            total += number
            merged.take(str(worker), counted(now[worker]))
        elif what == SILENT:
            merged.take(str(worker), None)
        else:
            now[worker] = 0
            merged.replaced(str(worker))
        told = values(merged).get("engineroom_sidecar_forwarded_total", 0.0)
        assert told == total
        assert told >= last
        last = told
