"""The reader's logic over simulated GPUs in this process: time is the tick's, so an hour passes at once."""

import threading

import pynvml
import pytest

from agent.collect.gpu.driver import Driver, Replace
from agent.collect.gpu.events import EventWatch
from agent.collect.gpu.frames import (
    EXIT_ALL_UNKNOWN,
    EXIT_DRIVER_AWAY,
    EXIT_DRIVER_LEAVING,
    EXIT_VERSION_MISMATCH,
    Tick,
)
from agent.collect.gpu.meters import NS
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedEvent, SimulatedProcess
from agent.demo.gpus.model import NodeSim


class Bench:
    def __init__(self, name):
        self.node = NodeSim(machine.load(name))
        self.library = nvml.install(self.node)
        self.driver = Driver(10 * NS, NS)
        self.now = 1000 * NS
        self.touched = []

    def tick(self, seconds=1.0, skip=()):
        self.now += int(seconds * NS)
        self.node.advance(self.now)
        self.touched.clear()
        tick = Tick(unix_ns=self.now, boot_ns=self.now, skip=skip)
        return {reading.index: reading for reading in self.driver.tick(tick, self.touched.append)}

    def control(self, **wishes):
        self.node.apply(Control(**wishes))


@pytest.fixture
def h100():
    yield Bench("h100x8")
    nvml.uninstall()


@pytest.fixture
def rtx():
    yield Bench("rtx4080sx2")
    nvml.uninstall()


def test_every_value_of_a_data_centre_gpu(h100):
    h100.control(processes={"0": [SimulatedProcess(pid=7, memory_bytes=10**9)]})
    found = h100.tick()
    assert sorted(found) == list(range(8))
    gpu = found[0]
    assert (gpu.state, gpu.model, gpu.pci_bus_id) == ("ok", "NVIDIA H100 80GB HBM3", "00000000:1B:00.0")
    assert (gpu.driver_version, gpu.cuda_version) == ("590.48.01", "13.1")
    assert (gpu.memory_used_bytes, gpu.memory_reserved_bytes) == (10**9, 479 * 2**20)
    assert gpu.memory_used_bytes + gpu.memory_free_bytes + gpu.memory_reserved_bytes == gpu.memory_total_bytes
    assert gpu.temperature_slowdown_celsius == 89  # from margins: this GPU states no threshold
    assert (gpu.memory_temperature_celsius, gpu.power_limit_watts) == (48, 700)
    assert gpu.throttle_reasons == ("gpu_idle",)
    assert set(gpu.clocks_hertz) == {"graphics", "sm", "memory", "video"}
    assert [(p.pid, p.kind, p.memory_used_bytes) for p in gpu.processes] == [(7, "compute", 10**9)]
    assert gpu.processes_read_at_ns == gpu.read_at_ns == h100.now


def test_what_a_consumer_gpu_lacks_is_absent_and_not_asked_again(rtx):
    for _ in range(12):
        gpu = rtx.tick()[0]
    assert gpu.memory_temperature_celsius is None
    assert gpu.temperature_slowdown_celsius == 96
    assert (
        rtx.driver.calls.counts["nvmlDeviceGetTemperatureThreshold"] == 5  # slowdown each minute, shutdown once
    )  # slowdown and shutdown, once a minute at first and again
    assert "nvmlDeviceGetMarginTemperature" not in rtx.driver.calls.counts


def test_dear_calls_are_rare_and_gpus_take_turns(h100):
    per_tick = []
    for _ in range(41):
        before = h100.driver.calls.counts.get("nvmlDeviceGetComputeRunningProcesses_v3", 0)
        h100.tick()
        per_tick.append(h100.driver.calls.counts["nvmlDeviceGetComputeRunningProcesses_v3"] - before)
    assert per_tick[0] == 8
    assert sum(per_tick[21:41]) == 16
    assert max(per_tick[11:]) <= 2


