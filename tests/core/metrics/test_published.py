from agent.core.metrics.published import collect, format_bound, gauge, histogram, labelled, series_key
from agent.core.readings import Histogram

LABELS = (("node", "n"),)


def test_what_was_not_reported_has_no_sample() -> None:
    assert list(gauge("a", None, LABELS)) == []
    assert [sample.value for sample in gauge("a", 0, LABELS)] == [0.0]
    assert list(histogram("a", None, LABELS)) == []


def test_a_histogram_is_written_as_prometheus_stores_it() -> None:
    found = {
        repr(sample.key): sample.value for sample in histogram("a", Histogram(bounds=(1, 2.5), counts=(1, 2, 3)), ())
    }
    assert found == {'a_bucket{le="1.0"}': 1, 'a_bucket{le="2.5"}': 2, 'a_bucket{le="+Inf"}': 3, "a_count{}": 3}
    assert format_bound(float("inf")) == "+Inf"


def test_one_sample_for_each_entry() -> None:
    samples = collect(labelled("a", {"x": 1, "y": 2}, "of", LABELS), gauge("b", 3, ()))
    assert [(repr(sample.key), sample.value) for sample in samples] == [
        ('a{node="n",of="x"}', 1),
        ('a{node="n",of="y"}', 2),
        ("b{}", 3),
    ]


def test_the_same_series_has_the_same_key() -> None:
    assert series_key("a", LABELS) is series_key("a", LABELS)
