"""GPUs that are cut, re-cut, shared, held and used at random: every nanosecond is in one state, their sum the bill."""

import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.core.cost.present import present
from agent.core.cost.reports import SlotReason, SlotState
from agent.core.cost.tariff import Tariff
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution
from tests.support.engine_groups import GROUP, status, worker
from tests.support.engine_groups import scraped as scraped_worker
from tests.support.money import NS, UPSTREAM, book, engine, expected_bill
from tests.support.slots import GIB, NOWHERE, cut, device, gpu, held, known, pod, process, snapshot, user

T0 = 1_800_000_000 * NS
Sight = GpuSnapshot | EngineSnapshot | Attribution
LAYOUTS: tuple[tuple[int, ...] | None, ...] = (
    None,
    (),
    (7,),
    (3, 2, 1, 1),
    (1, 1),
    (1, 1, 1, 1, 1, 1, 1),
    (4, 4),
    (2, 0, 1),
)
PODS = [pod(name) for name in "abc"]


@dataclass(frozen=True)
class Story:
    sights: list[tuple[int, Sight]]
    requests: list[tuple[str, str, int, int]]  # id, engine, start, end
    end: int


def some_gpu(dice: random.Random, at: int, index: int) -> GpuReading:
    uuid = f"GPU-{index}"
    state = dice.choice(("ok",) * 12 + ("lost", "error"))
    layout = dice.choice(LAYOUTS)

    def pids() -> tuple[int, ...]:
        return dice.choice(((), (), (7,), (8,), (9,), (7, 8), (7, 9), (10,)))

    if layout is None:
        listed = dice.choice((None, *[tuple(process(pid, dice.choice((0, GIB, None))) for pid in pids())] * 4))
        used = dice.choice((None, 0, GIB))
        sizes = {"memory_used_bytes": used, "memory_free_bytes": GIB}
        return gpu(
            at, uuid, index, processes=listed, state=state, utilization_ratio=dice.choice((None, 0, 0.5)), **sizes
        )
    devices = [
        device(f"MIG-{index}-{i}", slices, dice.choice((None, pids(), pids(), pids())), compute_slices=slices or None)
        for i, slices in enumerate(layout)
    ]
    return cut(at, *devices, uuid=uuid, index=index, state=state, mig_slices=dice.choice((7, None)))


def some_holders(dice: random.Random, at: int) -> Attribution:
    slots = [f"GPU-{i}" for i in range(3)] + [f"MIG-{i}-{k}" for i in range(3) for k in range(4)]
    said: list[Any] = []
    for slot in slots:
        numbers = (dice.choice((None, "0", "1", "7")) for _ in range(dice.choice((0, 0, 1, 1, 2))))
        said += [held(slot, dice.choice(PODS), number) for number in numbers]
        said += [user(slot, pid, dice.choice((None, NOWHERE, *PODS))) for pid in (7, 8, 9) if dice.random() < 0.5]
    shared = {slot: dice.choice((1, 2, 3, 4)) for slot in slots if dice.random() < 0.3}
    return known(at, *said, replicas=shared, holders_known=dice.random() < 0.9)


SEEDS, SECONDS = st.integers(0, 2**32), st.integers(2, 100)  # a story drawn choice by choice takes too long


