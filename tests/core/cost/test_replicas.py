from typing import Any

import pytest

from agent.core.cost.judging import judge
from agent.core.cost.seen import EngineSeen, seen_gpus, seen_workloads
from tests.support.slots import GIB, NOWHERE, gpu, held, known, pod, process, snapshot, user

A, B, C = pod("a"), pod("b"), pod("c")
G = "GPU-0"
X, Y = EngineSeen("ready", frozenset({7}), frozenset()), EngineSeen("ready", frozenset({8}), frozenset())
FREE = ("unallocated", "free")
IDLE = ("allocated_idle", "held_no_process")
OTHER = ("other_workload", "process")
ROGUE = ("other_workload", "not_allocated")
DEALT = ("other_workload", "split_equal")


def shares(
    pids: tuple[int, ...] | None, *said: Any, replicas: int = 4, memory: int | None = GIB, **engines: EngineSeen
) -> list[tuple[str, str]]:
    """Of each share: its state or its engines, and why."""
    listed = None if pids is None else tuple(process(pid, memory) for pid in pids)
    reading = gpu(1, processes=listed, memory_used_bytes=memory)
    (seen,) = seen_gpus(snapshot(1, reading)) or ()
    found = judge(seen, engines, seen_workloads(known(1, *said, replicas={G: replicas})))
    assert [view.slot for view in found] == [f"{G}::{i}" for i in range(len(found))]
    assert {view.weight for view in found} == {1}
    return [(view.state or "+".join(owner.engine for owner in view.owners), view.reason) for view in found]


def a(number: str | None = "0") -> Any:
    return held(G, A, number)


def b(number: str | None = "1") -> Any:
    return held(G, B, number)


@pytest.mark.parametrize(
    ("pids", "said", "found"),
    [
        ((), [], [FREE] * 4),
        ((), [a()], [IDLE, FREE, FREE, FREE]),
        ((), [a("3"), b("1")], [FREE, IDLE, FREE, IDLE]),
        ((7,), [a(), user(G, 7, A)], [OTHER, FREE, FREE, FREE]),
        ((), [a(), user(G, 7, A)], [IDLE, FREE, FREE, FREE]),  # it is gone since
        # Each holder's processes are told by their workload.
        ((7, 8), [a(), b(), user(G, 7, A), user(G, 8, B)], [OTHER, OTHER, FREE, FREE]),
        ((7,), [a(), b(), user(G, 7, A)], [OTHER, IDLE, FREE, FREE]),
        # Two shares of one holder.
        ((7,), [a(), a("2"), user(G, 7, A)], [OTHER, FREE, OTHER, FREE]),
        # Whose process it is is not known: it may be any holder's that has none of its own.
        ((7,), [a(), b()], [DEALT, DEALT, FREE, FREE]),
        ((7, 9), [a(), b(), user(G, 7, A)], [OTHER, DEALT, FREE, FREE]),
        ((7, 9), [a(), user(G, 7, A)], [OTHER, FREE, FREE, FREE]),  # 9 may well be a's, too
        # Known to be nobody's who holds a share.
        ((7,), [a(), user(G, 7, NOWHERE)], [IDLE, ROGUE, FREE, FREE]),
        ((7,), [a(), user(G, 7, C)], [IDLE, ROGUE, FREE, FREE]),
        ((7,), [], [ROGUE, FREE, FREE, FREE]),
    ],
)
def test_shares_without_an_engine(pids: tuple[int, ...], said: list[Any], found: list[tuple[str, str]]) -> None:
    assert shares(pids, *said) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([a(None), b(None)], [IDLE, IDLE, FREE, FREE]),  # nobody says which share it is
        ([a("x")], [IDLE, FREE, FREE, FREE]),
        ([a("4")], [IDLE, FREE, FREE, FREE]),  # there are 0 to 3
        ([a("1"), b("1")], [IDLE, IDLE, FREE, FREE]),
        ([held(G, pod(str(i)), None) for i in range(5)], [IDLE] * 5),  # more holders than shares: that many shares
    ],
)
def test_every_holder_has_a_share(said: list[Any], found: list[tuple[str, str]]) -> None:
    assert shares((), *said) == found


@pytest.mark.parametrize(
    ("pids", "memory", "found"),
    [
        ((7,), 0, ("allocated_idle", "held_empty")),
        (None, 0, ("allocated_idle", "held_empty")),
        (None, GIB, DEALT),
        (None, None, ("other_workload", "not_seen")),
    ],
)
def test_what_is_not_listed_or_has_no_memory(
    pids: tuple[int, ...] | None, memory: int | None, found: tuple[str, str]
) -> None:
    assert shares(pids, a(), user(G, 7, A), memory=memory) == [found, FREE, FREE, FREE]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([a(), b(), user(G, 7, A), user(G, 8, B)], [("x", "replica"), ("y", "replica"), FREE, FREE]),
        ([a(), b(), user(G, 7, A), user(G, 8, A)], [("x+y", "replica"), IDLE, FREE, FREE]),
        ([a(), b(), user(G, 7, A)], [("x", "replica"), ("y", "split_equal"), FREE, FREE]),
        ([a(), b()], [("x", "split_equal"), ("y", "split_equal"), FREE, FREE]),
        ([a()], [("x+y", "split_equal"), FREE, FREE, FREE]),
        ([a(), b(), held(G, C, "2")], [(name, "split_equal") for name in "xyx"] + [FREE]),
        # Engines that hold nothing are somewhere all the same.
        ([], [("x", "not_allocated"), ("y", "not_allocated"), FREE, FREE]),
        ([a(), user(G, 7, A), user(G, 8, NOWHERE)], [("x", "replica"), ("y", "not_allocated"), FREE, FREE]),
        ([a(), user(G, 7, A)], [("x", "replica"), ("y", "not_allocated"), FREE, FREE]),
        ([a(), user(G, 7, C), user(G, 8, C)], [IDLE, ("x", "not_allocated"), ("y", "not_allocated"), FREE]),
    ],
)
def test_engines_on_shares(said: list[Any], found: list[tuple[str, str]]) -> None:
    assert shares((7, 8), *said, x=X, y=Y) == found


def test_engines_and_others_are_dealt_out_together() -> None:
    assert shares((7, 8, 9), a(), b(), x=X) == [("x", "split_equal"), DEALT, FREE, FREE]
    assert shares((7, 9), a(), x=X) == [("x", "split_equal"), FREE, FREE, FREE]


@pytest.mark.parametrize("pids", [(), None, (9,)])
def test_an_engine_that_is_configured_and_not_found_has_what_is_left(pids: tuple[int, ...] | None) -> None:
    configured = EngineSeen("ready", frozenset(), frozenset({G}))
    assert shares(pids, a(), x=configured) == [("x", "split_equal"), FREE, FREE, FREE]
    assert shares(pids, x=configured)[0] == ("x", "not_allocated")


def test_a_share_in_use_by_an_engine_that_starts_is_its() -> None:
    starting = X._replace(state="starting")
    assert shares((7,), a(), user(G, 7, A), x=starting)[0] == ("x", "replica")


def test_a_process_without_memory_that_holds_nothing_is_a_process() -> None:
    assert shares((7,), memory=0) == [ROGUE, FREE, FREE, FREE]


def test_each_share_names_its_holder() -> None:
    (seen,) = seen_gpus(snapshot(1, gpu(1))) or ()
    found = judge(seen, {}, seen_workloads(known(1, a("1"), b("0"), replicas={G: 3})))
    assert [view.holders for view in found] == [(B,), (A,), ()]
