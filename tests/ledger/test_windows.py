"""Ranges of a window: every bucket once, coarse ones where they fit; what is forgotten is never asked for."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.calendar import MINUTE_NS
from agent.ledger.rollup import Eras
from agent.ledger.tables import DAY, HOUR, MINUTE
from agent.ledger.windows import Kept, Range, cover, whole

M0 = 30_000_000 - 480  # a midnight in UTC
UTC = Eras([(0, "UTC")])
MONTH = Kept(M0, M0 + 30 * 1440, M0 + 30 * 1440 - 100, 0, 0, UTC)


def ranges(kept: Kept, start: int, end: int, *edges: int) -> list[tuple[int, int, int, int]]:
    found = cover((M0 + start) * MINUTE_NS, (M0 + end) * MINUTE_NS, [(M0 + edge) * MINUTE_NS for edge in edges], kept)
    return [(piece.step, piece.grain, piece.first - M0, piece.end - M0) for piece in found.ranges]


def test_days_then_hours_then_minutes_at_the_ends() -> None:
    assert ranges(MONTH, 1430, 3 * 1440 + 65) == [
        (0, MINUTE, 1430, 1440),
        (0, DAY, 1440, 3 * 1440),
        (0, HOUR, 3 * 1440, 3 * 1440 + 60),
        (0, MINUTE, 3 * 1440 + 60, 3 * 1440 + 65),
    ]


def test_a_day_that_is_not_over_holds_what_is_rolled_and_the_rest_is_in_minutes() -> None:
    assert ranges(MONTH, 0, 99 * 1440) == [(0, DAY, 0, 30 * 1440 - 100), (0, MINUTE, 30 * 1440 - 100, 30 * 1440)]


def test_edges_cut_and_a_step_in_which_nothing_begins_has_no_range() -> None:
    assert ranges(MONTH, 0, 2 * 1440, 1440) == [(0, DAY, 0, 1440), (1, DAY, 1440, 2880)]
    assert ranges(MONTH, 0, 60, 30, 30) == [(0, MINUTE, 0, 30), (1, MINUTE, 30, 60)]


def test_outside_of_what_was_booked_there_is_nothing_to_read() -> None:
    assert ranges(MONTH, -999, 0) == []
    assert ranges(MONTH, 31 * 1440, 32 * 1440) == []
    assert ranges(Kept(0, 0, 0, 0, 0, UTC), -5, 5) == []
    assert cover(-(2**62), 2**62, (), MONTH).ranges == cover(M0 * MINUTE_NS, (M0 + 43200) * MINUTE_NS, (), MONTH).ranges


def test_everything_at_each_grain() -> None:
    kept = MONTH._replace(minutes_from=M0 + 20 * 1440 + 30, hours_from=M0 + 5)
    rolled, end = kept.rolled, kept.end
    assert whole(kept, DAY) == [Range(0, DAY, M0, rolled), Range(0, MINUTE, rolled, end)]
    assert whole(kept, HOUR) == [
        Range(0, DAY, M0, M0 + 1440),
        Range(0, HOUR, M0 + 1440, rolled),
        Range(0, MINUTE, rolled, end),
    ]
    assert whole(kept, MINUTE) == [
        Range(0, DAY, M0, M0 + 1440),
        Range(0, HOUR, M0 + 1440, M0 + 20 * 1440 + 60),
        Range(0, MINUTE, M0 + 20 * 1440 + 60, end),
    ]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_minute_once_and_nothing_that_is_forgotten(data: st.DataObject) -> None:
    zones = data.draw(st.sampled_from((("UTC", "UTC"), ("Asia/Kolkata", "Asia/Tokyo"), ("Europe/Berlin", "UTC"))))
    change = M0 + data.draw(st.integers(0, 6000))
    eras = Eras([(0, zones[0]), (change, zones[1])])
    end = M0 + data.draw(st.integers(1, 6000))
    rolled = data.draw(st.integers(M0, end))
    minutes_from = data.draw(st.integers(M0 - 10, rolled))
    hours_from = data.draw(st.integers(M0 - 10, minutes_from))
    kept = Kept(eras.day(M0)[0], end, rolled, minutes_from, hours_from, eras)
    at = st.integers(M0 - 100, M0 + 6100).map(lambda minute: minute * MINUTE_NS + minute % 3)
    start_ns, end_ns = sorted((data.draw(at), data.draw(at)))
    window = cover(start_ns, end_ns, data.draw(st.lists(at, max_size=5)), kept)
    seen = Counter[int]()
    for piece in window.ranges:
        first, last = window.steps[piece.step]
        minute = piece.first
        while minute < piece.end:
            bucket = kept.bounds(piece.grain, minute)
            assert bucket[0] == minute
            until = bucket[1] if piece.grain == MINUTE else min(bucket[1], rolled)
            assert first <= minute * MINUTE_NS < last
            if piece.grain == MINUTE and minute < rolled:
                assert minute >= minutes_from
            if piece.grain == HOUR:
                assert kept.bounds(DAY, minute)[0] >= hours_from
            seen.update(range(minute, until))
            minute = bucket[1] if piece.grain == MINUTE else max(until, min(bucket[1], piece.end))
    assert set(seen.values()) <= {1}
    wanted = range(
        max(kept.first, -(-window.start_ns // MINUTE_NS)), max(0, min(kept.end, -(-window.end_ns // MINUTE_NS)))
    )
    assert set(seen) == set(wanted)
