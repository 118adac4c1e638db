import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.shares import Use, merged, share_active, share_cell
from agent.core.cost.views import Owner

READY = Owner("a", ready=True)
STARTING = Owner("b", ready=False)


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 5)], 5), ([(0, 5), (5, 6)], 6), ([(3, 9), (0, 5)], 9), ([(0, 10), (2, 3)], 10), ([(4, 4)], 0)],
)
def test_merged(intervals: list[tuple[int, int]], length: int) -> None:
    assert merged(intervals) == length


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_work_is_charged_first_and_the_rest_by_time(active: int, requests: list[tuple[int, int]]) -> None:
    times, works = [t for t, _ in requests], [w for _, w in requests]
    shares = share_active(active, times, works)
    assert sum(shares) == active
    if sum(works) <= active:
        assert all(share >= work for share, work in zip(shares, works, strict=True))


@pytest.mark.parametrize(
    ("owners", "intervals", "bypass", "parts"),
    [
        ((READY,), {}, {}, {("loaded_idle", "a", ""): 100}),
        ((STARTING,), {}, {}, {("warmup", "b", ""): 100}),
        ((READY,), {"a": [("r", 0, 40)]}, {}, {("request", "a", "r"): 40, ("loaded_idle", "a", ""): 60}),
        ((READY,), {}, {"a": 30}, {("unattributed", "a", ""): 30, ("loaded_idle", "a", ""): 70}),
        # Half of the time is covered; bypass traffic of half a request takes half of the rest: 75 shared 50:50.
        ((READY,), {"a": [("r", 0, 50)]}, {"a": 50}, {("request", "a", "r"): 38, ("unattributed", "a", ""): 37}),
        ((READY,), {"a": [("r", 0, 100)]}, {"a": 300}, {("request", "a", "r"): 25, ("unattributed", "a", ""): 75}),
        ((READY, STARTING), {}, {}, {("loaded_idle", "a", ""): 50, ("warmup", "b", ""): 50}),
    ],
)
def test_a_cell(
    owners: tuple[Owner, ...],
    intervals: dict[str, list[tuple[str, int, int]]],
    bypass: dict[str, int],
    parts: dict[tuple[str, str, str], int],
) -> None:
    found = dict(share_cell(100, owners, intervals, bypass))
    assert sum(found.values()) == 100
    assert parts.items() <= {tuple(use)[:3]: ns for use, ns in found.items()}.items()
    assert all(isinstance(use, Use) for use in found)


def test_the_group_goes_with_every_use() -> None:
    owners = (Owner("a", ready=True, group="g"), Owner("w", ready=True, group="h", works=True))
    found = share_cell(100, owners, {"a": [("r", 0, 20)]}, {"w": 100})
    assert [(use.state, use.engine, use.group) for use, _ in found] == [
        ("request", "a", "g"),
        ("unattributed", "w", "h"),
    ]
    assert {use.group for use, _ in share_cell(100, owners, {}, {})} == {"g", "h"}