def story_of(seed: int, seconds: int, *, bypass: bool = True) -> Story:
    dice = random.Random(seed)
    length = seconds * NS
    sights: list[tuple[int, Sight]] = [(T0, snapshot(T0, some_gpu(dice, T0, 0)))]
    at = T0
    while (at := at + dice.choice((NS, 2 * NS, dice.randrange(1, 9 * NS)))) < T0 + length:
        driver = dice.choice(("ok",) * 14 + ("no_driver", "hung"))
        found = [some_gpu(dice, at, index) for index in range(3) if dice.random() < 0.9]
        sights.append((at, GpuSnapshot(read_at_ns=at, driver=driver, gpus=tuple(found if driver == "ok" else ()))))
        if dice.random() < 0.5:
            again = at + dice.randrange(NS)
            sights.append((again, some_holders(dice, again)))
        for name, pid in (("x", 7), ("y", 8)):
            if dice.random() < 0.4:
                owns = dice.choice(((), (), ("MIG-0-1",), ("0",), ("GPU-1",)))
                state = dice.choice(("ready", "ready", "starting", "down"))
                output = float(dice.randrange(500)) if bypass else None
                scraped = engine(at, name=name, state=state, pids=(pid,), owns=owns, output=output)
                group, place = dice.choice(("", "", "g")), dice.choice((None, *PODS))
                sights.append((at, replace(scraped, status=replace(scraped.status, group=group, workload=place))))
        if dice.random() < 0.3:
            # How two engines share a slot depends on the cells, so without bypass traffic a worker has its own.
            pids, group = dice.choice(((9,), (8, 9), (10,)) if bypass else ((10,),)), dice.choice(("", "g", "g"))
            state = dice.choice(("ready", "ready", "starting", "down"))
            sights.append((at, scraped_worker(worker(*pids, name="w", group=group, state=state))))
    requests = []
    for number in range(dice.randrange(9)):
        start = T0 + dice.randrange(length)
        requests.append((f"r{number}", dice.choice("xy"), start, start + dice.choice((1, dice.randrange(4 * NS)))))
    return Story(sorted(sights, key=lambda sight: sight[0]), requests, T0 + length)


def told(story: Story) -> Tariff:
    tariff = Tariff(book())
    for at, sight in story.sights:
        if isinstance(sight, GpuSnapshot):
            tariff.see_gpus(at, sight)
        elif isinstance(sight, Attribution):
            tariff.see_workloads(at, sight)
        else:
            tariff.see_engine(at, sight)
    for id_, name, start, end in story.requests:
        tariff.add(Live(id_, UPSTREAM, name, start, ended_ns=end, outcome="ok"))
    return tariff


def closed_in_steps(story: Story, step_ns: int) -> list[Closed]:
    tariff = told(story)
    steps = []
    at = T0
    while at < story.end:
        at = min(story.end, at + step_ns)
        closed = tariff.close(at)
        assert closed is not None
        steps.append(closed)
    assert tariff.through_ns == story.end
    return steps


def totals(steps: list[Closed], *names: str) -> dict[tuple[Any, ...], tuple[int, int]]:
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    for closed in steps:
        for booking, amount in closed.entries.items():
            key = tuple(getattr(booking, name) for name in names)
            ns, nano = found.get(key, (0, 0))
            found[key] = ns + amount.gpu_ns, nano + amount.nano
    return found


@settings(max_examples=200, deadline=None)
@given(SEEDS, SECONDS, st.sampled_from((NS, 5 * NS, 777_777_777, 1000 * NS)))
def test_the_parts_of_every_gpu_are_its_time_and_its_bill(seed: int, seconds: int, step: int) -> None:
    steps = closed_in_steps(story_of(seed, seconds), step)
    gpus = totals(steps, "gpu", "account_ns")
    through = {key: to for closed in steps for key, to in closed.accounts_through.items()}
    for (uuid, from_ns), to_ns in through.items():
        assert gpus.get((uuid, from_ns), (0, 0)) == (to_ns - from_ns, expected_bill(from_ns, to_ns))
    entries = totals(steps, "gpu", "slot", "state", "reason", "engine", "outcome")
    for (uuid, slot, state, reason, name, _), (ns, nano) in entries.items():
        if not uuid:
            assert (slot, state, reason, ns, nano) == ("", "request", "", 0, 0)  # its engine had no GPU
            continue
        assert ns >= 0
        assert nano >= 0
        assert slot.partition("::")[0] in (uuid, *(f"MIG-{uuid[4:]}-{i}" for i in range(7)))
        assert state in get_args(SlotState)
        assert reason in get_args(SlotReason)
        assert reason
        assert bool(name) == (state in ("request", "unattributed", "loaded_idle", "warmup"))
        if reason in ("group_worker", "group_idle"):
            assert name == "w"
            assert (state == "unattributed") == (reason == "group_worker")
    booked = sum(ns for key, (ns, _) in entries.items() if key[2] == "request")
    requests = {live.id: live for closed in steps for live in closed.requests.values()}
    assert booked == sum(live.gpu_ns for live in requests.values())


