"""The parser of metrics pages: formats by tables, prometheus_client as judge, bad pages, the second page."""

import random
from math import inf, isnan, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.scrape import Scrape, family_of

CAPTURES = Path(__file__).parents[2] / "engines"


def values(scrape: Scrape) -> dict[str, float]:
    return {repr(sample.key): sample.value for sample in scrape.samples}


def read(page: bytes) -> Scrape:
    return Exposition().parse(page)


GOOD = [
    pytest.param(b"up 1", {"up{}": 1.0}, id="bare"),
    pytest.param(b'a{b="c"} 2.5e3\n', {'a{b="c"}': 2500.0}, id="label"),
    pytest.param(b'a{z="1",b="2",} 3\n', {'a{b="2",z="1"}': 3.0}, id="order and trailing comma"),
    pytest.param(b'a { b = "c" , d="e" }   4\n', {'a{b="c",d="e"}': 4.0}, id="spaces"),
    pytest.param(b'\ta{b="c"}\t5\t\n', {'a{b="c"}': 5.0}, id="tabs"),
    pytest.param(b"a{} 6\n", {"a{}": 6.0}, id="empty braces"),
    pytest.param(b'a{b=""} 7\n', {"a{}": 7.0}, id="empty value is no label"),
    pytest.param(b"a +Inf\nb -Inf\n", {"a{}": inf, "b{}": -inf}, id="infinities"),
    pytest.param(b"a 1 1700000000000\n", {"a{}": 1.0}, id="timestamp"),
    pytest.param(b"a 1 1700000000.123\n", {"a{}": 1.0}, id="openmetrics timestamp"),
    pytest.param(b'a_bucket{le="1"} 1 # {t="x"} 0.5 17.1\n', {'a_bucket{le="1"}': 1.0}, id="exemplar"),
    pytest.param(b'a_total 1 17.1 # {t="x y"} 0.5\n', {"a_total{}": 1.0}, id="timestamp and exemplar"),
    pytest.param(b"a 1\r\nb 2\r\n", {"a{}": 1.0, "b{}": 2.0}, id="CRLF"),
    pytest.param(b"\n\na 1\n\n  \n# a comment\n#\nb 2\n", {"a{}": 1.0, "b{}": 2.0}, id="blank lines and comments"),
    pytest.param(rb'a{b="x\"y\\z\nw\q"} 1', {'a{b="x"y\\z\nw\\q"}': 1.0}, id="escapes"),
    pytest.param('a{b="模型 {},= x"} 1'.encode(), {'a{b="模型 {},= x"}': 1.0}, id="any text in a value"),
    pytest.param(b'{"my.metric"} 1\n{"my.metric",b="c"} 2\n', {"my.metric{}": 1, 'my.metric{b="c"}': 2}, id="quoted"),
    pytest.param(b'a{"b.c"="d"} 1\n', {'a{b.c="d"}': 1.0}, id="quoted label"),
    pytest.param(b"# TYPE a counter\na 1\n# EOF\n", {"a{}": 1.0}, id="openmetrics counter without _total"),
]


@pytest.mark.parametrize(("page", "expected"), GOOD)
def test_good_lines(page: bytes, expected: dict[str, float]) -> None:
    scrape = read(page)
    assert values(scrape) == expected
    assert scrape.problems == ()


def test_nan_is_a_value() -> None:
    (sample,) = read(b"a NaN\n").samples
    assert isnan(sample.value)


