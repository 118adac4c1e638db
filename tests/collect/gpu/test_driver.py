"""The reader's logic over simulated GPUs in this process: time is the tick's, so an hour passes at once."""

import pynvml
import pytest

from agent.collect.gpu.driver import Driver, Replace
from agent.collect.gpu.frames import EXIT_ALL_UNKNOWN, EXIT_VERSION_MISMATCH, Tick
from agent.collect.gpu.meters import NS
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
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
    assert rtx.driver.calls.counts["nvmlDeviceGetTemperatureThreshold"] == 4
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
    h100.control(returns={"nvmlDeviceGetPowerUsage": {"2": code}})
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
    h100.control(returns={"nvmlDeviceGetPowerUsage": {"2": code}})
    gpu = h100.tick()[2]
    assert (gpu.state, gpu.power_watts) == ("ok", None)
    assert gpu.utilization_ratio is not None
    (text,) = h100.driver.calls.errors
    assert text.startswith("nvmlDeviceGetPowerUsage")
    h100.control()
    assert h100.tick()[2].power_watts is not None


def test_a_missing_right_is_said_and_the_rest_is_read(h100):
    h100.control(returns={"nvmlDeviceGetComputeRunningProcesses_v3": {"*": 4}})
    found = h100.tick()
    assert found[0].state == "ok"
    assert "nvmlDeviceGetComputeRunningProcesses_v3" in h100.driver.message


def test_the_driver_goes_and_comes_back(h100):
    h100.tick()
    h100.control(driver="unloaded")
    assert h100.tick() == {}
    assert h100.driver.state == "no_driver"
    assert "not loaded" in h100.driver.message
    for _ in range(100):
        h100.tick()
    assert h100.driver.calls.counts["nvmlInit"] < 10  # pauses grow
    h100.control()
    for _ in range(61):
        found = h100.tick()
    assert h100.driver.state == "ok"
    assert len(found) == 8


def test_a_new_driver_is_asked_everything_again(h100):
    h100.control(returns={"nvmlDeviceGetPowerUsage": {"*": 3}, "nvmlDeviceGetTemperatureV": {"*": 13}})
    assert h100.tick()[0].power_watts is None
    h100.control(driver="unloaded")
    h100.tick()
    h100.control()
    h100.tick(5)
    assert h100.tick()[0].power_watts is not None
    before = h100.driver.calls.counts["nvmlDeviceGetTemperatureV"]
    h100.tick()
    assert h100.driver.calls.counts["nvmlDeviceGetTemperatureV"] == before + 8


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


def test_close_gives_nvml_back_once(h100):
    h100.tick()
    h100.driver.close()
    h100.driver.close()
    assert h100.driver.calls.counts["nvmlShutdown"] == 1
