"""Genuine pynvml waits for what the control file tells."""

import ctypes

import pynvml
import pytest

from agent.core.xid import parse_xid
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.answers.events import event_data, gpu_events, kernel_line
from agent.demo.gpus.control import Control, SimulatedEvent
from agent.demo.gpus.model import NodeSim

XID = pynvml.nvmlEventTypeXidCriticalError


@pytest.fixture
def node():
    made = NodeSim(machine.load("h100x8"))
    nvml.install(made)
    pynvml.nvmlInit()
    yield made
    nvml.uninstall()


def test_a_set_hears_what_comes_after_it(node):
    node.apply(Control(events=[SimulatedEvent(number=1, gpu=2, xid=13)]))
    events = pynvml.nvmlEventSetCreate()
    handle = pynvml.nvmlDeviceGetHandleByIndex(2)
    assert pynvml.nvmlDeviceGetSupportedEventTypes(handle) & XID
    pynvml.nvmlDeviceRegisterEvents(handle, XID, events)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 1)
    late = SimulatedEvent(number=2, gpu=2, xid=79, gpu_instance=5)
    other = SimulatedEvent(number=3, gpu=3, xid=79)
    unwanted = SimulatedEvent(number=4, gpu=2, kind="ecc_double_bit")
    node.apply(Control(events=[late, other, unwanted]))
    told = pynvml.nvmlEventSetWait_v2(events, 1000)
    assert ctypes.cast(told.device, ctypes.c_void_p).value == ctypes.cast(handle, ctypes.c_void_p).value
    assert (told.eventType, told.eventData, told.gpuInstanceId, told.computeInstanceId) == (XID, 79, 5, 0xFFFFFFFF)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 1)
    node.apply(Control(lost=[2]))
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlEventSetWait_v2(events, 1)
    node.apply(Control(driver="unloaded"))
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlEventSetWait_v2(events, 1)
    node.apply(Control())
    pynvml.nvmlEventSetFree(events)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlEventSetWait_v2(events, 1)


def test_events_of_the_driver(node):
    events = pynvml.nvmlSystemEventSetCreate(pynvml.nvmlSystemEventSetCreateRequest_v1)
    unbind = pynvml.nvmlSystemEventTypeGpuDriverUnbind
    pynvml.nvmlSystemRegisterEvents(pynvml.nvmlSystemRegisterEventRequest_v1, unbind, events)
    buffer = (pynvml.c_nvmlSystemEventData_v1_t * 2)()
    wait = pynvml.nvmlSystemEventSetWaitRequest_v1
    assert pynvml.nvmlSystemEventSetWait(wait, events, 1, buffer, 2) == []
    told = [SimulatedEvent(number=n, gpu=n, kind="driver_unbind") for n in (1, 2, 3)]
    node.apply(Control(events=[*told, SimulatedEvent(number=4, kind="driver_bind")]))
    assert [e["gpuId"] for e in pynvml.nvmlSystemEventSetWait(wait, events, 1000, buffer, 2)] == [1, 2]
    assert [e["gpuId"] for e in pynvml.nvmlSystemEventSetWait(wait, events, 1000, buffer, 2)] == [3]
    assert pynvml.nvmlSystemEventSetWait(wait, events, 1, buffer, 2) == []
    pynvml.nvmlSystemEventSetFree(pynvml.nvmlSystemEventSetFreeRequest_v1, events)


def test_the_bytes_of_an_event_for_the_c_library(node):
    event = SimulatedEvent(number=1, gpu=2, xid=79)
    data = bytes(event_data(event, 3))
    assert len(data) == 32
    assert [int.from_bytes(data[at : at + 8], "little") for at in (0, 8, 16)] == [3, XID, 79]
    node.apply(Control(events=[SimulatedEvent(number=2), SimulatedEvent(number=1, kind="driver_bind"), event]))
    assert [one.number for one in gpu_events(node)] == [1, 2]


def test_the_kernels_line_says_the_same(node):
    line = kernel_line(SimulatedEvent(number=1, gpu=0, xid=94, gpu_instance=5, pid=7, process="vllm"), node.gpus[0])
    found = parse_xid(line)
    assert (found.pci, found.xid, found.gpu_instance) == ("0000:1b:00", 94, 5)
    assert (found.pid, found.process) == (7, "vllm")
    assert parse_xid(kernel_line(SimulatedEvent(number=1, xid=79), node.gpus[0])).pid is None