@settings(max_examples=100, deadline=None)
@given(SEEDS, SECONDS, st.sampled_from((NS, 7 * NS, 60 * NS, 333_333_333)))
def test_it_does_not_matter_how_often_it_is_closed(seed: int, seconds: int, step: int) -> None:
    """GPUs are exact; a slot's part is rounded once in each cell, to a nanosecond of each split."""
    story = story_of(seed, seconds, bypass=False)
    one, many = closed_in_steps(story, 10_000 * NS), closed_in_steps(story, step)
    assert totals(one, "gpu", "account_ns") == totals(many, "gpu", "account_ns")
    whole, parts = (totals(steps, "gpu", "slot", "state", "reason", "engine") for steps in (one, many))
    roundings = 3 * ((story.end - T0) // step + len(story.sights) + 2 * len(story.requests) + (story.end - T0) // NS)
    for key in whole.keys() | parts.keys():
        a, b = whole.get(key, (0, 0)), parts.get(key, (0, 0))
        assert abs(a[0] - b[0]) <= roundings
        assert abs(a[1] - b[1]) <= 2 * roundings


@settings(max_examples=100, deadline=None)
@given(SEEDS, SECONDS)
def test_a_slot_is_in_one_state_at_any_instant_and_the_slots_are_the_gpu(seed: int, seconds: int) -> None:
    tariff = told(story_of(seed, seconds))
    for a, b in pairwise(tariff.timeline.periods):
        assert a.until_ns <= b.start_ns
    for period in tariff.timeline.periods:
        for uuid in tariff.accounts:
            views = period.of(uuid)
            assert max(Counter(view.slot for view in views).values()) == 1
            assert all(view.weight > 0 for view in views)
            for view in views:
                assert (view.state is None) == bool(view.owners)
                if view.state == "allocated_idle":
                    assert period.held.known
                    assert view.holders
        for slot in present(tariff, period.start_ns):
            assert 0 < slot.weight <= slot.weights
        shares = Counter[str]()
        for slot in present(tariff, period.start_ns):
            shares[slot.gpu] += Fraction(slot.weight, slot.weights)  # type: ignore[assignment]
        assert set(shares.values()) == {1}


def time_in(steps: list[Closed], *names: str) -> dict[Any, float]:
    found = {key: ns / NS for key, (ns, _) in totals(steps, *names).items()}
    return {key[0] if len(key) == 1 else key: value for key, value in found.items() if value}


def test_a_cut_gpu_is_booked_by_slices_and_costs_what_the_gpu_costs() -> None:
    tariff = Tariff(book())
    layout = [device("MIG-a", 3, (7,)), device("MIG-b", 2), device("MIG-c", 1)]
    for second in range(8):
        tariff.see_gpus(T0 + second * NS, snapshot(T0 + second * NS, cut(T0, *layout)))
    tariff.see_workloads(T0, known(T0, held("MIG-b", PODS[0])))
    tariff.see_engine(T0, engine(T0, name="x", owns=(), pids=(7,)))
    live = Live("r", UPSTREAM, "x", T0, ended_ns=T0 + 7 * NS // 2, outcome="ok")
    tariff.add(live)
    closed = tariff.close(T0 + 7 * NS)
    assert closed is not None
    found = time_in([closed], "slot", "state", "reason")
    assert {key: round(value, 6) for key, value in found.items()} == {
        ("MIG-a", "request", "process"): 1.5,
        ("MIG-a", "loaded_idle", "process"): 1.5,
        ("MIG-b", "allocated_idle", "held_no_process"): 2.0,
        ("MIG-c", "unallocated", "free"): 1.0,
        ("GPU-0", "unallocated", "mig_unpartitioned"): 1.0,
    }
    assert totals([closed], "gpu") == {("GPU-0",): (7 * NS, expected_bill(T0, T0 + 7 * NS))}
    part = expected_bill(T0, T0 + 3 * NS // 2)
    assert abs(live.nano - part) <= 10
    assert abs(live.gpu_ns - 3 * NS // 2) <= 10


def test_a_gpu_that_is_cut_anew_stays_one_account() -> None:
    tariff = Tariff(book())
    layouts = [[device("MIG-a", 7, (7,))], [], [device("MIG-b", 3, (7,)), device("MIG-c", 4)], None]
    for second, layout in enumerate([*layouts, None]):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, gpu(at) if layout is None else cut(at, *layout)))
    closed = tariff.close(T0 + 4 * NS)
    assert closed is not None
    found = time_in([closed], "slot", "state", "reason")
    assert {key: round(value, 6) for key, value in found.items()} == {
        ("MIG-a", "other_workload", "process"): 1,
        ("GPU-0", "unallocated", "mig_unpartitioned"): 1,
        ("MIG-b", "other_workload", "process"): round(3 / 7, 6),
        ("MIG-c", "unallocated", "no_process"): round(4 / 7, 6),
        ("GPU-0", "unallocated", "no_process"): 1,
    }
    assert {booking.account_ns for booking in closed.entries} == {T0}


def test_shares_of_a_gpu_are_equal_and_go_to_their_holders() -> None:
    tariff = Tariff(book())
    for second in range(5):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, gpu(at, processes=(process(7), process(9)))))
    said = [held("GPU-0", PODS[i], str(i)) for i in range(3)]
    tariff.see_workloads(
        T0, known(T0, *said, user("GPU-0", 7, PODS[0]), user("GPU-0", 9, PODS[1]), replicas={"GPU-0": 4})
    )
    tariff.see_engine(T0, engine(T0, name="x", owns=(), pids=(7,)))
    live = Live("r", UPSTREAM, "x", T0, ended_ns=T0 + 2 * NS, outcome="ok")
    tariff.add(live)
    closed = tariff.close(T0 + 4 * NS)
    assert closed is not None
    assert time_in([closed], "slot", "state") == {
        ("GPU-0::0", "request"): 0.5,
        ("GPU-0::0", "loaded_idle"): 0.5,
        ("GPU-0::1", "other_workload"): 1,
        ("GPU-0::2", "allocated_idle"): 1,
        ("GPU-0::3", "unallocated"): 1,
    }
    assert live.gpu_ns == NS // 2


