"""One budget for several streams: whoever is full leaves the others what they need to go on."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.spool.bounds import Bounds
from tests.support.faulty_files import FaultyFiles

HERE = Path(__file__).parent


def bounds(max_bytes: int = 1000, free: int = 1 << 40, floor: int = 0, least: int = 0, **weights: float) -> Bounds:
    files = FaultyFiles()
    files.free = free
    return Bounds(HERE, files, max_bytes=max_bytes, min_free_bytes=floor, weights=weights, least_bytes=least)


def test_one_stream_may_take_all() -> None:
    found = bounds(a=1.0)
    assert found.limit("a") == 1000
    assert found.take("a", 1000) == ""
    assert "its share leaves no more" in found.take("a", 1)
    found.count("a", -400)
    assert found.take("a", 400) == ""
    assert found.used("a") == 1000


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0.01, 100), st.floats(0.01, 100))
def test_every_stream_can_always_reach_its_least(takes: list[str], a: float, b: float) -> None:
    found = bounds(1000, least=200, a=a, b=b, c=1.0)
    for name in takes:
        found.take(name, 100)
    assert sum(found.used(name) for name in "abc") <= 1000
    for name in "abc":
        while found.used(name) < 200:
            assert found.take(name, 100) == ""


def test_the_floor_of_free_space() -> None:
    found = bounds(free=500, floor=300, a=1.0)
    assert found.take("a", 200) == ""
    assert "300 bytes" in found.take("a", 201)
    assert not found.under_floor()
    assert bounds(free=299, floor=300, a=1.0).under_floor()