BAD = [
    (b"a", "'' is not a number"),
    (b"a b", "'b' is not a number"),
    (b"a 1_000", "'1_000' is not a number"),
    (b'a{b="c" 1', "not closed"),
    (b"a{b=c} 1", "not closed or not quoted"),
    (b'a{b="1",b="2"} 1', "label 'b' is given twice"),
    (b'a{"b"} 1', "label 'b' has no value"),
    (b'{a="b"} 1', "no metric name"),
    (b"1a 1", "no metric name"),
    (b"a 1 later", "'later' after the value is no timestamp"),
    (b"a 1 5 more", "text after the timestamp"),
    (b'a{b="\xff"} 1', "not UTF-8"),
    (b'a{b="' + b"x" * 70_000 + b'"} 1', "longer than 65536 bytes"),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_bad_line_is_told_with_its_number_and_the_rest_is_read(line: bytes, words: str) -> None:
    scrape = read(b"good 1\n" + line + b"\nfine 2\n")
    assert values(scrape) == {"good{}": 1.0, "fine{}": 2.0}
    assert scrape.malformed == 1
    assert scrape.problems[0].startswith("line 2: ")
    assert words in scrape.problems[0]


def test_only_the_first_problems_are_kept_and_all_are_counted() -> None:
    scrape = read(b"good 1\n" + b"bad\n" * 100)
    assert len(scrape.problems) == 5
    assert scrape.malformed == 100


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"", "the page is empty"),
        (b" \r\n\n", "the page is empty"),
        (b"<!doctype html>\n<html><body>metrics 1</body></html>", "this is HTML, not metrics"),
        (b'{"detail":"Not Found"}', "this is JSON, not metrics"),
        (b"{}", "this is JSON, not metrics"),
        (b"[1, 2]", "this is JSON, not metrics"),
        (b"\x00\x01\x02", "binary data"),
        (b"\x1f\x8b\x08abc", "binary data"),
        (b"# only comments\n", "no samples"),
        (b"lorem ipsum\n" * 5000, "none of the first 1000 lines is a metric"),
        (b"x\n" * 1_000_000, "none of the first 1000 lines is a metric"),
    ],
)
def test_page_that_is_no_metrics_page(page: bytes, words: str) -> None:
    scrape = read(page)
    assert scrape.samples == ()
    assert words in scrape.problems[-1]


def test_families() -> None:
    page = b"# HELP a_total What it counts.\n# TYPE a_total counter\na_total 1\n# TYPE b histogram\n# UNIT b seconds\n"
    scrape = read(page + b'b_bucket{le="+Inf"} 1\nb_sum 1\nb_count 1\nc 1\n# TYPE d untyped\nd 1\n')
    assert scrape.families["a_total"] == ("counter", "", "What it counts.")
    assert scrape.families["b"] == ("histogram", "seconds", "")
    assert [scrape.type_of(n) for n in ("a_total", "b_bucket", "b_sum", "b_count")] == ["counter", *["histogram"] * 3]
    assert [scrape.type_of(n) for n in ("c", "d")] == ["unknown", "unknown"]
    assert family_of(read(b"# TYPE a counter\na_total 1\n# EOF\n").families, "a_total").type == "counter"


def test_created_twins_are_dropped_and_real_gauges_of_that_name_stay() -> None:
    page = (
        b"# TYPE a_total counter\na_total 1\n# TYPE a_created gauge\na_created 1.7e9\n"
        b"# TYPE h histogram\nh_count 1\nh_created 1.7e9\n# TYPE kube_pod_created gauge\nkube_pod_created 1.6e9\n"
    )
    scrape = read(page)
    assert set(scrape.names()) == {"a_total", "h_count", "kube_pod_created"}
    assert "a_created" not in scrape.families


def test_pids_of_one_series_are_put_together() -> None:
    page = (
        b'# TYPE g gauge\ng{m="x",pid="1"} 0.2\ng{m="x",pid="2"} 0.7\ng{m="x",pid="3"} 0\n'
        b'g{pid="4"} NaN\ng{pid="5"} 3\n'
        b'# TYPE c counter\nc_total{pid="1"} 1\nc_total{pid="2"} 2\nother{pid="main"} 1\n'
    )
    scrape = read(page)
    assert values(scrape) == {'g{m="x"}': 0.7, "g{}": 3.0, "c_total{}": 3.0, 'other{pid="main"}': 1.0}
    assert scrape.duplicates == 0
    assert scrape.problems == ()