def test_utilisation_alone_is_not_busy() -> None:
    """The L40S of the captures: full utilisation at 242 W, no memory in use and nobody there."""
    tariff = Tariff(book())
    fields = {"utilization_ratio": 1.0, "power_watts": 242.0, "power_limit_watts": 350.0, "memory_used_bytes": 0}
    for second in range(5):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, gpu(at, **fields, processes=None if second % 2 else ())))
        if second == 2:
            tariff.see_workloads(at, known(at, held("GPU-0", PODS[0])))
    closed = tariff.close(T0 + 4 * NS)
    assert closed is not None
    assert time_in([closed], "state") == {"unallocated": 2, "allocated_idle": 2}


def test_a_cell_of_fewer_nanoseconds_than_slots() -> None:
    tariff = Tariff(book())
    layout = [device(f"MIG-{i}", 1) for i in range(7)]
    tariff.see_gpus(T0, snapshot(T0, cut(T0, *layout)))
    tariff.see_gpus(T0 + 3, snapshot(T0 + 3, cut(T0 + 3, *layout[:1])))
    closed = tariff.close(T0 + 3)
    assert closed is not None
    assert [(booking.slot, amount.gpu_ns) for booking, amount in closed.entries.items()] == [
        (f"MIG-{i}", 1) for i in range(3)
    ]


