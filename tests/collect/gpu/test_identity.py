import pynvml
import pytest

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.collect.gpu.identity import Frame, identify, unidentified
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control
from agent.demo.gpus.model import NodeSim

FRAME = Frame(7, True, "590.48.01", "13.1")


@pytest.fixture
def node():
    made = NodeSim(machine.load("h100x8"))
    nvml.install(made)
    pynvml.nvmlInit()
    yield made
    nvml.uninstall()


def test_who_it_is(node):
    found = identify(Calls(), 2, pynvml.nvmlDeviceGetHandleByIndex(2), FRAME)
    assert (found.uuid, found.pci_bus_id, found.index) == (node.gpus[2].uuid, node.gpus[2].pci_bus_id, 2)
    assert (found.model, found.state, found.read_at_ns) == ("NVIDIA H100 80GB HBM3", "ok", 7)
    assert (found.simulated, found.driver_version, found.cuda_version) == FRAME[1:]


def test_one_that_does_not_say_everything(node):
    refuses = {name: {"2": 3} for name in ("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetUUID", "nvmlDeviceGetName")}
    node.apply(Control(returns=refuses))
    found = identify(Calls(), 2, pynvml.nvmlDeviceGetHandleByIndex(2), FRAME)
    assert (found.uuid, found.pci_bus_id, found.model) == ("", None, "unknown GPU")


@pytest.mark.parametrize(
    ("error", "state"), [(GpuUnavailable("lost", "gone"), "lost"), (Missed("f: in use (19)"), "error")]
)
def test_one_that_refuses(error, state):
    found = unidentified(4, error, FRAME)
    assert (found.uuid, found.index, found.state, found.reason) == ("", 4, state, str(error))
