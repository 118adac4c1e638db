import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.power import PowerPart, Slot, split_power
from agent.core.attribution.shares import NOBODY, Share, Use, Who
from tests.support.gpu_slots import gpu, gpu_uuid, mig, mig_uuid

A, B = Who("ml", "a", "c"), Who("ml", "b", "c")


def use(sm: float | None = None, *, mps: bool = False) -> Use:
    return Use(processes=1, memory_bytes=1, sm_ratio=sm, mps=mps)


def share(who: Who, ratio: float | None) -> Share:
    return Share(who, "nvidia.com/gpu", ratio, "whole" if ratio == 1 else "equal")


def parts(slot: Slot, watts: float = 500.0, idle: float | None = 100.0, *, known: bool = True) -> list[PowerPart]:
    return split_power(gpu(0, power_watts=watts), {gpu_uuid(0): slot}, idle, holders_known=known)


def test_held_whole_and_used_by_its_holder() -> None:
    assert parts(Slot([share(A, 1.0)], {A: use(0.9)})) == [PowerPart("", A, 500.0, "whole")]


def test_replicas_pay_their_part_of_idle_and_what_they_work() -> None:
    found = parts(Slot([share(A, 0.25), share(B, 0.25)], {A: use(0.6), B: use(0.2)}))
    assert {part.who: part.watts for part in found} == pytest.approx({A: 25 + 300, B: 25 + 100, NOBODY: 50})
    assert {part.split for part in found} == {"sm"}


def test_equal_parts_where_sm_time_is_not_known() -> None:
    found = parts(Slot([share(A, 0.5), share(B, 0.5)], {A: use(0.9, mps=True), B: use(0.0)}))
    assert {part.who: (part.watts, part.split) for part in found} == {A: (250.0, "equal"), B: (250.0, "equal")}


def test_no_user_and_no_holder() -> None:
    found = parts(Slot([share(A, 0.5), share(B, 0.25)], {}))
    assert {part.who: part.watts for part in found} == pytest.approx({A: 250.0, B: 125.0, NOBODY: 125.0})
    assert {part.split for part in found} == {"allocation"}
    assert parts(Slot([], {})) == [PowerPart("", NOBODY, 500.0, "whole")]


def test_a_process_without_an_allocation_pays_what_it_works() -> None:
    found = parts(Slot([], {A: use(0.5)}))
    assert {part.who: part.watts for part in found} == {NOBODY: 100.0, A: 400.0}


def test_without_idle_power_the_label_says_so() -> None:
    found = parts(Slot([share(A, 0.5), share(B, 0.5)], {A: use(0.75), B: use(0.25)}), idle=None)
    assert {part.who: (part.watts, part.split) for part in found} == {
        A: (375.0, "sm_without_idle"),
        B: (125.0, "sm_without_idle"),
    }


def test_where_nobody_says_who_holds_the_users_bear_it() -> None:
    found = parts(Slot([], {A: use(0.5), B: use(0.5)}), known=False)
    assert {part.who: part.watts for part in found} == {A: 250.0, B: 250.0}


def test_replicas_of_an_unknown_number() -> None:
    found = parts(Slot([share(A, None)], {}))
    assert found == [PowerPart("", A, 500.0, "whole")]


def test_slices_by_activity_and_size() -> None:
    device = gpu(
        0,
        power_watts=450.0,
        mig_slices=7,
        mig=(mig(1, 1, sm=0.5, slices=4), mig(2, 2, sm=1.0, slices=2)),
    )
    slots = {mig_uuid(1): Slot([share(A, 1.0)], {A: use()}), mig_uuid(2): Slot([share(B, 1.0)], {B: use()})}
    found = split_power(device, slots, 70.0, holders_known=True)
    assert {(part.mig, part.who): part.watts for part in found} == pytest.approx(
        {(mig_uuid(1), A): 40 + 190, (mig_uuid(2), B): 20 + 190, ("", NOBODY): 10}
    )
    assert {part.split for part in found} == {"mig_activity"}


def test_slices_in_use_by_size_where_activity_is_not_known() -> None:
    device = gpu(0, power_watts=170.0, mig_slices=7, mig=(mig(1, 1, slices=3), mig(2, 2, slices=3)))
    slots = {mig_uuid(1): Slot([share(A, 0.5), share(B, 0.5)], {A: use(), B: use()})}
    found = split_power(device, slots, 70.0, holders_known=True)
    assert {(part.mig, part.who, part.split): part.watts for part in found} == pytest.approx(
        {
            (mig_uuid(1), A, "mig_slices+equal"): 15 + 50,
            (mig_uuid(1), B, "mig_slices+equal"): 15 + 50,
            (mig_uuid(2), NOBODY, "mig_slices"): 30,
            ("", NOBODY, "mig_slices"): 10,
        }
    )


def test_no_power_no_parts() -> None:
    assert split_power(gpu(0), {}, 70.0, holders_known=True) == []
    assert split_power(gpu(0, power_watts=1.0, state="lost"), {}, 70.0, holders_known=True) == []


WHO = st.sampled_from([A, B, NOBODY])
SLOT = st.builds(
    Slot,
    st.lists(st.builds(share, WHO, st.none() | st.floats(0, 1)), max_size=4),
    st.dictionaries(WHO, st.builds(use, st.none() | st.floats(0, 1), mps=st.booleans()), max_size=3),
)


@given(
    st.floats(0, 1000),
    st.none() | st.floats(0, 1000),
    st.dictionaries(st.sampled_from([gpu_uuid(0), mig_uuid(1), mig_uuid(2)]), SLOT),
    st.none() | st.lists(st.tuples(st.none() | st.floats(0, 1), st.integers(1, 7)), max_size=2),
    st.booleans(),
)
def test_the_parts_add_up_to_the_device(
    watts: float,
    idle: float | None,
    slots: dict[str, Slot],
    slices: list[tuple[float | None, int]] | None,
    known: bool,
) -> None:
    devices = None if slices is None else tuple(mig(n, n, sm=sm, slices=size) for n, (sm, size) in enumerate(slices, 1))
    device = gpu(0, power_watts=watts, mig=devices, mig_slices=7)
    found = split_power(device, slots, idle, holders_known=known)
    assert sum(part.watts for part in found) == pytest.approx(watts, abs=1e-6)
    assert all(part.watts >= -1e-9 for part in found)
