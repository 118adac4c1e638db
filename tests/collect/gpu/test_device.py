"""One GPU over the simulator: what an odd driver or an odd GPU does to a reading."""

import ctypes

import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.device import Device, Pace
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuReading
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim


class Bench:
    def __init__(self, name="h100x8"):
        self.node = NodeSim(machine.load(name))
        self.library = nvml.install(self.node)
        pynvml.nvmlInit()
        self.calls = Calls()
        gpu = self.node.gpus[0]
        identity = GpuReading(
            uuid=gpu.uuid, index=0, model=gpu.facts.model, read_at_ns=0, state="ok", pci_bus_id=gpu.pci_bus_id
        )
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.device = Device(self.calls, handle, identity, Pace(10 * NS, 1.0, 5 * NS))
        self.now = 0

    def read(self):
        self.now += NS
        self.node.advance(self.now)
        return self.device.read(self.now, self.now)

    def control(self, **wishes):
        self.node.apply(Control(**wishes))


@pytest.fixture
def bench():
    yield Bench()
    nvml.uninstall()


def test_energy_is_the_counter_and_agrees_with_power(bench):
    bench.control(load={"0": 1.0})
    readings = [bench.read() for _ in range(60)]
    assert {r.energy_source for r in readings} == {"counter"}
    gained = readings[-1].energy_joules - readings[9].energy_joules
    assert gained == pytest.approx(50 * 631.9, rel=0.01)


def test_energy_without_a_counter_is_integrated(bench):
    facts = machine.msgspec.structs.replace(bench.node.gpus[0].facts, unsupported_fields=(83,))
    bench.node.gpus[0].facts = facts
    for _ in range(11):
        gpu = bench.read()
    assert gpu.energy_source == "integrated"
    assert gpu.energy_joules == pytest.approx(10 * 69.85)


def test_a_field_of_the_batch_may_fail_alone(bench):
    facts = machine.msgspec.structs.replace(bench.node.gpus[0].facts, unsupported_fields=(82,))
    bench.node.gpus[0].facts = facts
    gpu = bench.read()
    assert gpu.memory_temperature_celsius is None
    assert gpu.energy_source == "counter"
    assert gpu.temperature_slowdown_celsius == 89


def test_a_field_that_is_refused_is_not_asked_for_again(bench):
    bench.node.gpus[0].facts = machine.msgspec.structs.replace(bench.node.gpus[0].facts, unsupported_fields=(82, 194))
    genuine, asked = bench.library.nvmlDeviceGetFieldValues, []

    def listening(handle, count, out):
        asked.append([item.fieldId for item in out._obj[: count.value]])
        return genuine(handle, count, out)

    bench.library.nvmlDeviceGetFieldValues = listening
    for _ in range(12):
        bench.read()
    assert asked == [[83, 82, 194]] + [[83]] * 11


def test_throttled_seconds(bench):
    bench.control(load={"0": 1.0}, temperature={"0": 93})
    for _ in range(4):
        gpu = bench.read()
    assert {"hw_slowdown", "hw_thermal"} <= set(gpu.throttle_reasons)
    assert gpu.throttle_seconds["hw_thermal"] == 3
    assert gpu.throttle_seconds["power_brake"] == 0
    assert gpu.clocks_hertz["sm"] == 990e6


def test_the_slowdown_temperature_is_the_lowest_seen(bench):
    assert bench.read().temperature_slowdown_celsius == 89
    bench.node.gpus[0].facts = machine.msgspec.structs.replace(bench.node.gpus[0].facts, slowdown_margin_celsius=1)
    for _ in range(11):
        gpu = bench.read()
    assert gpu.temperature_slowdown_celsius == 86
    bench.node.gpus[0].facts = machine.msgspec.structs.replace(bench.node.gpus[0].facts, slowdown_margin_celsius=-2)
    for _ in range(11):
        gpu = bench.read()
    assert gpu.temperature_slowdown_celsius == 86


def test_unified_memory_reports_none(bench):
    bench.control(returns={"nvmlDeviceGetMemoryInfo_v2": {"0": 3}, "nvmlDeviceGetMemoryInfo": {"0": 3}})
    gpu = bench.read()
    assert gpu.state == "ok"
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (None, None)


def test_a_gpu_in_mig_mode_has_no_utilisation(bench):
    bench.control(returns={"nvmlDeviceGetUtilizationRates": {"0": 3}})
    gpu = bench.read()
    assert (gpu.state, gpu.utilization_ratio) == ("ok", None)
    assert gpu.power_watts is not None


def test_memory_of_a_process_may_be_unknown(bench):
    unknown = ctypes.c_ulonglong(-1).value
    bench.control(processes={"0": [SimulatedProcess(pid=9, memory_bytes=unknown)]})
    (process,) = bench.read().processes
    assert (process.pid, process.memory_used_bytes) == (9, None)


def test_process_list_that_keeps_growing_is_tried_three_times(bench):
    bench.control(returns={"nvmlDeviceGetComputeRunningProcesses_v3": {"0": 7}})
    bench.read()
    # pynvml asks for the size once more each time; the list is given up for this round, the rest is kept.
    assert bench.calls.counts["nvmlDeviceGetComputeRunningProcesses_v3"] == 3
    assert bench.read().state == "ok"


def test_early_535_drivers_are_read_through_the_older_list(bench):
    functions = {"nvmlDeviceGetConfComputeMemSizeInfo": lambda *_: 3}
    lists = "nvmlDeviceGet{}RunningProcesses_v2"
    for kind in ("Compute", "Graphics", "MPSCompute"):
        functions[lists.format(kind)] = lambda *_: 0
    for name, function in functions.items():
        setattr(bench.library, name, function)
    assert bench.read().processes == ()
    assert not any(name.endswith("_v3") for name in bench.calls.counts)
