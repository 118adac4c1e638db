from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.slots import FIRST_SIGHT_NS, Timeline
from agent.core.cost.views import Owner
from agent.core.gpu_readings import GpuSnapshot
from tests.support.engine_groups import GROUP, worker
from tests.support.money import NS, engine, gpus
from tests.support.slots import held, known, pod

T0 = 1_800_000_000 * NS
HOLD = 3 * NS


def at(second: float) -> int:
    return T0 + int(second * NS)


View = tuple[str | None, tuple[Owner, ...]]


class Told:
    """A timeline that is told in seconds from T0, and asked in them."""

    def __init__(self) -> None:
        self.timeline = Timeline(HOLD)

    def gpus(self, second: float, count: int = 1, pids: tuple[int, ...] = (), **fields: Any) -> "Told":
        self.timeline.see_gpus(at(second), gpus(at(second), count, pids, **fields))
        return self

    def driver(self, second: float, state: Any) -> "Told":
        self.timeline.see_gpus(at(second), GpuSnapshot(read_at_ns=at(second), driver=state))
        return self

    def engine(self, second: float, **fields: Any) -> "Told":
        self.timeline.see_engine(at(second), engine(at(second), **fields).status)
        return self

    def workloads(self, second: float, *said: Any, **fields: Any) -> "Told":
        self.timeline.see_workloads(at(second), known(at(second), *said, **fields))
        return self

    def of(self, second: float, uuid: str = "GPU-0") -> View | None:
        period, _ = self.timeline.period_at(at(second))
        if period is None:
            return None
        (view,) = period.of(uuid)
        assert (view.slot, view.weight) == (uuid, 1)
        return view.state, view.owners

    def why(self, second: float, uuid: str = "GPU-0") -> str:
        period, _ = self.timeline.period_at(at(second))
        assert period is not None
        return period.of(uuid)[0].reason

    def spans(self) -> list[tuple[float, float]]:
        return [((p.start_ns - T0) / NS, (p.until_ns - T0) / NS) for p in self.timeline.periods]


OWNED: View = (None, (Owner("vllm", ready=True),))
LOADING: View = (None, (Owner("vllm", ready=False),))
UNALLOCATED, OTHER, IDLE = [(state, ()) for state in ("unallocated", "other_workload", "allocated_idle")]
BROKEN, GAP = [(state, ()) for state in ("broken", "gap")]


@pytest.mark.parametrize(
    ("fields", "view"),
    [
        ({}, UNALLOCATED),
        ({"pids": (7,)}, OTHER),
        ({"processes": None, "utilization_ratio": 1.0}, UNALLOCATED),  # alone it says nothing
        ({"processes": None, "memory_used_bytes": 1 << 30}, OTHER),
        ({"processes": None}, UNALLOCATED),
        ({"utilization_ratio": 0.9}, UNALLOCATED),  # a list of no process says more than a ratio
        ({"state": "lost"}, BROKEN),
        ({"state": "hung"}, BROKEN),
        ({"state": "reset_required", "pids": (7,)}, BROKEN),
        ({"state": "error"}, GAP),
    ],
)
def test_a_gpu_by_itself(fields: dict[str, Any], view: View) -> None:
    assert Told().gpus(0, **fields).of(0) == view


@pytest.mark.parametrize(
    ("driver", "view"),
    [("hung", BROKEN), ("starting", GAP), ("restarting", GAP), ("no_driver", GAP), ("no_library", GAP)],
)
def test_when_the_driver_does_not_answer(driver: str, view: View) -> None:
    told = Told().gpus(0).driver(1, driver)
    assert (told.of(0.5), told.of(1), told.of(3.9)) == (UNALLOCATED, view, view)


