import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.process_calls import PROCESS_LISTS
from agent.collect.gpu.processes import read_processes
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim

MIB = 2**20
COMPUTE = "nvmlDeviceGetComputeRunningProcesses_v3"


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
    functions = [f"nvmlDeviceGet{kind}RunningProcesses_{version}" for kind in lists for version in ("v2", "v3")]
    sim.apply(Control(returns={function: {"0": 3} for function in functions}))
    assert read_processes(Calls(), "a", pynvml.nvmlDeviceGetHandleByIndex(0)) is None


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**31, 2**32 - 1])
def test_what_is_no_process_id(node, pid):
    sim, _ = node
    sim.apply(Control(processes={"0": [SimulatedProcess(pid=pid, memory_bytes=MIB)]}))
    calls = Calls()
    assert read_processes(calls, "a", pynvml.nvmlDeviceGetHandleByIndex(0)) == ()
    assert calls.errors == {"nvmlDeviceGetComputeRunningProcesses: no process id (0)": 1}


def test_a_process_that_holds_more_than_there_is(node):
    sim, _ = node
    sim.apply(Control(processes={"0": [SimulatedProcess(pid=5, memory_bytes=2 * MIB)]}))
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert read_processes(Calls(), "a", handle, MIB)[0].memory_used_bytes is None
    assert read_processes(Calls(), "a", handle, 2 * MIB)[0].memory_used_bytes == 2 * MIB


def test_a_list_that_grows_between_the_two_calls(node):
    sim, library = node
    genuine = library.nvmlDeviceGetComputeRunningProcesses_v3
    rooms = []

    def growing(handle, count, out):
        # Room is made for twice as many and five more; here more than that come at once.
        rooms.append(len(out))
        if len(rooms) == 2:
            sim.apply(Control(processes={"0": held(10 * len(out))}))
        return genuine(handle, count, out)

    def held(number):
        return [SimulatedProcess(pid=n + 1, memory_bytes=MIB) for n in range(number)]

    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    sim.apply(Control(processes={"0": held(len(PROCESS_LISTS[COMPUTE]._buffer) + 1)}))
    library.nvmlDeviceGetComputeRunningProcesses_v3 = growing
    pynvml._nvmlGetFunctionPointer_cache.clear()
    assert len(read_processes(Calls(), "a", handle)) == 10 * rooms[1]
    assert len(rooms) == 4
