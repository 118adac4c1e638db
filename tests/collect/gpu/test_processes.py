import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.processes import read_processes
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim

MIB = 2**20


@pytest.fixture
def node():
    node = NodeSim(machine.load("h100x8"))
    library = nvml.install(node)
    pynvml.nvmlInit()
    yield node, library
    nvml.uninstall()


def test_one_process_on_two_lists_counts_once(node):
    sim, library = node
    listed = [SimulatedProcess(pid=9, memory_bytes=MIB), SimulatedProcess(pid=3, memory_bytes=5 * MIB)]
    sim.apply(Control(processes={"0": listed}))
    library.nvmlDeviceGetGraphicsRunningProcesses_v3 = library.nvmlDeviceGetComputeRunningProcesses_v3
    found = read_processes(Calls(), "a", pynvml.nvmlDeviceGetHandleByIndex(0))
    assert [(p.pid, p.kind, p.memory_used_bytes) for p in found] == [(3, "compute", 5 * MIB), (9, "compute", MIB)]


def test_a_list_that_is_not_supported_leaves_the_others(node):
    sim, _ = node
    sim.apply(Control(returns={"nvmlDeviceGetGraphicsRunningProcesses_v3": {"0": 3}}))
    assert read_processes(Calls(), "a", pynvml.nvmlDeviceGetHandleByIndex(0)) == ()


def test_no_list_at_all_is_not_an_empty_one(node):
    sim, _ = node
    lists = ("Graphics", "Compute", "MPSCompute")
    sim.apply(Control(returns={f"nvmlDeviceGet{kind}RunningProcesses_v3": {"0": 3} for kind in lists}))
    assert read_processes(Calls(), "a", pynvml.nvmlDeviceGetHandleByIndex(0)) is None
