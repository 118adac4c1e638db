"""One source's ring of rows, against a plain list; its bounds, its markers, and the memory it gives back."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.metrics.block import HOLE, HOLE_BITS, STALE, STALE_BITS, Block, full_labels
from agent.core.metrics.matchers import Matcher
from agent.core.metrics.samples import Sample, SeriesKey

ALL = (Matcher("__name__", "=~", ".*"),)
AMPLE = 10**9
KEYS = [SeriesKey("x", [("n", str(n))]) for n in range(400)]
Point = tuple[int, float | str]


def made(retention_ms: int = 10**9, room: int = AMPLE) -> Block:
    block = Block(retention_ms)
    block.room = room
    return block


def put(block: Block, at_ms: int, values: dict[int, float]) -> tuple[int, int]:
    return block.append(at_ms, [Sample(KEYS[n], value) for n, value in values.items()])


def points(block: Block, start: int = 0, end: int = 10**12) -> dict[int, list[Point]]:
    """What each series holds: its samples, and `stale` for the marker."""
    columns, labels = block.find(ALL)
    times, values = block.read(columns, start, end)
    bits = values.view(np.int64)
    found: dict[int, list[Point]] = {}
    for column, names in enumerate(labels):
        found[int(dict(names)["n"])] = [
            (int(times[row]), "stale" if bits[row, column] == STALE_BITS else float(values[row, column]))
            for row in range(len(times))
            if bits[row, column] != HOLE_BITS
        ]
    return found


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        (SeriesKey("up", [("job", "a"), ("Zone", "z")]), (("Zone", "z"), ("__name__", "up"), ("job", "a"))),
        (SeriesKey("up"), (("__name__", "up"),)),
        (SeriesKey("", [("a", "1")]), (("a", "1"),)),
    ],
)
def test_the_name_is_a_label(key: SeriesKey, labels: tuple[tuple[str, str], ...]) -> None:
    assert full_labels(key) == labels


def test_the_markers_are_nans_of_their_own() -> None:
    assert math.isnan(STALE)
    assert math.isnan(HOLE)
    assert struct.pack(">d", STALE).hex() == "7ff0000000000002"  # as Prometheus writes it
    assert len({STALE_BITS, HOLE_BITS, np.array([np.nan]).view(np.int64)[0]}) == 3


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sets(st.integers(0, 9)), st.booleans()),
        max_size=90,
    ),
    st.integers(5, 200),
)
def test_a_block_answers_as_a_plain_list_does(rows: list[tuple[int, set[int], bool]], retention: int) -> None:
    block, now = made(retention), 0
    plain: dict[int, list[Point]] = {}
    kept: list[int] = []
    before: set[int] = set()
    for step, present, forget in rows:
        now += step
        kept = [at for at in kept if at > now - retention]
        put(block, now, {n: float(now + n) for n in present})
        for n in before - present:
            if kept:  # the row before has not left yet
                plain[n].append((now, "stale"))
        for n in present:
            plain.setdefault(n, []).append((now, float(now + n)))
        kept.append(now)
        before = present
        if forget:
            block.forget_before(now - retention)
            alive = {n for n, held in plain.items() if any(p[0] > now - retention and p[1] != "stale" for p in held)}
            plain = {n: plain[n] for n in alive}  # a series goes with its last sample, its marker too
            assert block.series == len(alive)
    wanted = {n: [p for p in held if p[0] > now - retention] for n, held in plain.items()}
    assert {n: held for n, held in points(block).items() if held} == {n: held for n, held in wanted.items() if held}
    assert block.rows == len(kept)
    assert block.samples == sum(p[1] != "stale" for held in wanted.values() for p in held)
    if kept:
        assert (block.oldest_ms, block.newest_ms) == (kept[0], kept[-1])
        middle = (kept[0] + kept[-1]) // 2
        assert all(middle < p[0] <= kept[-1] for held in points(block, middle, kept[-1]).values() for p in held)


def test_a_series_that_ends_is_marked_once() -> None:
    block = made()
    for at, values in ((1, {0: 1.0, 1: 2.0}), (2, {0: 3.0}), (3, {0: 4.0}), (4, {0: 5.0, 1: 6.0}), (5, {})):
        put(block, at, values)
    assert points(block) == {
        0: [(1, 1.0), (2, 3.0), (3, 4.0), (4, 5.0), (5, "stale")],
        1: [(1, 2.0), (2, "stale"), (4, 6.0), (5, "stale")],
    }
    assert block.samples == 6


def test_a_foreign_nan_is_a_sample_and_prometheus_marker_a_marker() -> None:
    block = made()
    put(block, 1, {0: math.nan, 1: float(HOLE), 2: float(STALE), 3: -math.inf})
    found = points(block)
    assert [math.isnan(float(found[n][0][1])) for n in (0, 1)] == [True, True]
    assert (found[2], found[3]) == ([(1, "stale")], [(1, -math.inf)])
    assert block.samples == 3


def test_what_came_twice_counts_once_and_is_told_each_time() -> None:
    block = made()
    for at in (1, 2):
        assert block.append(at, [Sample(KEYS[0], 1.0), Sample(KEYS[1], 2.0), Sample(KEYS[0], 9.0)]) == (0, 1)
    assert points(block) == {0: [(1, 1.0), (2, 1.0)], 1: [(1, 2.0), (2, 2.0)]}


def test_keys_are_met_again_in_another_order() -> None:
    block = made()
    put(block, 1, {0: 1.0, 1: 2.0})
    put(block, 2, {1: 4.0, 0: 3.0})
    put(block, 3, {0: 5.0, 1: 6.0})
    assert points(block) == {0: [(1, 1.0), (2, 3.0), (3, 5.0)], 1: [(1, 2.0), (2, 4.0), (3, 6.0)]}


@pytest.mark.parametrize(
    ("start", "end", "times"), [(0, 9, [2, 4, 6]), (2, 6, [4, 6]), (1, 5, [2, 4]), (6, 9, []), (0, 1, []), (5, 3, [])]
)
def test_a_window_is_open_at_its_start_and_closed_at_its_end(start: int, end: int, times: list[int]) -> None:
    block = made()
    for at in (2, 4, 6):
        put(block, at, {0: float(at)})
    columns, _ = block.find(ALL)
    found, values = block.read(columns, start, end)
    assert found.tolist() == times
    assert values.shape == (len(times), 1)


def test_what_was_read_is_a_copy() -> None:
    block = made()
    put(block, 1, {0: 1.0})
    columns, _ = block.find(ALL)
    block.read(columns, 0, 9)[1][:] = 7.0
    assert points(block) == {0: [(1, 1.0)]}


@pytest.mark.parametrize(
    ("matchers", "found"),
    [
        ((Matcher("__name__", "=", "up"),), {"up a", "up b"}),
        ((Matcher("__name__", "=", "up"), Matcher("job", "=", "a")), {"up a"}),
        ((Matcher("__name__", "=~", "u.*"), Matcher("__name__", "!=", "up")), {"use a"}),
        ((Matcher("__name__", "=", "up"), Matcher("__name__", "!~", "u.")), set()),
        ((Matcher("job", "=", ""),), {"bare "}),
        ((Matcher("job", "!=", "a"),), {"up b", "bare "}),
        ((Matcher("__name__", "=", "absent"),), set()),
    ],
)
def test_find(matchers: tuple[Matcher, ...], found: set[str]) -> None:
    block = made()
    keys = [SeriesKey(name, [("job", job)]) for name, job in (("up", "a"), ("up", "b"), ("use", "a"), ("bare", ""))]
    block.append(1, [Sample(key, float(number)) for number, key in enumerate(keys)])
    columns, labels = block.find(matchers)
    assert {f"{dict(names)['__name__']} {dict(names).get('job', '')}" for names in labels} == found
    values = block.read(columns, 0, 9)[1]
    shown = {full_labels(key): float(number) for number, key in enumerate(keys)}
    if found:
        assert values[0].tolist() == [shown[names] for names in labels]


def test_an_answer_is_found_again_until_series_come_or_go() -> None:
    block = made()
    put(block, 1, {0: 1.0})
    assert block.find(ALL) is block.find(ALL)
    put(block, 2, {0: 1.0, 1: 1.0})
    assert len(block.find(ALL)[1]) == 2
    block.forget_before(1)
    put(block, 3, {0: 1.0})
    block.forget_before(2)
    assert len(block.find(ALL)[1]) == 1


@settings(max_examples=80, deadline=None)
@given(st.integers(300, 60_000), st.lists(st.tuples(st.integers(0, 399), st.integers(1, 60)), min_size=1, max_size=60))
def test_a_block_stays_in_its_room_and_counts_what_it_refused(room: int, rows: list[tuple[int, int]]) -> None:
    block = made(room=room)
    shortened = 0
    offered = 0
    refused = 0
    for at, (first, count) in enumerate(rows, start=1):
        wanted = range(first, min(first + count, 400))
        known = block.series
        missing, twice = put(block, at, {n: float(n) for n in wanted})
        assert twice == 0
        assert 0 <= missing <= len(wanted)
        assert block.series - known <= len(wanted) - missing
        assert block.bytes <= room
        offered += len(wanted)
        refused += missing
        shortened += block.take_shortened()
        assert block.newest_ms == at
    assert block.take_shortened() == 0
    assert block.samples + shortened == offered - refused


def test_room_that_is_taken_away_refuses_series_and_keeps_what_is_there() -> None:
    block = made()
    put(block, 1, {0: 1.0})
    block.room = 0
    assert put(block, 2, dict.fromkeys(range(100), 2.0))[0] > 0
    assert points(block)[0] == [(1, 1.0), (2, 2.0)]


def test_a_refused_series_is_offered_again() -> None:
    block = made(room=2000)
    many = dict.fromkeys(range(20), 1.0)
    refused, _ = put(block, 1, many)
    assert refused > 0
    assert put(block, 2, many) == (refused, 0)
    block.room = AMPLE
    assert put(block, 3, many) == (0, 0)
    assert block.series == 20


def test_columns_are_used_again_without_their_past() -> None:
    block = made(retention_ms=10)
    size = 0
    for at in range(1, 300):
        put(block, at, {at: float(at)})
        block.forget_before(at - 3)
        if at == 40:
            size = block.bytes
    assert block.series == 3
    assert block.bytes == size
    assert points(block) == {
        297: [(297, 297.0), (298, "stale")],
        298: [(298, 298.0), (299, "stale")],
        299: [(299, 299.0)],
    }


def test_a_wave_of_series_gives_its_memory_back() -> None:
    block = made(retention_ms=10)
    put(block, 1, dict.fromkeys(range(400), 1.0))
    before = block.bytes
    for at in range(2, 20):
        put(block, at, {7: float(at), 399: 0.5})
    block.forget_before(9)
    assert block.series == 2
    assert block.bytes < before / 50
    put(block, 20, {7: 20.0, 399: 0.5, 3: 3.0})
    found = points(block)
    assert found[7] == [(at, float(at)) for at in range(11, 21)]
    assert found[399] == [(at, 0.5) for at in range(11, 21)]
    assert found[3] == [(20, 3.0)]


def test_an_empty_row_is_a_row() -> None:
    block = made()
    assert block.append(5, []) == (0, 0)
    assert (block.rows, block.series, block.samples, block.oldest_ms, block.newest_ms) == (1, 0, 0, 5, 5)
    assert points(block) == {}


def test_the_ring_of_a_steady_source_is_as_long_as_the_retention_needs() -> None:
    block = made(retention_ms=1_800_000)
    for number in range(400):
        put(block, number * 5_000, dict.fromkeys(range(100), 1.0))
    assert block.rows == 360
    assert block.bytes <= 362 * 8 * 130 + 100 * 450  # 100 series in columns of 32 at a time


def test_samples_are_counted_without_markers_also_when_series_end_and_rows_expire() -> None:
    block = made(retention_ms=50)
    put(block, 10, {1: 1.0, 2: 2.0, 3: STALE})
    assert block.samples == 2
    put(block, 20, {1: 1.0})
    assert block.samples == 3
    put(block, 65, {1: math.nan})
    assert block.samples == 2
