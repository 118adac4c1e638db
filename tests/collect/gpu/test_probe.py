"""Return codes, kinds of values and times of all calls about a simulated GPU."""

import ctypes

import pytest

from agent.collect.gpu.probe import ALL_FUNCTIONS, fields, probe, system
from agent.collect.gpu.raw import Choices
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim

KNOWN = Choices(1, {"uuid": ["GPU-x"], "pci_bus_id": ["0"]}, [7])


@pytest.fixture
def node():
    return NodeSim(machine.load("h100x8"))


def asked(node, handle=1):
    library = nvml.SimulatedNvml(node)
    library.nvmlInitWithFlags(ctypes.c_uint(0))
    return probe(library, handle, KNOWN, lambda _: None)


def test_kinds_say_nothing_of_the_machine(node):
    node.apply(Control(processes={"0": [SimulatedProcess(pid=7, memory_bytes=1)]}))
    found = asked(node)
    assert set(found) <= set(ALL_FUNCTIONS)
    kinds = {call.get("kind", "") for call in found.values()}
    assert kinds <= {"", "text", "empty text", "number", "zero", "blank", "struct", "list", "empty list"}
    assert found["nvmlDeviceGetComputeRunningProcesses_v3"]["kind"] == "list"
    assert found["nvmlDeviceGetGraphicsRunningProcesses_v3"]["kind"] == "empty list"


def test_codes(node):
    node.apply(Control(returns={"nvmlDeviceGetPowerUsage": {"0": 4}}))
    found = asked(node)
    assert found["nvmlDeviceGetPowerUsage"]["code"] == 4
    assert found["nvmlDeviceGetTemperatureThreshold"]["code"] == 3
    assert found["nvmlDeviceGetRepairStatus"]["code"] == 13  # this face has no such function
    assert "code" not in found["nvmlDeviceGetName"]


def test_times(node):
    node.apply(Control(call_seconds={"nvmlDeviceGetName": 0.01, "*": 0}))
    found = asked(node)
    assert found["nvmlDeviceGetName"]["seconds"] == pytest.approx(0.01, rel=0.5)
    assert found["nvmlDeviceGetIndex"].get("seconds", 0) < 0.005


def test_event_sets_and_samples_are_given_back(node):
    found = asked(node)
    assert found["nvmlGpmSampleGet"].get("code", 0) == 0
    assert found["nvmlGpmMigSampleGet"]["code"] == 3  # not in MIG mode
    assert len(node.gpm_samples) == 0


def test_fields_and_the_node(node):
    library = nvml.SimulatedNvml(node)
    library.nvmlInitWithFlags(ctypes.c_uint(0))
    codes, seconds = fields(library, 1)
    assert (codes[83], codes[300]) == (0, 3)
    assert seconds > 0
    assert system(library, KNOWN)["nvmlSystemGetDriverVersion"]["kind"] == "text"
