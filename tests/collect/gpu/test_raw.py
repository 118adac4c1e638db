"""Shapes become C arguments, and outputs become bytes."""

import ctypes

import pynvml
import pytest

from agent.collect.gpu.raw import Choices, answers, choices_of, made, words
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim

NOBODY = Choices(2, {"uuid": ["GPU-a", "GPU-b"], "pci_bus_id": []}, [7])


@pytest.fixture
def library():
    node = NodeSim(machine.load("rtx4080sx2"))
    node.apply(Control(processes={"0": [SimulatedProcess(pid=pid, memory_bytes=10**6) for pid in range(1, 40)]}))
    face = nvml.SimulatedNvml(node)
    face.nvmlInitWithFlags(ctypes.c_uint(0))
    return face


@pytest.mark.parametrize(
    ("word", "choices"),
    [
        ("i=0,2", [0, 2]),
        ("i=gpus", [0, 1]),
        ("i=pids", [7]),
        ("k=uuid", ["GPU-a", "GPU-b"]),
        ("o:c_uint", [None]),
        ("v:c_nvmlTemperature_v1_t:nvmlTemperature_v1:sensorType=0,1", [(0,), (1,)]),
    ],
)
def test_what_an_argument_may_be(word, choices):
    assert list(choices_of(word, NOBODY)) == choices


def test_a_versioned_struct_carries_its_version_and_what_it_asks_for():
    call = made(words("nvmlDeviceGetTemperatureV"), "nvmlDeviceGetTemperatureV", [1, (0,)], 0)
    out = call.arguments[1]._obj
    assert out.version == pynvml.nvmlTemperature_v1
    assert call.key == ["nvmlDeviceGetTemperatureV", 1, bytes(out)[:8]]


def test_outputs_are_in_the_order_of_the_arguments(library):
    ((call, code),) = answers(library, "nvmlDeviceGetPowerManagementLimitConstraints", {"h": [1]}, NOBODY)
    assert code == 0
    assert [int.from_bytes(call.payload()[at : at + 4], "little") for at in (0, 4)] == [150_000, 400_000]


def test_a_list_is_asked_for_its_length_first(library):
    ((call, code),) = answers(library, "nvmlDeviceGetComputeRunningProcesses_v3", {"h": [1]}, NOBODY)
    assert (code, call.wanted()) == (0, 39)
    assert len(call.payload()) == 4 + 39 * 24


def test_a_refusal_is_an_answer(library):
    ((_, code),) = answers(library, "nvmlDeviceGetSerial", {"h": [1]}, NOBODY)
    assert code == pynvml.NVML_ERROR_NOT_SUPPORTED
    found = list(answers(library, "nvmlDeviceGetHandleByUUID", {}, NOBODY))
    assert [code for _, code in found] == [pynvml.NVML_ERROR_NOT_FOUND] * 2