@pytest.mark.parametrize(
    ("fields", "pids", "view"),
    [
        ({"owns": ("GPU-0",)}, (), OWNED),
        ({"owns": ("0",)}, (), OWNED),
        ({"owns": ("1",)}, (), UNALLOCATED),
        ({"owns": (), "pids": (7, 8)}, (7, 9), OWNED),
        ({"owns": (), "pids": (7,)}, (9,), OTHER),
        ({"owns": (), "pids": ()}, (9,), OTHER),
        ({"owns": ("1",), "pids": (7,)}, (7,), OTHER),  # the configuration says which GPU it is
        ({"state": "unknown_format"}, (), OWNED),
        ({"state": "starting"}, (), LOADING),
        ({"state": "not_ready"}, (), LOADING),
        ({"state": "down"}, (7,), LOADING),
        ({"state": "down"}, (), UNALLOCATED),
        ({"state": "down", "owns": (), "pids": (7,)}, (7,), LOADING),  # it hangs: the GPU is its own all the same
    ],
)
def test_a_gpu_and_an_engine(fields: dict[str, Any], pids: tuple[int, ...], view: View) -> None:
    assert Told().gpus(0, pids=pids).engine(0, **fields).of(0) == view


def test_a_gpu_that_is_broken_belongs_to_nobody() -> None:
    assert Told().gpus(0, state="lost").engine(0).of(0) == BROKEN


def test_engines_that_share_a_gpu_are_in_order_of_their_names() -> None:
    told = Told().gpus(0)
    for name, state in (("z", "ready"), ("a", "starting"), ("m", "down")):
        told.engine(0, name=name, state=state)
    assert told.of(0) == (None, (Owner("a", ready=False), Owner("z", ready=True)))


def test_a_gpu_that_was_looked_for_and_is_not_there_is_broken() -> None:
    told = Told().gpus(0, 2).gpus(1, 1)
    assert [told.of(second, "GPU-1") for second in (0.5, 1)] == [UNALLOCATED, BROKEN]
    assert told.of(1) == UNALLOCATED


def test_a_sight_holds_no_longer_than_three_intervals() -> None:
    told = Told().gpus(0).gpus(10)
    assert told.spans() == [(0, 3), (10, 13)]
    timeline = told.timeline
    assert timeline.period_at(at(-1)) == (None, at(0))
    assert timeline.period_at(at(3) - 1) == (timeline.periods[0], at(3))
    assert timeline.period_at(at(3)) == (None, at(10))
    assert timeline.period_at(at(13)) == (None, None)


def test_equal_sights_are_one_period() -> None:
    told = Told()
    for second in range(100):
        told.gpus(second).engine(second)
    assert told.spans() == [(0, 102)]
    told.gpus(100, pids=(7,))
    assert told.spans() == [(0, 100), (100, 103)]


def test_an_engine_that_changes_cuts_the_period() -> None:
    told = Told().gpus(0).engine(0).gpus(1).engine(1.5, state="down").gpus(2)
    assert told.spans() == [(0, 1.5), (1.5, 5)]
    assert [told.of(second) for second in (1, 1.5, 2)] == [OWNED, UNALLOCATED, UNALLOCATED]


def test_an_engine_does_not_lengthen_what_is_known_of_gpus() -> None:
    told = Told().gpus(0).engine(0).engine(2, state="down")
    assert told.spans() == [(0, 2), (2, 3)]
    told.engine(4, state="ready")  # nobody watches the GPUs now
    assert told.spans() == [(0, 2), (2, 3)]
    assert told.gpus(5).of(5) == OWNED


@pytest.mark.parametrize(("late", "view"), [(1, OWNED), (FIRST_SIGHT_NS / NS, OWNED), (6, UNALLOCATED)])
def test_the_first_sight_of_an_engine_counts_back_a_little(late: float, view: View) -> None:
    told = Told().gpus(0).gpus(2.5).gpus(5)
    told.engine(late)
    assert told.of(0) == view
    assert told.of(late) == OWNED


def test_a_second_sight_does_not_count_back() -> None:
    told = Told().gpus(0).engine(0, state="down").engine(1, state="ready")
    assert [told.of(second) for second in (0.5, 1)] == [UNALLOCATED, OWNED]


