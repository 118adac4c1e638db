from agent.core.gpu_readings import GpuNvlink, GpuPcie, GpuReading
from exporters.dcgm_memory import MOST_ARRIVALS, WINDOW_NS, Memory
from tests.support.dcgm import NOW_NS, NS, gpu, snapshot


def carrying(transmitted: int | None, **changes: object) -> GpuReading:
    pcie = GpuPcie(transmitted_bytes=transmitted)
    return gpu(pcie=pcie, nvlink=None, **changes)


def observed(*readings: tuple[int, GpuReading]) -> Memory:
    """What is remembered after these readings, each at its second."""
    memory = Memory()
    for second, reading in readings:
        memory.observe(snapshot(reading, at_ns=NOW_NS + second * NS), {}, {}, watched=False)
    return memory


def test_a_rate_is_known_once_the_counter_was_seen_twice():
    assert observed((0, carrying(1000))).rates("GPU-0") == {}
    assert observed((0, carrying(1000)), (10, carrying(6000))).rates("GPU-0") == {"pcie_tx": 500.0}


def test_a_counter_that_is_read_seldom_has_the_rate_between_its_two_readings():
    ticks = [(second, carrying(1000 if second < 10 else 6000)) for second in range(15)]
    assert observed(*ticks).rates("GPU-0") == {"pcie_tx": 500.0}


def test_a_counter_that_stands_still_has_no_rate_for_ever():
    ticks = [(0, carrying(1000)), (10, carrying(6000)), (39, carrying(6000)), (40, carrying(6000))]
    assert observed(*ticks[:3]).rates("GPU-0") == {"pcie_tx": 500.0}
    assert observed(*ticks).rates("GPU-0") == {"pcie_tx": 0.0}


def test_it_is_waited_longer_for_counters_that_are_read_more_seldom():
    memory = Memory(counters_seconds=5.0)
    for second, rates in ((0, {}), (29, {}), (30, {"pcie_tx": 0.0})):
        tick = snapshot(carrying(7), at_ns=NOW_NS + second * NS, tier_stretch=2.0)
        memory.observe(tick, {}, {}, watched=False)
        assert memory.rates("GPU-0") == rates


def test_a_counter_that_began_anew_has_no_rate_until_the_next_reading():
    ticks = [(0, carrying(9000)), (10, carrying(9500)), (20, carrying(100)), (30, carrying(300))]
    assert observed(*ticks[:3]).rates("GPU-0") == {}
    assert observed(*ticks).rates("GPU-0") == {"pcie_tx": 20.0}


def test_a_gpu_that_was_away_begins_anew():
    lost = carrying(None, state="lost")
    assert observed((0, carrying(0)), (1, carrying(5)), (2, lost), (3, carrying(10))).rates("GPU-0") == {}
    assert observed((0, carrying(0)), (1, carrying(None)), (2, carrying(10))).rates("GPU-0") == {}


def test_the_sum_of_nvlink_needs_both_directions():
    def linked(tx: int | None, rx: int | None) -> GpuReading:
        return gpu(pcie=None, nvlink=GpuNvlink(transmitted_bytes=tx, received_bytes=rx))

    assert observed((0, linked(0, 0)), (1, linked(5, 7))).rates("GPU-0")["nvlink"] == 12.0
    assert "nvlink" not in observed((0, linked(0, None)), (1, linked(5, None))).rates("GPU-0")


def test_time_that_stands_still_or_goes_back_changes_nothing():
    ticks = [(0, carrying(0)), (10, carrying(100)), (10, carrying(900)), (5, carrying(950))]
    assert observed(*ticks).rates("GPU-0") == {"pcie_tx": 10.0}


def test_the_last_xid_sticks_and_is_0_only_where_somebody_looks():
    memory = Memory()
    tick = snapshot(gpu(0), gpu(1))
    memory.observe(tick, {}, {}, watched=False)
    assert memory.last_xid("GPU-0") is None
    memory.observe(tick, {("GPU-0", 79): 0}, {}, watched=True)
    assert (memory.last_xid("GPU-0"), memory.last_xid("GPU-1")) == (0, 0)
    last = {("GPU-0", 13): NOW_NS, ("GPU-0", 79): NOW_NS - NS}
    memory.observe(tick, {("GPU-0", 79): 1, ("GPU-0", 13): 1}, last, watched=False)
    assert (memory.last_xid("GPU-0"), memory.last_xid("GPU-1")) == (13, None)


def test_an_xid_of_before_the_start_is_the_last_one_and_not_counted():
    memory = Memory()
    key = ("GPU-0", 48)
    memory.observe(snapshot(gpu()), {key: 0}, {key: NOW_NS - 1000 * NS}, watched=True)
    assert memory.last_xid("GPU-0") == 48
    assert memory.recent_xids("GPU-0", NOW_NS) == {}


def test_xids_leave_the_window():
    memory = Memory()
    key = ("GPU-0", 31)
    memory.observe(snapshot(gpu()), {key: 2}, {key: NOW_NS}, watched=True)
    memory.observe(snapshot(gpu()), {key: 5}, {key: NOW_NS + 100 * NS}, watched=True)
    memory.observe(snapshot(gpu()), {key: 5}, {key: NOW_NS + 100 * NS}, watched=True)
    assert memory.recent_xids("GPU-0", NOW_NS + 100 * NS) == {31: 5}
    assert memory.recent_xids("GPU-1", NOW_NS + 100 * NS) == {}
    assert memory.recent_xids("GPU-0", NOW_NS + WINDOW_NS) == {31: 3}
    assert memory.recent_xids("GPU-0", NOW_NS + 100 * NS + WINDOW_NS) == {}


def test_a_storm_takes_bounded_room():
    memory = Memory()
    for count in range(1, MOST_ARRIVALS + 10):
        memory.observe(snapshot(), {("GPU-0", 31): count}, {("GPU-0", 31): NOW_NS}, watched=True)
    assert memory.recent_xids("GPU-0", NOW_NS) == {31: MOST_ARRIVALS}