def test_series_given_twice() -> None:
    scrape = read(b'a{b="1",c="2"} 1\na{c="2",b="1"} 1\nd 1\nd 2\n')
    assert values(scrape) == {'a{b="1",c="2"}': 1.0, "d{}": 2.0}
    assert scrape.duplicates == 2
    (problem,) = scrape.problems  # repeating oneself is counted; contradicting oneself is told
    assert "line 4" in problem
    assert "as 1 and as 2" in problem


def test_labels_are_added_as_prometheus_does() -> None:
    scrape = Exposition(add_labels=(("instance", "h:1"), ("job", "vllm"))).parse(b'a{instance="other"} 1\nb 2\n')
    assert values(scrape) == {
        'a{exported_instance="other",instance="h:1",job="vllm"}': 1.0,
        'b{instance="h:1",job="vllm"}': 2.0,
    }


def test_lines_after_the_end_are_told() -> None:
    scrape = read(b"a 1\n# EOF\n\nb 2\n")
    assert values(scrape) == {"a{}": 1.0}
    assert "1 lines after # EOF" in scrape.problems[0]


def test_too_many_series_are_cut_loudly() -> None:
    page = b"".join(b'a{n="%d"} %d\n' % (n, n) for n in range(100))
    exposition = Exposition(max_samples=10)
    for _ in range(2):
        scrape = exposition.parse(page)
        assert len(scrape.samples) == 10
        assert scrape.truncated
        assert "more than 10 series" in scrape.problems[-1]


def test_samples_by_name() -> None:
    scrape = read(b'a{n="1"} 1\nb 2\na{n="2"} 3\n')
    assert [sample.value for sample in scrape.named("a")] == [1.0, 3.0]
    assert scrape.named("none") == []


# -- the second page: what is remembered never changes what is read


def both_ways(first: bytes, second: bytes) -> None:
    exposition = Exposition()
    exposition.parse(first)
    remembered, fresh = exposition.parse(second), read(second)
    assert str(remembered.samples) == str(fresh.samples)  # as text: NaN equals NaN
    assert (remembered.families, remembered.problems) == (fresh.families, fresh.problems)
    assert (remembered.malformed, remembered.duplicates) == (fresh.malformed, fresh.duplicates)
    assert {n: str(remembered.named(n)) for n in fresh.names()} == {n: str(fresh.named(n)) for n in fresh.names()}


SECOND_PAGES = [
    (b"a 1\nb 2\n", b"a 3\nb 2\n"),
    (b"a 1\nb 2\n", b"b 2\na 1\n"),
    (b"a 1\n", b"a 1\nb 2\n"),
    (b"a 1\nb 2\n", b"a 1\n"),
    (b"a 1\n", b"a x\n"),
    (b"a x\n", b"a 1\n"),
    (b"a 1\n", b"a 1_0\n"),
    (b"a 1\n", b"a 1 1700000000000\n"),
    (b"a 1 1700000000000\n", b"a 2 1700000000001\n"),
    (b"a 1\n", b"# a 1\n"),
    (b"# TYPE a gauge\na 1\n", b"# TYPE a counter\na 1\n"),
    (b"d 1\nd 2\n", b"d 1\nd 3\n"),
    (b'# TYPE g gauge\ng{pid="1"} 5\ng{pid="2"} 1\n', b'# TYPE g gauge\ng{pid="1"} 0\ng{pid="2"} 1\n'),
    (b"# TYPE c counter\nc_total 1\nc_created 5\n", b"# TYPE c counter\nc_total 1\nc_created 6\n"),
    (b"a 1\n# EOF\nb 2\n", b"a 1\n# EOF\nb 3\n"),
    (b"a 1\n", b"<html>"),
    (b"a 1\nb 2\n", b"a NaN\nb +Inf\n"),
]


@pytest.mark.parametrize(("first", "second"), SECOND_PAGES)
def test_second_page(first: bytes, second: bytes) -> None:
    both_ways(first, second)
    both_ways(second, first)
    both_ways(first, first)


