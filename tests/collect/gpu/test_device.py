"""One GPU over the simulator: what an odd driver or an odd GPU does to a reading."""

import ctypes

import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.device import REASK_NS, Device, Pace
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuReading
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim
from tests.support.gpu_bench import GpuBench, PricedCalls


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
    for _ in range(72):
        gpu = bench.read()
    assert [numbers.count(82) for numbers in asked].count(1) == 1
    assert sum(194 in numbers for numbers in asked) == 1
    assert asked[5] == [185, 83]
    assert {"field 82", "field 194"} <= set(gpu.not_offered)


def test_what_is_refused_is_asked_for_again_each_hour_and_when_mig_changes(bench):
    bench.control(returns={"nvmlDeviceGetUtilizationRates": {"0": 3}})
    assert bench.read().utilization_ratio is None
    bench.control()
    assert bench.read().utilization_ratio is None
    assert "nvmlDeviceGetUtilizationRates" in bench.device.read(bench.now, bench.now).not_offered
    bench.device.reconfigured()
    gpu = bench.read()
    assert gpu.utilization_ratio == 0.0
    assert "nvmlDeviceGetUtilizationRates" not in gpu.not_offered
    bench.control(returns={"nvmlDeviceGetUtilizationRates": {"0": 3}})
    bench.read()
    bench.control()
    bench.now += REASK_NS
    bench.read()
    assert bench.read().utilization_ratio == 0.0


def test_a_gpu_that_answers_once_and_then_refuses(bench):
    bench.control(
        returns={"nvmlDeviceGetUtilizationRates": {"0": 3}, "nvmlDeviceGetMemoryInfo_v2": {"0": 999}},
        returns_after={"nvmlDeviceGetUtilizationRates": 2, "nvmlDeviceGetMemoryInfo_v2": 1},
    )
    found = [bench.read() for _ in range(4)]
    assert [gpu.utilization_ratio for gpu in found] == [0.0, 0.0, None, None]
    assert [gpu.memory_used_bytes for gpu in found] == [0, None, None, None]
    assert {gpu.state for gpu in found} == {"ok"}


def test_an_eager_part_is_read_each_second_only_while_it_is_cheap():
    prices = {"nvmlDeviceGetTemperatureV": 0.5}
    bench = GpuBench(calls=PricedCalls(prices))
    bench.read(40)
    assert bench.calls.counts["nvmlDeviceGetTemperatureV"] <= 8
    prices.clear()
    before = bench.calls.counts["nvmlDeviceGetTemperatureV"]
    bench.read(60)
    assert bench.calls.counts["nvmlDeviceGetTemperatureV"] > before + 30
    bench.close()


def test_one_dear_answer_is_bad_luck():
    prices = {"*": 1.0}
    bench = GpuBench(calls=PricedCalls(prices))
    bench.read()
    prices.clear()
    bench.read(10)
    assert bench.calls.counts["nvmlDeviceGetTemperatureV"] >= 11
    bench.close()


def test_throttled_seconds(bench):
    bench.control(load={"0": 1.0}, temperature={"0": 93})
    for _ in range(11):
        gpu = bench.read()
    assert {"hw_slowdown", "hw_thermal"} <= set(gpu.throttle_reasons)
    assert gpu.throttle_seconds["hw_thermal"] == 11  # the driver's counter
    assert gpu.throttle_seconds["hw_slowdown"] == 10  # seen
    assert gpu.throttle_seconds["power_brake"] == 0
    assert gpu.clocks_hertz["sm"] == 990e6


def test_the_slower_tiers_are_stretched(bench):
    bench.device.stretch = 3.0
    counts = bench.calls.counts
    for _ in range(61):
        bench.read()
    assert counts["nvmlDeviceGetComputeRunningProcesses_v3"] in (3, 6)
    assert counts["nvmlDeviceGetUtilizationRates"] == 61


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
    # The list is given up for this round, the rest is kept.
    assert bench.calls.counts["nvmlDeviceGetComputeRunningProcesses_v3"] == 3
    assert bench.read().state == "ok"


def test_early_535_drivers_are_read_through_the_older_list(bench):
    bench.library.nvmlDeviceGetConfComputeMemSizeInfo = lambda *_: 3
    bench.control(processes={"0": [SimulatedProcess(pid=7, memory_bytes=10**9)]})
    assert [process.pid for process in bench.read().processes] == [7]
    assert not any(name.endswith("_v3") for name in bench.calls.counts)
