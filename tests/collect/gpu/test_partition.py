"""MIG of a simulated GPU, as a recording keeps it."""

import msgspec
import pynvml
import pytest

from agent.collect.gpu.partition import partition
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.machine import MigFacts
from agent.demo.gpus.model import NodeSim


def recorded(name):
    nvml.install(NodeSim(machine.load(name)))
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def ask(function, *arguments):
        try:
            return getattr(pynvml, function)(handle, *arguments)
        except pynvml.NVMLError:
            return None

    try:
        return partition(ask)
    finally:
        nvml.uninstall()


@pytest.mark.parametrize("name", ["h100mig", "h200mig", "h100x8"])
def test_profiles_and_layout(name):
    found = msgspec.convert(recorded(name), MigFacts)
    known = machine.load(name).gpus[0].mig
    assert found.layout == known.layout
    assert found.profiles == known.profiles
    assert (found.slices, found.slice_multiprocessors) == (known.slices, known.slice_multiprocessors)
    if known.layout is not None:
        assert found.slice_used_bytes == known.slice_used_bytes


def test_a_gpu_that_cannot_be_divided():
    assert recorded("rtx4080sx2") is None
