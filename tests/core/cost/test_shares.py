import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.exact import Ints
from agent.core.cost.flights import Flights, flights_of
from agent.core.cost.live import Live
from agent.core.cost.shares import MOST_WORK_NS, Share, Use, share_active, share_cell
from agent.core.cost.views import Owner

READY = Owner("a", ready=True)
STARTING = Owner("b", ready=False)
Spans = list[tuple[str, int, int]]


def flown(spans: Spans, works: dict[str, int] | None = None, **fields: str) -> Flights | None:
    lives = [Live(id_, "u", "e", start, ended_ns=end, outcome="ok", **fields) for id_, start, end in spans]  # type: ignore[arg-type]
    found = flights_of(lives, 0, 100)
    if found is not None and works is not None:
        found.work = array([works[live.id] for live in found.requests])
    return found


def array(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def parts_of(share: Share) -> dict[tuple[str, str, str], int]:
    """(state, engine, request) -> ns."""
    count = len(share.runs.starts) if share.runs else 0
    found = {(use.state, use.engine, ""): ns for use, ns in list(zip(share.uses, share.ns, strict=True))[count:]}
    if share.runs is not None:
        places = np.repeat(np.arange(count), np.diff(np.append(share.runs.starts, len(share.requests))))
        for live, place, ns in zip(share.requests, places.tolist(), share.runs.weights.tolist(), strict=True):
            found[share.uses[place].state, share.uses[place].engine, live.id] = ns
    return found


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_work_is_charged_first_and_the_rest_by_time(active: int, requests: list[tuple[int, int]]) -> None:
    times, works = array([t for t, _ in requests]), array([w for _, w in requests])
    shares, worked = share_active(active, times, works)
    assert shares.sum() == active
    if worked is None:
        assert not works.any()
        return
    assert worked.sum() == min(active, works.sum())
    assert (worked <= shares).all()
    assert (worked <= works).all()
    if works.sum() <= active:
        assert (worked == works).all()


@pytest.mark.parametrize(
    ("owners", "intervals", "bypass", "parts"),
    [
        ((READY,), {}, {}, {("loaded_idle", "a", ""): 100}),
        ((STARTING,), {}, {}, {("warmup", "b", ""): 100}),
        ((READY,), {"a": [("r", 0, 40)]}, {}, {("request", "a", "r"): 40, ("loaded_idle", "a", ""): 60}),
        ((READY,), {}, {"a": 30}, {("unattributed", "a", ""): 30, ("loaded_idle", "a", ""): 70}),
        # Half of the time is covered; bypass traffic of half a request takes half of the rest, and a third beside r.
        ((READY,), {"a": [("r", 0, 50)]}, {"a": 50}, {("request", "a", "r"): 33, ("unattributed", "a", ""): 42}),
        ((READY,), {"a": [("r", 0, 100)]}, {"a": 300}, {("request", "a", "r"): 25, ("unattributed", "a", ""): 75}),
        ((READY, STARTING), {}, {}, {("loaded_idle", "a", ""): 50, ("warmup", "b", ""): 50}),
    ],
)
def test_a_cell(
    owners: tuple[Owner, ...],
    intervals: dict[str, Spans],
    bypass: dict[str, int],
    parts: dict[tuple[str, str, str], int],
) -> None:
    share = share_cell(100, owners, {engine: flown(spans) for engine, spans in intervals.items()}, bypass)
    found = parts_of(share)
    assert sum(found.values()) == sum(share.ns) == 100
    assert parts.items() <= found.items()
    assert all(isinstance(use, Use) for use in share.uses)


def test_the_group_goes_with_every_use() -> None:
    owners = (Owner("a", ready=True, group="g"), Owner("w", ready=True, group="h", works=True))
    found = share_cell(100, owners, {"a": flown([("r", 0, 20)])}, {"w": 100})
    assert [(use.state, use.engine, use.group) for use in found.uses] == [
        ("request", "a", "g"),
        ("unattributed", "w", "h"),
    ]
    assert {use.group for use in share_cell(100, owners, {}, {}).uses} == {"g", "h"}


WORKING: list[tuple[dict[str, int] | None, dict[str, int], dict[str, int], dict[str, int]]] = [
    # Work of 60 first, the other 40 by time.
    ({"p": 50, "q": 10}, {}, {"p": 70, "q": 30}, {"p": 50, "q": 10}),
    # More work than there is time: scaled down.
    ({"p": 300, "q": 100}, {}, {"p": 75, "q": 25}, {"p": 75, "q": 25}),
    # Traffic past the sidecar, in flight as long as both: it works as much as they do.
    ({"p": 30, "q": 10}, {"a": 200}, {"p": 35, "q": 15, "": 50}, {"p": 30, "q": 10, "": 40}),
    (None, {"a": 200}, {"p": 25, "q": 25, "": 50}, {}),
    ({"p": 0, "q": 0}, {}, {"p": 50, "q": 50}, {}),
]


@pytest.mark.parametrize(("works", "bypass", "times", "worked"), WORKING)
def test_a_cell_with_work(
    works: dict[str, int] | None, bypass: dict[str, int], times: dict[str, int], worked: dict[str, int]
) -> None:
    share = share_cell(100, (READY,), {"a": flown([("p", 0, 100), ("q", 0, 100)], works)}, bypass)
    assert {id_: ns for (_, _, id_), ns in parts_of(share).items()} == times
    assert share.work == [worked.get("p", 0) + worked.get("q", 0), *([worked.get("", 0)] if bypass else [])]
    assert share.request_work is not None
    assert share.request_work.tolist() == [worked.get("p", 0), worked.get("q", 0)]


def test_all_go_by_time_where_the_shape_of_one_engine_is_unknown() -> None:
    flights = {"a": flown([("p", 0, 100)], {"p": 90}), "b": flown([("q", 0, 100)])}
    share = share_cell(100, (READY, STARTING), flights, {})
    assert parts_of(share) == {("request", "a", "p"): 50, ("request", "b", "q"): 50}
    assert share.work == [0, 0]


def test_nonsense_work_does_not_overflow() -> None:
    spans = [(f"{i:04}", 0, 100) for i in range(2000)]
    flights = {"a": flown(spans, dict.fromkeys([id_ for id_, _, _ in spans], MOST_WORK_NS))}
    share = share_cell(100, (READY,), flights, {"a": 600_000_000_000})
    assert sum(share.ns) == 100
    assert min(share.ns) >= 0


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 100))
def test_a_slot_that_is_a_part_of_its_gpu_has_the_same_shares(seed: int, count: int, length: int) -> None:
    dice = random.Random(seed)
    spans = []
    for i in range(count):
        start = dice.randrange(100)
        spans.append((f"{i:04}", start, dice.randrange(start + 1, 101)))
    works = {id_: dice.randrange(9) for id_, _, _ in spans}
    share = share_cell(100, (READY,), {"a": flown(spans, works)}, {"a": dice.choice((0, 30))})
    part = share.scaled(length)
    assert sum(part.ns) == length
    assert all(work <= ns for work, ns in zip(part.work, part.ns, strict=True))
    whole, parts = parts_of(share), parts_of(part)
    assert all(abs(parts.get(key, 0) - ns * length / 100) < 1 for key, ns in whole.items())
    assert all(parts.values())