def test_the_first_sight_counts_for_a_view_that_was_asked_before() -> None:
    told = Told().gpus(0)
    assert told.of(0) == UNALLOCATED
    assert told.engine(1).of(0) == OWNED


def test_a_forgotten_engine_owns_nothing_from_then_on() -> None:
    told = Told().gpus(0, pids=(7,)).engine(0)
    told.timeline.forget_engine(at(1), "vllm")
    told.timeline.forget_engine(at(1.5), "vllm")
    told.timeline.forget_engine(at(1.5), "never seen")
    assert told.spans() == [(0, 1), (1, 3)]
    assert [told.of(second) for second in (0.5, 1, 2.9)] == [OWNED, OTHER, OTHER]


def test_who_holds_a_gpu_counts_from_then_on() -> None:
    told = Told().gpus(0).workloads(1, held("GPU-0", pod("a"))).gpus(1)
    assert [told.of(second) for second in (0.5, 1)] == [UNALLOCATED, IDLE]
    assert [told.why(second) for second in (0.5, 1)] == ["no_process", "held_no_process"]
    told.workloads(2).gpus(2)
    assert (told.of(2), told.why(2)) == (UNALLOCATED, "free")
    told.workloads(3, held("GPU-0", pod("a")), holders_known=False).gpus(3)
    assert (told.of(3), told.why(3)) == (UNALLOCATED, "no_process")


def test_the_same_holders_again_are_one_period() -> None:
    told = Told().workloads(0, held("GPU-0", pod("a")))
    for second in range(10):
        told.gpus(second).workloads(second + 0.5, held("GPU-0", pod("a")))
    assert told.spans() == [(0, 12)]


def test_holders_do_not_lengthen_what_is_known_of_gpus() -> None:
    told = Told().gpus(0).workloads(2, held("GPU-0", pod("a"))).workloads(9)
    assert told.spans() == [(0, 2), (2, 3)]


def test_holders_of_whom_nothing_is_heard_are_believed_for_a_minute() -> None:
    told = Told().workloads(0, held("GPU-0", pod("a")))
    for second in range(0, 70, 2):
        told.gpus(second)
    assert [told.of(second) for second in (59.9, 60)] == [IDLE, UNALLOCATED]
    assert told.why(60) == "no_process"
    told.workloads(70, held("GPU-0", pod("a")))  # the same as a minute ago
    assert told.of(70) == IDLE


def test_holders_that_are_asked_for_seldom_are_believed_for_longer() -> None:
    told = Told()
    told.timeline = Timeline(HOLD, held_ns=600 * NS)
    told.workloads(0, held("GPU-0", pod("a")))
    for second in range(0, 610, 2):
        told.gpus(second)
    assert [told.of(second) for second in (599.9, 600)] == [IDLE, UNALLOCATED]


def test_what_is_settled_is_forgotten() -> None:
    told = Told().gpus(0).gpus(1, pids=(7,)).gpus(2)
    told.timeline.forget_before(at(2) - 1)
    assert told.spans() == [(1, 2), (2, 5)]
    told.timeline.forget_before(at(2))
    assert told.spans() == [(2, 5)]
    told.timeline.forget_before(at(9))
    assert told.spans() == []
    assert told.gpus(10).spans() == [(10, 13)]


@dataclass(frozen=True)
class Sight:
    step: int  # tenths of a second after the one before
    what: str


