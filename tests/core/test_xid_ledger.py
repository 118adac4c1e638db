"""Two sources that tell of the same errors, late, twice, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.xid_ledger import KEYS_MOST, RECENT_MOST, STEP_NS, XidLedger
from agent.core.xids import COUNTED_FROM_ZERO
from tests.support.xids import S, gpu, held, kernel, mig, nvml, pod, seen, snapshot, used


@pytest.fixture
def ledger():
    made = XidLedger()
    made.observe_gpus(snapshot(gpu(0), gpu(1)))
    return made


def test_counters_exist_before_the_first_error(ledger):
    assert ledger.counts == {(f"GPU-{index}", xid): 0 for index in (0, 1) for xid in COUNTED_FROM_ZERO}
    assert ledger.last_ns == {}


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([nvml(79, 100)], 1),
        ([kernel(79, 100)], 1),
        ([kernel(79, 100), nvml(79, 101)], 1),
        ([nvml(79, 100), kernel(79, 99.5)], 1),  # a tick's instant is later or earlier than the error's
        ([nvml(79, 100), kernel(79, 109.9)], 1),
        ([nvml(79, 100), kernel(79, 111)], 2),
        ([kernel(79, 100), kernel(79, 100.5), nvml(79, 101)], 2),
        ([kernel(79, 100), kernel(79, 100.5), nvml(79, 101, count=2)], 2),
        ([nvml(79, 101, count=50), kernel(79, 101), kernel(79, 101)], 50),  # the kernel limits its lines
        ([nvml(79, 100), nvml(79, 101)], 2),
        ([kernel(79, 100), nvml(79, 101), kernel(79, 102), nvml(79, 103)], 2),
    ],
)
def test_an_error_told_twice_is_one_error(ledger, events, count):
    ledger.observe(events)
    assert ledger.counts["GPU-0", 79] == count
    assert ledger.last_ns["GPU-0", 79] == max(event.at_ns for event in events)
    assert ledger.counts["GPU-1", 79] == 0


@given(
    st.lists(st.tuples(st.floats(0, 9.9), st.integers(1, 50)), max_size=30),
    st.lists(st.tuples(st.floats(0, 9.9), st.integers(1, 50)), max_size=30),
    st.randoms(),
)
def test_within_the_window_the_count_is_that_of_who_saw_more(told_by_nvml, told_by_kernel, random):
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu()))
    events = [nvml(48, at, count=n) for at, n in told_by_nvml] + [kernel(48, at, count=n) for at, n in told_by_kernel]
    random.shuffle(events)
    for event in events:
        ledger.observe([event])
    assert ledger.counts["GPU-0", 48] == max(sum(n for _, n in told_by_nvml), sum(n for _, n in told_by_kernel))


def test_a_storm_is_small_in_memory():
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu()))
    for number in range(20_000):
        ledger.observe([kernel(31, number / 1000)])
    (told,) = [told for (_, source), told in ledger._told.items() if source == "kernel"]
    assert len(told.open) <= ledger._window_ns // STEP_NS + 2
    assert ledger.counts["GPU-0", 31] == 20_000
    ledger.observe([nvml(31, 20, count=5_000)])
    assert ledger.counts["GPU-0", 31] == 20_000


def test_a_burst_begins_once(ledger):
    assert len(ledger.observe([kernel(119, 100)])) == 1
    for at in range(101, 400, 50):
        assert ledger.observe([kernel(119, at)]) == []
    assert ledger.observe([nvml(119, 352)]) == []
    (burst,) = ledger.recent(400 * S)
    assert burst.count == 7
    assert len(ledger.observe([kernel(119, 413)])) == 1
    assert len(ledger.observe([kernel(119, 413, pci="0000:1c:00")])) == 1
    assert len(ledger.observe([kernel(120, 413)])) == 1


def test_who_was_hit_at_that_instant(ledger):
    before = seen([held("GPU-0", pod("a"))])
    (burst,) = ledger.observe([nvml(79, 100)], before)
    ledger.observe([nvml(79, 130)], seen([held("GPU-0", pod("later"))]))
    assert burst.workloads == (pod("a"), pod("later"))
    assert burst.gpu.index == 0


def test_the_kernel_names_the_process_that_nvml_does_not(ledger):
    here = seen([], [used("GPU-0", 7, pod("guilty")), used("GPU-0", 8, pod("other"))])
    (burst,) = ledger.observe([nvml(31, 100)], here)
    assert len(burst.workloads) == 2
    assert ledger.observe([kernel(31, 99.2, pid=7, process="python", text="MMU Fault")], here) == []
    assert burst.workloads == (pod("guilty"),)
    assert (burst.event.pid, burst.event.process, burst.event.text) == (7, "python", "MMU Fault")
    assert ledger.latest("GPU-0") == burst.event
    # The other way round, NVML's word adds nobody.
    (burst,) = ledger.observe([kernel(13, 200, pid=7)], here)
    ledger.observe([nvml(13, 201)], here)
    assert burst.workloads == (pod("guilty"),)
    # A second program with its own error joins.
    ledger.observe([kernel(13, 205, pid=8)], here)
    assert burst.workloads == (pod("guilty"), pod("other"))


def test_slices_have_bursts_of_their_own():
    ledger = XidLedger()
    here = seen([held("MIG-0", pod("a")), held("MIG-1", pod("b"))])
    ledger.observe_gpus(snapshot(gpu(mig=(mig(0, 1), mig(1, 2)))))
    first, second = ledger.observe([kernel(94, 100, gpu_instance=1), kernel(94, 100, gpu_instance=2)], here)
    assert (first.workloads, second.workloads) == ((pod("a"),), (pod("b"),))
    assert ledger.observe([nvml(94, 101, gpu_instance=1), nvml(94, 101)], here) == []
    assert ledger.counts["GPU-0", 94] == 2


def test_errors_that_come_before_the_gpus_have_names():
    ledger = XidLedger()
    assert ledger.observe([kernel(79, 100)]) == []
    assert ledger.counts == {}
    (burst,) = ledger.observe_gpus(snapshot(gpu()))
    assert burst.event.uuid == "GPU-0"
    assert ledger.counts["GPU-0", 79] == 1


def test_errors_of_a_gpu_that_is_not_ours(ledger):
    ledger.observe([kernel(79, 100, pci="0000:ff:00")])
    assert ledger.counts["", 79] == 1
    none = XidLedger()
    none.observe([kernel(79, 100)])
    none.observe_gpus(snapshot(driver="no_library"))
    assert none.counts["", 79] == 1


def test_history_is_remembered_and_not_counted(ledger):
    ledger.recall([kernel(74, 50), kernel(74, 40), kernel(8, 50)])
    assert ledger.counts["GPU-0", 74] == ledger.counts["GPU-0", 8] == 0
    assert ledger.last_ns["GPU-0", 74] == 50 * S
    assert ledger.recent(51 * S) == []


def test_a_lost_gpu_keeps_its_name(ledger):
    ledger.observe_gpus(snapshot())
    ledger.observe([kernel(79, 100)])
    assert ledger.counts["GPU-0", 79] == 1


def test_everything_has_an_end(ledger):
    for xid in range(1000, 1000 + 2 * KEYS_MOST):
        ledger.observe([nvml(xid, 100)])
    assert len(ledger.counts) == KEYS_MOST
    assert ledger.dropped == KEYS_MOST + 2 * len(COUNTED_FROM_ZERO)
    assert len(ledger.recent(100 * S)) == RECENT_MOST
    assert ledger.recent(3 * 3600 * S) == []
    unplaced = XidLedger()
    unplaced.observe([kernel(79, 100)] * 10_000)
    assert len(unplaced._unplaced) < 1000
