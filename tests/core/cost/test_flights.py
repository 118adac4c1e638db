import numpy as np
import pytest

from agent.core.cost.flights import flights_of, merged
from agent.core.cost.live import Live


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 5)], 5), ([(0, 5), (5, 6)], 6), ([(3, 9), (0, 5)], 9), ([(0, 10), (2, 3)], 10), ([(4, 4)], 0)],
)
def test_merged(intervals: list[tuple[int, int]], length: int) -> None:
    lives = [Live(str(i), "u", "e", start, ended_ns=end) for i, (start, end) in enumerate(intervals)]
    found = [one for live in lives if (one := flights_of([live], 0, 100)) is not None]
    assert merged(found) == length
    assert merged([one for one in [flights_of(lives, 0, 100)] if one is not None]) == length


def test_only_what_is_in_the_cell_counts_by_place_and_id() -> None:
    lives = [
        Live("e", "u", "x", 50, model="m", tenant="t", ended_ns=120, outcome="ok"),
        Live("d", "u", "x", 0, model="m", tenant="t"),
        Live("c", "u", "x", 0, model="m", tenant="t", ended_ns=100, outcome="ok"),  # over before
        Live("b", "u", "x", 0, model="m", tenant="t", ended_ns=110, outcome="ok"),
        Live("a", "u", "x", 200, model="m", tenant="t"),  # begins after
        Live("f", "u", "x", 0, model="m", tenant="t", ended_ns=300, outcome="rejected"),
    ]
    found = flights_of(lives, 100, 200)
    assert found is not None
    assert [live.id for live in found.requests] == ["d", "b", "e"]
    assert found.keys == [("m", "t", "in_flight"), ("m", "t", "ok")]
    assert found.starts.tolist() == [0, 1]
    assert (found.ends - found.begins).tolist() == [100, 10, 20]
    assert [live.seen_ns for live in lives] == [20, 100, 0, 10, 0, 0]
    again = flights_of(lives[::-1], 100, 200)
    assert again is not None
    assert [live.id for live in again.requests] == ["d", "b", "e"]
    assert np.array_equal(again.begins, found.begins)
