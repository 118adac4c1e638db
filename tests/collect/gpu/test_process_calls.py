import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.process_calls import PROCESS_LISTS
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim

COMPUTE = "nvmlDeviceGetComputeRunningProcesses_v3"


@pytest.fixture
def node():
    node = NodeSim(machine.load("h100x8"))
    nvml.install(node)
    pynvml.nvmlInit()
    yield node
    nvml.uninstall()


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_the_same_as_pynvml_says(node, count):
    listed = [SimulatedProcess(pid=pid + 1, memory_bytes=pid * 1000) for pid in range(count)]
    node.apply(Control(processes={"0": listed}))
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for function, ours in PROCESS_LISTS.items():
        theirs = getattr(pynvml, function)(handle)
        assert [(one.pid, one.usedGpuMemory, one.gpuInstanceId) for one in ours(handle)] == [
            (one.pid, one.usedGpuMemory, one.gpuInstanceId) for one in theirs
        ]


def test_an_error_is_pynvmls(node):
    node.apply(Control(returns={COMPUTE: {"0": 4}}))
    with pytest.raises(pynvml.NVMLError_NoPermission):
        PROCESS_LISTS[COMPUTE](pynvml.nvmlDeviceGetHandleByIndex(0))


def test_one_call_for_a_list(node):
    node.apply(Control(processes={"0": [SimulatedProcess(pid=1, memory_bytes=1)]}))
    asked = []
    answer = pynvml.nvmlLib.__class__.__getattr__

    class Counting:
        def __getattr__(self, name):
            function = answer(library, name)
            return lambda *arguments: asked.append(name) or function(*arguments)

    library, pynvml.nvmlLib = pynvml.nvmlLib, Counting()
    pynvml._nvmlGetFunctionPointer_cache.clear()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    asked.clear()
    Calls().value("a", COMPUTE, handle)
    assert asked == [COMPUTE]