@given(
    st.lists(
        st.builds(Sight, st.integers(0, 40), st.sampled_from(["empty", "used", "none", "up", "down"])),
        max_size=25,
    ),
    st.lists(st.integers(-5, 400), min_size=1, max_size=20),
)
def test_every_instant_has_the_last_sight_of_gpus_and_engines(sights: list[Sight], asked: list[int]) -> None:
    """Against a plain replay; the engine is known from the start, so that nothing counts back."""
    told = Told().engine(-1, state="down")
    now, seen_at, gpu, owner = 0, -1000, "", "down"
    history: list[tuple[int, int, str, str]] = []  # (tenth, tenth of the last GPU sight, that sight, engine)
    for sight in sights:
        now += sight.step
        second = now / 10
        match sight.what:
            case "up" | "down":
                owner = sight.what
                told.engine(second, state="ready" if owner == "up" else "down")
            case "none":
                gpu, seen_at = "none", now
                told.driver(second, "no_driver")
            case _:
                gpu, seen_at = sight.what, now
                told.gpus(second, pids=(9,) if gpu == "used" else ())
        history.append((now, seen_at, gpu, owner))
    for tenth in asked:
        last = [entry for entry in history if entry[0] <= tenth]
        view = told.of(tenth / 10)
        if not last or tenth >= last[-1][1] + 30:
            assert view is None
            continue
        _, _, gpu, owner = last[-1]
        if gpu == "none":
            assert view == GAP
        elif owner == "up":
            assert view == OWNED
        else:
            assert view == (LOADING if gpu == "used" else UNALLOCATED)
    spans = told.spans()
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def worker_at(told: Told, second: float, *pids: int, **fields: Any) -> Told:
    told.timeline.see_engine(at(second), worker(*pids, name="w", **fields))
    return told


def group_views(told: Told, *seconds: float) -> list[tuple[bool | None, str]]:
    found = []
    for second in seconds:
        view = told.of(second)
        assert view is not None
        ((_, _, group, works),) = view[1]
        assert group == GROUP
        found.append((works, told.why(second)))
    return found


WORKS, RESTS = (True, "group_worker"), (False, "group_idle")


def test_a_worker_that_is_found_while_its_group_works_worked_before() -> None:
    """A fresh agent sees GPUs before it knows the engines."""
    told = Told().gpus(0, pids=(7,), utilization_ratio=0.5).gpus(1, pids=(7,), utilization_ratio=0.5)
    worker_at(told, 1.5, 7).gpus(2, pids=(7,), utilization_ratio=0.5)
    assert group_views(told, 0, 1, 1.5, 2) == [WORKS] * 4


def test_a_group_that_rests_for_ten_seconds_is_idle_and_works_again_at_once() -> None:
    told = worker_at(Told(), -1, 7)
    for second in range(40):
        told.gpus(second, pids=(7,), utilization_ratio=0.9 if second in (5, 12, 30) else 0.0)
    seconds = [0, 4, 5, 12, 21, 22, 29, 30, 39]
    assert group_views(told, *seconds) == [RESTS, RESTS, WORKS, WORKS, WORKS, RESTS, RESTS, WORKS, WORKS]
    assert told.spans() == [(0, 5), (5, 22), (22, 30), (30, 42)]


def test_a_worker_that_goes_leaves_a_free_gpu_and_one_that_starts_warms_up() -> None:
    told = worker_at(Told(), -1, 7, state="starting").gpus(0, pids=(7,), utilization_ratio=0.0)
    assert told.of(0) == (None, (Owner("w", ready=False, group=GROUP, works=False),))
    worker_at(told, 0.5, 7).gpus(1, pids=(7,), utilization_ratio=0.0)
    assert told.of(1) == (None, (Owner("w", ready=True, group=GROUP, works=False),))
    told.timeline.forget_engine(at(1.5), "w")
    told.gpus(2, pids=(7,), utilization_ratio=0.9).gpus(3)
    assert [told.of(second) for second in (1.5, 2, 3)] == [OTHER, OTHER, UNALLOCATED]


def test_what_is_not_reported_is_no_rest() -> None:
    told = worker_at(Told(), -1, 7)
    for second in range(30):
        told.gpus(second, pids=(7,), utilization_ratio=None)
    assert group_views(told, 0, 15, 29) == [WORKS] * 3
    assert told.spans() == [(0, 32)]