def test_a_worker_of_an_engine_elsewhere_works_or_is_idle_and_its_group_is_booked() -> None:
    """Ten seconds of work, then none: the last sign of work counts for ten seconds more. Beside it somebody else."""
    tariff = Tariff(book())
    for second in range(31):
        at = T0 + second * NS
        busy = gpu(at, processes=(process(7),), utilization_ratio=0.8 if second < 10 else 0.0)
        waits = gpu(at, "GPU-1", 1, processes=(process(8),), utilization_ratio=0.0)
        other = gpu(at, "GPU-2", 2, processes=(process(9),), utilization_ratio=1.0)
        tariff.see_gpus(at, snapshot(at, busy, waits, other))
        tariff.see_engine(at, scraped_worker(worker(7, 8, name="w")))
    closed = tariff.close(T0 + 30 * NS)
    assert closed is not None
    assert time_in([closed], "gpu", "state", "reason", "engine", "group") == {
        ("GPU-0", "unattributed", "group_worker", "w", GROUP): 19,
        ("GPU-0", "loaded_idle", "group_idle", "w", GROUP): 11,
        ("GPU-1", "unattributed", "group_worker", "w", GROUP): 19,
        ("GPU-1", "loaded_idle", "group_idle", "w", GROUP): 11,
        ("GPU-2", "other_workload", "process", "", ""): 30,
    }


def test_requests_of_a_leader_are_booked_under_its_group() -> None:
    tariff = Tariff(book())
    for second in range(5):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, gpu(at, processes=(process(7),), utilization_ratio=0.0)))
        tariff.see_engine(at, scraped_worker(status("x", 7, group=GROUP)))
    tariff.add(Live("r", UPSTREAM, "x", T0, ended_ns=T0 + NS, outcome="ok"))
    tariff.add(Live("in flight", UPSTREAM, "x", T0 + 2 * NS))
    closed = tariff.close(T0 + 3 * NS)
    assert closed is not None
    assert time_in([closed], "state", "reason", "group", "outcome") == {
        ("request", "process", GROUP, "ok"): 1,
        ("loaded_idle", "process", GROUP, ""): 1,
        ("request", "process", GROUP, "in_flight"): 1,
    }


def test_a_server_that_is_out_of_reach_is_told_by_its_gpu() -> None:
    """It listens on another network namespace's loopback: nobody counts its requests, and it is not idle for that."""
    tariff = Tariff(book())
    for second in range(31):
        at = T0 + second * NS
        busy = gpu(at, processes=(process(7),), utilization_ratio=0.8 if second < 10 else 0.0)
        tariff.see_gpus(at, snapshot(at, busy))
        tariff.see_engine(at, scraped_worker(status("far", 7, url="", state="unknown_format")))
    closed = tariff.close(T0 + 30 * NS)
    assert closed is not None
    assert time_in([closed], "state", "engine") == {("unattributed", "far"): 19, ("loaded_idle", "far"): 11}


def test_a_worker_beside_a_server_on_one_gpu_takes_part_like_a_request_that_goes_on() -> None:
    tariff = Tariff(book())
    for second in range(5):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, gpu(at, processes=(process(7), process(8)), utilization_ratio=0.3)))
    tariff.see_engine(T0, scraped_worker(status("x", 7)))
    tariff.see_engine(T0, scraped_worker(worker(8, name="w")))
    tariff.add(Live("r", UPSTREAM, "x", T0, ended_ns=T0 + 2 * NS, outcome="ok"))
    closed = tariff.close(T0 + 4 * NS)
    assert closed is not None
    assert time_in([closed], "state", "engine", "reason") == {
        ("request", "x", "process"): 1,
        ("unattributed", "w", "process"): 3,
    }


def test_the_holder_of_a_slot_is_booked_unless_there_are_several() -> None:
    tariff = Tariff(book())
    for second in range(3):
        at = T0 + second * NS
        tariff.see_gpus(at, snapshot(at, *(gpu(at, f"GPU-{i}", i) for i in range(3))))
    said = [held("GPU-0", PODS[0]), held("GPU-1", PODS[0]), held("GPU-1", PODS[1])]
    tariff.see_workloads(T0, known(T0, *said))
    closed = tariff.close(T0 + 2 * NS)
    assert closed is not None
    assert {(b.gpu, b.namespace, b.pod) for b in closed.entries} == {
        ("GPU-0", "ml", "a"),
        ("GPU-1", "", ""),
        ("GPU-2", "", ""),
    }