def test_a_broken_page_between_two_good_ones_leaves_nothing_behind() -> None:
    exposition = Exposition()
    good = exposition.parse(b"a 1\nb 2\n")
    assert values(exposition.parse(b"a 7\nb x\n")) == {"a{}": 7.0}
    assert exposition.parse(b"a 1\nb 2\n").samples == good.samples


def test_earlier_scrapes_do_not_change() -> None:
    exposition = Exposition()
    first = exposition.parse(b"a 1\n")
    exposition.parse(b"a 2\n")
    assert values(first) == {"a{}": 1.0}


def test_series_keys_are_the_same_objects_again() -> None:
    exposition = Exposition()
    first, second = exposition.parse(b'a{b="c"} 1\n'), exposition.parse(b'a{b="c"} 2\nz 1\n')
    assert first.samples[0].key is second.samples[0].key


@pytest.mark.parametrize("page", sorted(CAPTURES.glob("*/*/metrics.prom")), ids=lambda p: f"{p.parent.name}")
def test_recorded_pages_with_other_values(page: Path) -> None:
    dice, lines = random.Random(1), page.read_bytes().split(b"\n")
    for at, line in enumerate(lines):
        if line and not line.startswith(b"#") and dice.random() < 0.3:
            lines[at] = line.rpartition(b" ")[0] + b" %d" % dice.randrange(1000)
    both_ways(page.read_bytes(), b"\n".join(lines))


# -- properties

LINES = st.sampled_from(
    [b"a 1", b"a 2", b'a{b="c"} 1', b'a{pid="1"} 1', b'a{pid="2"} 2', b"a x", b"", b"# TYPE a counter", b"# EOF",
     b"a_created 1", b"a_total 1", b"a 1 5", b'{"q"} 1', b"# TYPE a gauge", b"\xff", b"a{", b"a 1_0", b"a nan"]
)  # fmt: skip
PAGES = st.lists(LINES, max_size=12).map(b"\n".join)
LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(width=64)


@given(st.binary(max_size=400))
def test_never_raises_on_bytes(page: bytes) -> None:
    both_ways(page, page)


@given(PAGES, PAGES)
def test_memory_never_changes_what_is_read(first: bytes, second: bytes) -> None:
    both_ways(first, second)


@given(st.dictionaries(LABEL_VALUES, NUMBERS, max_size=5), st.lists(st.floats(0, 10), max_size=5), st.floats(0, 1e9))
def test_reads_what_prometheus_client_writes(gauges: dict[str, float], seen: list[float], count: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", "Help with \\ and \n", ["l"], registry=registry)
    for label, value in gauges.items():
        gauge.labels(label).set(value)
    histogram = Histogram("h", "Help", registry=registry)
    for value in seen:
        histogram.observe(value)
    Counter("c", "Help", registry=registry).inc(count)
    text = generate_latest(registry)
    theirs = {
        (s.name, frozenset((k, v) for k, v in s.labels.items() if v)): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
        if not s.name.endswith("_created")
    }
    for page in (text, generate_openmetrics(registry)):
        ours = {(s.key.name, frozenset(s.key.labels)): s.value for s in read(page).samples}
        assert ours.keys() == theirs.keys()
        assert [k for k in ours if ours[k] != theirs[k] and not (isnan(ours[k]) and isnan(theirs[k]))] == []


def test_timestamps_of_prometheus_client() -> None:
    class Stamped:
        def collect(self) -> list[GaugeMetricFamily]:
            family = GaugeMetricFamily("g", "Help", labels=["l"])
            family.add_metric(["x"], nan, timestamp=1700000000.5)
            return [family]

    registry = CollectorRegistry()
    registry.register(Stamped())  # type: ignore[arg-type]  # duck typing is what the library asks for
    for page in (generate_latest(registry), generate_openmetrics(registry)):
        scrape = read(page)
        assert scrape.problems == ()
        assert [repr(sample.key) for sample in scrape.samples] == ['g{l="x"}']
