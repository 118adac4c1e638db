"""The signal map: which source wins, how ranks are put together, and what stays absent."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading, Histogram
from agent.engines import signals
from agent.engines.contract import About, Origin
from agent.engines.signals import SignalMap, Source, read_signals

MAP = SignalMap(
    kind="test",
    model_label="model",
    values={
        "requests_running": (Source("new_running", "gauge"), Source("old_running", "gauge")),
        "kv_cache_usage_ratio": (Source("kv_percent", "gauge", scale=0.01, across="max"),),
    },
    tokens={"input": (Source("tokens_total", "counter", where={"kind": ("fresh", "recomputed")}),)},
    requests={
        "ok": (Source("done_total", "counter", where={"why": ("stop",)}),),
        "client_abort": (Source("done_total", "counter", where={"why": ("abort",)}, zero_means_uncounted=True),),
    },
    histograms={"queue_seconds": (Source("queue_ms", "histogram", scale=0.001), Source("queue_seconds", "histogram"))},
)


def read(page: str, about: About | None = None) -> list[EngineReading]:
    origin = Origin(engine="e", url="u", read_at_ns=1, about=about or About())
    return read_signals(MAP, Exposition().parse(page.encode()), origin)


def one(page: str) -> EngineReading:
    (reading,) = read(page)
    return reading


def test_empty_page_has_no_reading() -> None:
    assert read("other 1\n") == []


def test_absent_is_none_and_zero_is_zero() -> None:
    reading = one('new_running{model="m"} 0\n')
    assert reading.requests_running == 0
    assert (reading.requests_waiting, reading.tokens_total, reading.requests_total) == (None, None, None)
    assert reading.queue_seconds is None


def test_what_cannot_be_a_count_is_absent() -> None:
    assert read('new_running{model="m"} -3\n') == []
    assert one('new_running{model="m",engine="0"} -3\nnew_running{model="m",engine="1"} 2\n').requests_running == 2


def test_first_source_that_has_a_value_wins_for_each_model() -> None:
    page = 'old_running{model="a"} 1\nnew_running{model="a"} 2\nold_running{model="b"} 3\n'
    assert {r.model: r.requests_running for r in read(page)} == {"a": 2.0, "b": 3.0}


def test_source_of_another_type_does_not_match() -> None:
    assert read('# TYPE new_running histogram\nnew_running{model="m"} 1\n') == []
    assert one('# TYPE new_running untyped\nnew_running{model="m"} 1\n').requests_running == 1


def test_ranks_are_added_or_the_fullest_taken() -> None:
    page = "".join(
        f'{name}{{model="m",engine="{n}"}} {n}\n' for name in ("new_running", "kv_percent") for n in (20, 50)
    )
    reading = one(page)
    assert reading.requests_running == 70
    assert reading.kv_cache_usage_ratio == 0.5


def test_values_that_are_no_numbers_are_not_reported() -> None:
    assert read('new_running{model="m"} NaN\n') == []
    assert one('new_running{model="m",engine="0"} NaN\nnew_running{model="m",engine="1"} 2\n').requests_running == 2


def test_label_values_are_chosen_and_added() -> None:
    page = "".join(
        f'tokens_total{{model="m",kind="{k}"}} {n}\n' for k, n in (("fresh", 1), ("recomputed", 2), ("x", 4))
    )
    assert one(page).tokens_total == {"input": 3.0}


def test_zero_of_a_counter_that_is_not_kept_is_absent() -> None:
    page = 'done_total{{model="m",why="stop"}} 0\ndone_total{{model="m",why="abort"}} {}\n'
    assert one(page.format(0)).requests_total == {"ok": 0.0}
    assert one(page.format(1)).requests_total == {"ok": 0.0, "client_abort": 1.0}


def test_model_comes_from_the_engine_when_the_page_has_none() -> None:
    assert [r.model for r in read("new_running 1\n", About(model="m"))] == ["m"]
    assert [r.model for r in read("new_running 1\n")] == ["unknown"]


def histogram_page(name: str, buckets: dict[str, float], total: float | None, **labels: str) -> str:
    inside = ",".join(f'{k}="{v}"' for k, v in {"model": "m", **labels}.items())
    lines = [f'{name}_bucket{{{inside},le="{bound}"}} {count}' for bound, count in buckets.items()]
    if total is not None:
        lines.append(f"{name}_sum{{{inside}}} {total}")
    return "\n".join(lines) + "\n"


def test_histogram_is_scaled_and_sorted() -> None:
    page = histogram_page("queue_ms", {"+Inf": 3, "500": 2, "100.0": 1}, 900)
    assert one(page).queue_seconds == Histogram(bounds=(0.1, 0.5), counts=(1, 2, 3), sum=0.9)


def test_histograms_of_ranks_are_added() -> None:
    page = histogram_page("queue_seconds", {"1": 1, "+Inf": 2}, 3, engine="0")
    page += histogram_page("queue_seconds", {"1": 10, "+Inf": 20}, 30, engine="1")
    assert one(page).queue_seconds == Histogram(bounds=(1,), counts=(11, 22), sum=33)
    page += histogram_page("queue_seconds", {"1": 10, "+Inf": 20}, None, engine="2")
    assert one(page).queue_seconds == Histogram(bounds=(1,), counts=(21, 42), sum=None)


def test_rank_that_lost_its_buckets_makes_the_whole_unknown() -> None:
    page = histogram_page("queue_seconds", {"1": 1, "+Inf": 2}, 3, engine="0") + histogram_page(
        "queue_seconds", {"1": 1, "+Inf": 2}, 3, model="n"
    )
    page += 'queue_seconds_sum{model="m",engine="1"} 3\n'
    assert [r.model for r in read(page)] == ["n"]


def test_histograms_of_different_bounds_are_never_added() -> None:
    page = histogram_page("queue_seconds", {"1": 1, "+Inf": 2}, 3, engine="0")
    page += histogram_page("queue_seconds", {"2": 10, "+Inf": 20}, 30, engine="1")
    assert read(page) == []


def test_what_is_no_cumulative_histogram_is_absent() -> None:
    for buckets in ({"1": 5, "+Inf": 2}, {"1": 1, "2": 2}, {"1": float("nan"), "+Inf": 2}, {"x": 1, "+Inf": 2}):
        assert read(histogram_page("queue_seconds", buckets, 1)) == []
    assert read('queue_seconds_sum{model="m"} 3\n') == []


RANKS = ("pid", "tp")
PARTS = SignalMap(
    kind="test",
    model_label="model",
    role_label="does",
    values={
        "requests_waiting": (Source("queue", "gauge", where={"priority": ("",)}, plus=(Source("grammar", "gauge"),)),),
        "requests_running": (Source("running", "gauge", repeated_over=RANKS),),
    },
    requests={"error": (Source("http_total", "counter", where={"code": ("500",)}),)},
    histograms={"queue_seconds": (Source("waited", "histogram", repeated_over=RANKS),)},
)


def parts(page: str, about: About | None = None) -> list[EngineReading]:
    origin = Origin(engine="e", url="u", read_at_ns=1, about=about or About())
    return read_signals(PARTS, Exposition().parse(page.encode()), origin)


def test_series_without_a_label_can_be_asked_for() -> None:
    page = 'queue{model="m"} 5\nqueue{model="m",priority="1"} 3\nqueue{model="m",priority="2"} 2\n'
    assert [r.requests_waiting for r in parts(page)] == [5.0]


def test_what_counts_something_else_is_added_where_there_is_a_value() -> None:
    page = 'queue{model="a"} 1\ngrammar{model="a"} 2\ngrammar{model="b"} 4\n'
    assert {r.model: r.requests_waiting for r in parts(page)} == {"a": 3.0}


def test_histograms_that_tell_the_same_count_once_the_fullest() -> None:
    page = "".join(
        histogram_page("waited", {"1": n, "+Inf": n + 1}, n, tp=str(tp), dp=str(dp))
        for n, tp, dp in ((1, 0, 0), (4, 1, 0), (10, 2, 1), (9, 3, 1))
    )
    (reading,) = parts(page)
    assert reading.queue_seconds == Histogram(bounds=(1,), counts=(14, 16), sum=14)
    broken = page + histogram_page("waited", {"1": 5, "+Inf": 2}, 1, tp="4", dp="1")
    assert parts(broken) == []  # one that is none: nobody knows what the others are


def test_series_that_name_no_model_belong_to_the_only_one() -> None:
    page = 'http_total{code="500"} 3\n'
    assert [(r.model, r.requests_total) for r in parts(page)] == [("unknown", {"error": 3.0})]
    page += 'running{model="a"} 1\n'
    assert [(r.model, r.requests_total) for r in parts(page, About(model="other"))] == [("a", {"error": 3.0})]
    page += 'running{model="b"} 1\n'
    assert {r.model for r in parts(page, About(model="other"))} == {"a", "b", "other"}
    assert {r.model: r.requests_total for r in parts(page, About(model="b"))} == {"a": None, "b": {"error": 3.0}}


def test_what_is_named_wins_over_what_is_not() -> None:
    page = 'http_total{code="500"} 3\nhttp_total{code="500",model="a"} 4\nrunning 9\nrunning{model="a"} 1\n'
    assert [(r.model, r.requests_total, r.requests_running) for r in parts(page)] == [("a", {"error": 4.0}, 1.0)]


def test_role_is_told_by_any_series() -> None:
    page = 'running{model="a",does="prefill"} 1\nrunning{model="b",does="decode"} 1\nrunning{model="c",does="x"} 1\n'
    assert {r.model: r.role for r in parts(page)} == {"a": "prefill", "b": "decode", "c": None}


def test_pages_one_after_the_other_do_not_mix() -> None:
    exposition, origin = Exposition(), Origin(engine="e", url="page", read_at_ns=1)

    def now(page: str) -> dict[str, float | None]:
        return {r.model: r.requests_running for r in read_signals(PARTS, exposition.parse(page.encode()), origin)}

    first = 'running{model="a",tp="0"} 1\nrunning{model="a",tp="1"} 2\n'
    assert now(first) == {"a": 2.0}
    assert now(first.replace(" 2", " 7")) == {"a": 7.0}
    assert now(first.replace('"a"', '"b"')) == {"b": 2.0}
    assert now(first.replace('tp="1"', 'dp="1"')) == {"a": 3.0}
    assert now(first + 'running{model="c"} 9\n') == {"a": 2.0, "c": 9.0}
    assert now("other 1\n") == {}
    assert now(first) == {"a": 2.0}


def test_what_is_remembered_is_bounded() -> None:
    for at in range(signals.MOST_ARRANGED + 10):
        place = Origin(engine="e", url=f"u{at}", read_at_ns=1)
        assert len(read_signals(PARTS, SCRAPE, place)) == 1
    assert len(signals._ARRANGED) <= signals.MOST_ARRANGED


SCRAPE = Exposition().parse(b'running{model="a"} 1\n')


@given(st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1))
def test_sum_over_ranks_is_the_sum_of_the_parts(ranks: dict[int, list[int]]) -> None:
    page, total = "", [0, 0, 0]
    for rank, increments in ranks.items():
        counts = [sum(increments[: n + 1]) for n in range(3)]
        page += histogram_page("queue_seconds", dict(zip(("1", "2", "+Inf"), counts, strict=True)), 0, engine=str(rank))
        total = [a + b for a, b in zip(total, counts, strict=True)]
    histogram = one(page).queue_seconds
    assert histogram is not None
    assert list(histogram.counts) == total


NAMES = st.sampled_from(
    [
        "new_running",
        "kv_percent",
        "tokens_total",
        "done_total",
        "queue_ms_bucket",
        "queue_ms_sum",
        "queue_seconds_bucket",
    ]
)
LABELS = st.sampled_from(
    ['model="m"', 'model="n"', 'engine="1"', 'le="1"', 'le="+Inf"', 'le="x"', 'le="NaN"', 'why="stop"']
)
LINES = st.tuples(NAMES, st.lists(LABELS, unique_by=lambda pair: pair.partition("=")[0]), st.floats())


@given(st.lists(LINES, max_size=10), st.sampled_from(["", "# TYPE queue_ms gauge\n", "# TYPE tokens_total counter\n"]))
def test_no_page_raises_and_every_reading_has_a_signal(lines: list[tuple[str, list[str], float]], head: str) -> None:
    page = head + "".join(f"{name}{{{','.join(labels)}}} {value}\n" for name, labels, value in lines)
    for reading in read(page):
        assert reading.model in ("m", "n", "unknown")
        assert any(
            value is not None
            for value in (
                reading.requests_running,
                reading.kv_cache_usage_ratio,
                reading.tokens_total,
                reading.requests_total,
                reading.queue_seconds,
            )
        )