def test_a_function_that_the_driver_lacks_has_an_older_variant(rtx):
    rtx.node.machine = machine.msgspec.structs.replace(
        rtx.node.machine,
        missing=(
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetTemperatureV",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetFieldValues",
        ),
    )
    gpu = rtx.tick()[0]
    gpu = rtx.tick()[0]
    assert gpu.temperature_celsius == 43
    assert gpu.memory_used_bytes == (596 + 434) * 2**20  # the old struct counts the reserved part as used
    assert gpu.memory_reserved_bytes is None
    assert gpu.energy_source == "counter"
    assert gpu.throttle_reasons == ("gpu_idle",)
    assert rtx.driver.calls.counts["nvmlDeviceGetMemoryInfo_v2"] == 1


def test_a_lost_gpu_is_left_alone_and_found_again(h100):
    h100.tick()
    h100.control(lost=[3])
    found = h100.tick()
    assert (found[3].state, found[3].uuid) == ("lost", h100.node.gpus[3].uuid)
    assert "reset" in found[3].reason
    assert found[3].power_watts is None
    assert found[2].state == "ok"
    h100.tick()
    assert 3 not in [t.index for t in h100.touched]
    pauses, last = [], h100.now
    for _ in range(900):
        h100.tick(2)
        if 3 in [t.index for t in h100.touched]:
            pauses.append((h100.now - last) // NS)
            last = h100.now
    assert pauses[:4] == pytest.approx([30, 60, 120, 240], abs=3)
    assert max(pauses) <= 602
    h100.control()
    for _ in range(302):
        found = h100.tick(2)
    assert found[3].state == "ok"
    assert found[3].processes == ()


@pytest.mark.parametrize(("code", "state"), [(15, "lost"), (28, "lost"), (16, "reset_required")])
def test_codes_that_concern_the_whole_gpu(h100, code, state):
    h100.tick()
    h100.control(returns={"nvmlDeviceGetUtilizationRates": {"2": code}})
    found = h100.tick()
    assert found[2].state == state
    assert [gpu.state for gpu in found.values()].count("ok") == 7


def test_a_gpu_that_is_lost_from_the_start_is_reported(h100):
    h100.control(lost=[3])
    found = h100.tick()
    assert (found[3].uuid, found[3].state) == ("", "lost")


@pytest.mark.parametrize("code", [17, 19, 20, 27, 10])
def test_a_passing_error_costs_one_value(h100, code):
    h100.tick()
    h100.control(returns={"nvmlDeviceGetUtilizationRates": {"2": code}})
    gpu = h100.tick()[2]
    assert (gpu.state, gpu.utilization_ratio) == ("ok", None)
    assert gpu.temperature_celsius is not None
    (text,) = h100.driver.calls.errors
    assert text.startswith("nvmlDeviceGetUtilizationRates")
    h100.control()
    assert h100.tick()[2].utilization_ratio is not None


def test_a_missing_right_is_said_and_the_rest_is_read(h100):
    h100.control(returns={"nvmlDeviceGetComputeRunningProcesses_v3": {"*": 4}})
    found = h100.tick()
    assert found[0].state == "ok"
    assert "nvmlDeviceGetComputeRunningProcesses_v3" in h100.driver.message


def leaves(bench):
    """Exit status with which the reader asks to be replaced at this tick."""
    with pytest.raises(Replace) as wish:
        bench.tick()
    return wish.value.status


def test_a_driver_that_goes_takes_the_process_with_it(h100):
    """Nothing of NVML stays mapped while the driver is exchanged."""
    h100.tick()
    h100.control(driver="unloaded")
    assert leaves(h100) == EXIT_DRIVER_AWAY
    assert h100.driver.state == "no_driver"
    assert "not loaded" in h100.driver.message


def test_a_driver_that_was_upgraded_needs_a_new_process(h100):
    h100.tick()
    h100.control(driver="mismatch")
    assert leaves(h100) == EXIT_VERSION_MISMATCH
    nvml.install(h100.node)  # what a new process finds
    h100.driver = Driver(10 * NS, NS)
    assert h100.tick()[0].state == "ok"


def test_after_a_new_start_everything_is_asked_again(h100):
    ninth = h100.node.gpus.pop()
    h100.control(returns={LOAD: {"*": 3}})
    assert h100.tick()[0].utilization_ratio is None
    h100.control()
    h100.node.gpus.append(ninth)
    h100.tick(61)
    found = h100.tick()
    assert found[0].utilization_ratio is not None
    assert len(found) == 8


LOAD = "nvmlDeviceGetUtilizationRates"
HANDLE = "nvmlDeviceGetHandleByIndex_v2"
CODES = [*range(1, 30), 999, 31337]


def effect(bench, call):
    """What a tick comes to: an exit status, or the state of the driver and of GPU 2, and whether it has its load."""
    try:
        found = call()
    except Replace as wish:
        return wish.status
    gpu = found.get(2)
    return bench.driver.state, gpu and gpu.state, gpu is not None and gpu.utilization_ratio is not None


ONE_VALUE_LESS = ("ok", "ok", False)
WHOLE_DRIVER = {1: EXIT_DRIVER_AWAY, 9: EXIT_DRIVER_AWAY, 12: ("no_library", None, False), 18: EXIT_VERSION_MISMATCH}
GONE = {15: ("ok", "lost", False), 28: ("ok", "lost", False), 16: ("ok", "reset_required", False)}
FOR_GOOD = {3, 4, 13, 25, 26}


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_call_about_one_gpu(h100, code):
    h100.tick()
    h100.control(returns={LOAD: {"2": code}})
    assert effect(h100, h100.tick) == {**GONE, **WHOLE_DRIVER}.get(code, ONE_VALUE_LESS)
    if code in WHOLE_DRIVER:
        return
    others = [gpu for index, gpu in h100.tick().items() if index != 2]
    assert [gpu.state for gpu in others] == ["ok"] * 7
    h100.control()
    back = h100.tick()[2].utilization_ratio is not None
    assert back == (code not in FOR_GOOD and code not in GONE)
    counted = [text for text in h100.driver.calls.errors if text.endswith(f"({code})")]
    assert bool(counted) == (code not in {*FOR_GOOD, *GONE, 6, 21})


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_start(h100, code):
    h100.control(returns={"nvmlInitWithFlags": {"*": code}})
    wanted = {12: ("no_library", None, False), 18: EXIT_VERSION_MISMATCH}.get(code, EXIT_DRIVER_AWAY)
    assert effect(h100, h100.tick) == wanted
    assert h100.driver.message
    if code == 4:
        assert "/dev/nvidiactl" in h100.driver.message


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_counting_the_gpus(h100, code):
    h100.control(returns={"nvmlDeviceGetCount_v2": {"*": code}})
    assert effect(h100, h100.tick) == WHOLE_DRIVER.get(code, ("starting", None, False))
    if code in WHOLE_DRIVER:
        return
    assert f"({code})" in h100.driver.message
    h100.control()
    assert len(h100.tick()) == 8  # asked again at once
    h100.control(returns={"nvmlDeviceGetCount_v2": {"*": code}})
    for _ in range(3):
        assert len(h100.tick(61)) == 8  # those that are known are read on


# Without those that say that the driver lacks the function: it does for all GPUs or for none.
@pytest.mark.parametrize("code", [code for code in CODES if code not in (13, 25, 26)])
def test_every_code_of_being_handed_a_gpu(h100, code):
    h100.control(returns={HANDLE: {"2": code}})
    not_ours = dict.fromkeys((3, 4, 6, 21), ("ok", None, False))
    wanted = {**not_ours, **GONE, **WHOLE_DRIVER}.get(code, ("ok", "error", False))
    assert effect(h100, h100.tick) == wanted
    if code in WHOLE_DRIVER:
        return
    h100.control()
    h100.tick(61)
    assert h100.tick(61)[2].state == "ok"


@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_driver_that_hands_out_no_gpu_is_not_well(h100, code):
    h100.control(returns={HANDLE: {"*": code}})
    assert h100.tick() == {}
    assert h100.driver.state == "no_gpu"
    assert "counts 8 GPUs" in h100.driver.message


def test_a_gpu_that_answers_one_call_and_refuses_the_next(h100):
    h100.tick()
    for code, other in ((999, 3), (17, 999)):
        h100.control(returns={LOAD: {"2": code}, "nvmlDeviceGetMemoryInfo_v2": {"2": other}})
        gpu = h100.tick()[2]
        assert (gpu.state, gpu.utilization_ratio) == ("ok", None)
        assert gpu.temperature_celsius is not None
        h100.control()
        assert h100.tick()[2].utilization_ratio is not None


def test_a_gpu_that_is_removed_and_put_back(h100):
    before = h100.tick()
    h100.control(removed=[3])
    found = h100.tick()
    assert (found[3].state, found[3].uuid) == ("lost", before[3].uuid)
    assert "removed" in found[3].reason
    h100.tick(61)
    found = h100.tick(61)
    assert [gpu.state for index, gpu in found.items() if index != 3] == ["ok"] * 7
    h100.control()
    for _ in range(4):
        found = h100.tick(300)
    assert {gpu.uuid for gpu in found.values() if gpu.state == "ok"} == {gpu.uuid for gpu in before.values()}


def test_what_a_driver_counts(h100):
    assert h100.driver.gpus_counted is None
    h100.tick()
    assert h100.driver.gpus_counted == 8


def test_no_library():
    nvml.uninstall()
    driver = Driver(10 * NS, NS)
    if driver_library_present():
        pytest.skip("this machine has the real library")
    assert list(driver.tick(Tick(unix_ns=1, boot_ns=1), lambda _: None)) == []
    assert driver.state == "no_library"
    assert "libnvidia-ml.so.1" in driver.message
    assert list(driver.tick(Tick(unix_ns=2, boot_ns=2), lambda _: None)) == []
    assert driver.calls.counts["nvmlInit"] == 1


def driver_library_present():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False
    except pynvml.NVMLError:
        return True
    pynvml.nvmlShutdown()
    return True


def test_no_gpu(h100):
    h100.node.gpus.clear()
    assert h100.tick() == {}
    assert h100.driver.state == "no_gpu"


def test_versions_that_differ_need_a_new_process(h100):
    h100.control(returns={"nvmlInitWithFlags": {"*": 18}})
    with pytest.raises(Replace) as wish:
        h100.tick()
    assert wish.value.status == EXIT_VERSION_MISMATCH
    assert "different versions" in h100.driver.message


def test_all_gpus_unknown_need_a_new_process(h100):
    h100.tick()
    h100.control(returns={"*": {str(index): 999 for index in range(8)}})
    with pytest.raises(Replace) as wish:
        h100.tick()
    assert wish.value.status == EXIT_ALL_UNKNOWN


def test_a_lost_gpu_does_not_hide_that_all_others_are_unknown(h100):
    h100.tick()
    h100.control(lost=[3])
    h100.tick()
    h100.control(lost=[3], returns={"*": {str(index): 999 for index in range(8)}})
    with pytest.raises(Replace):
        h100.tick()


def test_one_unknown_gpu_is_only_in_error(h100):
    h100.tick()
    h100.control(returns={"*": {"1": 999}})
    found = h100.tick()
    assert found[1].state == "error"
    assert "999" in found[1].reason
    assert found[0].state == "ok"


def test_a_benched_gpu_is_not_touched(h100):
    found = h100.tick(skip=(5,))
    assert 5 not in found
    assert 5 not in [t.index for t in h100.touched]
    assert h100.tick()[5].state == "ok"


def test_a_gpu_is_named_before_it_is_touched(h100):
    h100.tick()
    assert [(t.what, t.index) for t in h100.touched[:4]] == [
        ("nvmlInit", None),
        ("nvmlDeviceGetCount", None),
        ("nvmlDeviceGetHandleByIndex", 0),
        ("readings", 0),
    ]
    h100.tick()
    assert [t.index for t in h100.touched] == list(range(8))
    assert not any(t.first for t in h100.touched)


def test_a_gpu_that_is_added_is_found(h100):
    ninth = h100.node.gpus.pop()
    assert len(h100.tick()) == 7
    h100.node.gpus.append(ninth)
    for _ in range(62):
        found = h100.tick()
    assert len(found) == 8


def test_many_processes(h100):
    listed = [SimulatedProcess(pid=pid, memory_bytes=pid) for pid in range(1, 200)]
    h100.control(processes={"0": listed})
    assert len(h100.tick()[0].processes) == 199


def test_what_the_driver_lent_is_given_back_before_nvml_is(h100):
    h100.tick()
    h100.tick(1.5)
    assert len(h100.node.gpm_samples) == 16
    h100.control(lost=[3])
    assert h100.tick()[3].state == "lost"
    assert len(h100.node.gpm_samples) == 14
    h100.driver.close()
    assert len(h100.node.gpm_samples) == 0


def test_close_gives_nvml_back_once(h100):
    h100.tick()
    h100.driver.close()
    h100.driver.close()
    assert h100.driver.calls.counts["nvmlShutdown"] == 1


@pytest.fixture
def watched(h100):
    h100.driver = Driver(10 * NS, NS, events=EventWatch(wait_milliseconds=20))
    h100.tick()
    turns_until(h100, lambda: h100.driver.events.watched)
    yield h100
    h100.driver.close()


def turns_until(bench, right):
    """Ticks a hundredth of a second apart until it is `right`; the thread that waits for events is real."""
    told = []
    for _ in range(500):
        tick = Tick(unix_ns=bench.now, boot_ns=bench.now)
        told += bench.driver.notice(tick)
        if right():
            return told
        bench.tick(0.01)
        threading.Event().wait(0.01)
    raise AssertionError("not within 5 s")


def test_an_error_is_told_with_the_instant_of_the_tick(watched):
    watched.control(events=[SimulatedEvent(number=1, gpu=3, xid=79)])
    (event,) = turns_until(watched, lambda: watched.driver.events_seen.get("xid"))
    assert (event.uuid, event.xid, event.source) == (watched.node.gpus[3].uuid, 79, "nvml")
    assert event.at_ns == watched.now


def test_a_mig_event_makes_the_gpu_asked_anew(watched):
    uuid = watched.node.gpus[1].uuid
    watched.driver.calls.unsupported.add((uuid, "nvmlX"))
    watched.driver.calls.unsupported.add(("other", "nvmlX"))
    watched.control(events=[SimulatedEvent(number=1, gpu=1, kind="mig_reconfigured")])
    turns_until(watched, lambda: watched.driver.events_seen.get("mig_reconfigured"))
    assert (uuid, "nvmlX") not in watched.driver.calls.unsupported
    assert ("other", "nvmlX") in watched.driver.calls.unsupported


def test_a_driver_that_is_being_unbound_is_let_go(watched):
    watched.control(events=[SimulatedEvent(number=1, kind="driver_unbind")])
    with pytest.raises(Replace) as wish:
        turns_until(watched, lambda: False)
    assert wish.value.status == EXIT_DRIVER_LEAVING
    assert watched.driver.state == "restarting"
    assert "unbound" in watched.driver.message
    assert watched.driver.calls.counts["nvmlShutdown"] == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "nvml-events"]


def test_a_driver_that_was_bound_is_counted_again(watched):
    counted = watched.driver.calls.counts["nvmlDeviceGetCount"]
    watched.control(events=[SimulatedEvent(number=1, kind="driver_bind")])
    turns_until(watched, lambda: watched.driver.events_seen.get("driver_bind"))
    watched.tick()
    assert watched.driver.calls.counts["nvmlDeviceGetCount"] == counted + 1
