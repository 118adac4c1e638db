"""What is remembered of a page: heads, slots, and the marks of lines that may not be read alone."""

from agent.core.metrics.exposition_layout import DROPPED, NO_SAMPLE, SHARED, LayoutBuilder, read_metadata

PAGE = [
    b"# TYPE c counter",
    b"c_total 1",
    b"c_created 5",
    b"broken",
    b"d 1",
    b"d 1",
    b"stamped 1 1700000000000",
    b"",
]


def test_every_line_has_a_head_and_a_slot() -> None:
    layout = LayoutBuilder((), 100, {}).build(PAGE, 100)
    assert layout.total == len(layout.lines) == len(PAGE)
    assert layout.slots == [NO_SAMPLE, 0, DROPPED, NO_SAMPLE, SHARED, SHARED, 2, NO_SAMPLE]
    assert layout.heads == [None, b"c_total", b"c_created", None, b"d", b"d", None, None]
    assert layout.places == {"c_total": [0], "d": [1], "stamped": [2]}


def test_only_series_of_the_page_are_remembered() -> None:
    first = LayoutBuilder((), 100, {}).build([b"a 1", b"b 1"], 100)
    second = LayoutBuilder((), 100, first.series).build([b"b 2", b"c 2"], 100)
    assert set(second.series) == {b"b", b"c"}
    assert second.series[b"b"] is first.series[b"b"]


def test_what_is_over_the_cap_is_not_laid_out() -> None:
    layout = LayoutBuilder((), 2, {}).build([b"a 1", b"b 1", b"c 1", b"d 1"], 100)
    assert (len(layout.samples), len(layout.lines), layout.total, layout.truncated) == (2, 2, 4, True)
    assert set(layout.places) == {"a", "b"}
    assert len(LayoutBuilder((), 2, {}).build([b"a 1", b"b 1"], 100).samples) == 2


def test_metadata() -> None:
    lines = [b"# TYPE a COUNTER", b"# HELP a Some  text ", b'# TYPE "b.c" gauge', b"# UNIT", b"#TYPE d x"]
    families = read_metadata(lines)
    assert families == {"a": ("counter", "", "Some  text"), "b.c": ("gauge", "", "")}


def test_series_share_the_texts_of_their_names_and_labels() -> None:
    lines = [b'h_bucket{engine="0",le="%d"} 1' % bound for bound in range(3)]
    first, second, third = (sample.key for sample in LayoutBuilder((("job", "j"),), 100, {}).build(lines, 100).samples)
    assert first.name is second.name is third.name
    assert [one is another for one, another in zip(first.labels, second.labels, strict=True)] == [True, True, False]
