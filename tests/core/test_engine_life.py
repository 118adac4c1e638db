"""Restarts, times to ready and crash loops, from looks at an engine; clocks that step, and facts that come late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.engine_life import NS, EngineLife, LifeSeen

WALL = 1_700_000_000 * NS  # Unix time at boot


def look(
    at: float,
    live: bool = True,
    ready: bool | None = True,
    began: float | None = None,
    fell: bool | None = None,
    step: float = 0.0,
) -> LifeSeen:
    """A look `at` seconds since boot, at a process of that began; `step`: the wall clock was set forward by so much."""
    offset = WALL + int(step * NS)
    return LifeSeen(
        at_ns=int(at * NS),
        live=live,
        ready=ready,
        process_started_at_ns=None if began is None else int(began * NS) + offset,
        clock_offset_ns=offset,
        counters_fell=fell,
    )


def lived(*looks: LifeSeen) -> EngineLife:
    life = EngineLife()
    for one in looks:
        life.see(one)
    return life


# looks -> restarts, seconds to ready, started
CASES: dict[str, tuple[list[LifeSeen], int, float | None, bool]] = {
    "watched from its start": ([look(10, False, False, 9), look(15, False, False, 9), look(20, began=9)], 0, 11, True),
    "503 while it loads": ([look(10, ready=False, began=9), look(30, began=9)], 0, 21, True),
    "never ready": ([look(10, ready=False, began=9), look(15, False, False, 9)], 0, None, False),
    "the agent came later": ([look(1000, began=9), look(1005, began=9)], 0, None, True),
    "the agent came while it loaded": ([look(100, ready=False, began=9), look(200, began=9)], 0, 191, True),
    "no process to be seen": ([look(100, ready=False), look(130)], 0, 30, True),
    "nobody listens and no process to be seen": ([look(100, False, False), look(130)], 0, None, True),
    "its process becomes visible": ([look(10, ready=False), look(20, ready=False, began=5), look(30)], 0, 25, True),
    "its process is told after it was ready": ([look(10, ready=False), look(20), look(30, began=5)], 0, 10, True),
    "away for a while": ([look(10, began=5), look(15, False, False), look(20, began=5)], 0, None, True),
    "started anew between two looks": ([look(10, began=5), look(60, began=57)], 1, 3, True),
    "started anew, seen down": ([look(10, began=5), look(15, False, False), look(60, began=17)], 1, 43, True),
    "started anew, seen loading": (
        [look(10, began=5), look(20, False, False, began=17), look(60, began=17)], 1, 43, True
    ),
    "loading after a restart": ([look(10, began=5), look(20, False, False, began=17)], 1, None, False),
    "counters fell": ([look(10, fell=False), look(15, fell=True)], 1, None, True),
    "counters fell behind a proxy": ([look(10, began=5, fell=False), look(15, began=5, fell=True)], 1, None, True),
    "the first totals cannot have fallen": ([look(10, fell=True)], 0, None, True),
    "counters fell, and the process says so": (
        [look(10, began=5, fell=False), look(20, began=17, fell=True)], 1, 3, True
    ),
    "totals that come after the process": (
        [look(10, began=5, fell=False), look(20, False, False, began=17), look(25, began=17, fell=True)], 1, 8, True
    ),
    "the process is told after the counters": (
        [look(10, began=5, fell=False), look(20, began=5, fell=True), look(40, began=17, fell=False)], 1, 3, True
    ),
    "one more restart after the counters": (
        [look(10, began=5, fell=False), look(20, began=5, fell=True), look(40, began=37, fell=False)], 2, 3, True
    ),
    "an older process of the same engine": ([look(10, began=9), look(20, began=5)], 0, None, True),
    "a start known to the second only": ([look(10, began=5.9), look(20, began=5), look(30, began=6)], 0, None, True),
    "a worker, of which nobody says whether it is ready": ([look(10, ready=None, began=9)], 0, None, True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_life(case: str) -> None:
    looks, restarts, ready_after, started = CASES[case]
    life = lived(*looks)
    assert (life.restarts, life.ready_after_seconds, life.started) == (restarts, ready_after, started)


def test_nothing_is_known_before_the_first_look() -> None:
    life = EngineLife()
    assert (life.restarts, life.ready_after_seconds, life.started, life.crash_looping) == (0, None, None, False)


@pytest.mark.parametrize("follows", [True, False], ids=["told anew", "told as before"])
@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_wall_clock_that_steps_is_no_restart_and_no_wait(step: float, follows: bool) -> None:
    """/proc gives starts since boot: in Unix time they move with the clock, unless somebody kept them from before."""
    after = look(20, began=9, step=step)
    if not follows:
        after = look(20, began=9 - step, step=step)
    life = lived(look(10, ready=False, began=9), after)
    assert life.restarts == 0
    assert life.ready_after_seconds is not None
    if follows:
        assert life.ready_after_seconds == 11


def restart_at(*instants: float) -> list[LifeSeen]:
    return [look(at, began=at - 3) for at in instants]


def test_three_restarts_within_ten_minutes_are_a_crash_loop() -> None:
    assert not lived(*restart_at(0, 100, 200)).crash_looping  # the first one was its start
    assert lived(*restart_at(0, 100, 200, 300)).crash_looping
    assert lived(*restart_at(0, 100, 400, 700)).crash_looping
    assert not lived(*restart_at(0, 100, 400, 701)).crash_looping


def test_ten_quiet_minutes_end_it() -> None:
    life = lived(*restart_at(0, 100, 200, 300))
    life.see(look(900, began=297))
    assert life.crash_looping
    life.see(look(901, began=297))
    assert not life.crash_looping
    life.see(look(950, began=947))
    assert not life.crash_looping
    assert life.restarts == 4


def test_a_loop_that_slows_down_stays_one() -> None:
    """Whoever restarts it waits longer each time: ten minutes without a restart would be a sign of health."""
    assert lived(*restart_at(0, 100, 200, 300, 800, 1300, 1800)).crash_looping


moments = st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.booleans(), st.booleans()), max_size=30)


@given(moments)
def test_every_change_of_process_is_one_restart_and_waits_are_never_negative(
    turns: list[tuple[int, bool, bool, bool]],
) -> None:
    at, began, restarts = 1000.0, 900.0, 0
    life = lived(look(at, began=began))
    for seconds, dies, live, ready in turns:
        at += seconds
        if dies and at - 0.5 - began > 2:
            began, restarts = at - 0.5, restarts + 1
        life.see(look(at, live, ready and live, began=began))
        assert life.restarts == restarts
        if life.ready_after_seconds is not None:
            assert life.ready_after_seconds >= 0
            assert life.started


@given(moments, st.lists(st.integers(-(10**6), 10**6), min_size=30, max_size=30))
def test_no_step_of_the_wall_clock_adds_a_restart_or_moves_a_wait(
    turns: list[tuple[int, bool, bool, bool]], steps: list[int]
) -> None:
    steady, stepped, at, began = EngineLife(), EngineLife(), 1000.0, 900.0
    for (seconds, dies, live, ready), step in zip(turns, steps, strict=False):
        at += seconds
        began = at - 0.5 if dies else began
        steady.see(look(at, live, ready and live, began=began))
        stepped.see(look(at, live, ready and live, began=began, step=step))
        assert stepped.restarts <= steady.restarts
        assert stepped.ready_after_seconds == steady.ready_after_seconds or stepped.restarts < steady.restarts
