"""One set of events: who is in it, and what two looks at it make of a storm."""

import threading

import pynvml
import pytest

from agent.collect.gpu.event_thread import KINDS_MOST, Noticed, Waiter
from agent.core.gpu_readings import XidEvent
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedEvent
from agent.demo.gpus.model import NodeSim


@pytest.fixture
def node():
    made = NodeSim(machine.load("h100x8"))
    nvml.install(made)
    pynvml.nvmlInit()
    yield made
    nvml.uninstall()


def gpus(node):
    return {gpu.uuid: gpu.pci_bus_id for gpu in node.gpus}


def run_until(waiter, right):
    """Lets the thread run until it is `right`, then ends it."""
    waiter.thread.start()
    for _ in range(500):
        if right():
            break
        threading.Event().wait(0.01)
    waiter.ending.set()
    waiter.changed.set()
    waiter.thread.join(5)
    assert not waiter.thread.is_alive()


def test_gpus_without_events_are_left_out_and_those_that_refuse_are_named(node):
    register = {"0": 3, "1": 4, "2": 15}
    node.apply(Control(returns={"nvmlDeviceGetSupportedEventTypes": register}))
    waiter = Waiter(gpus(node), 10)
    run_until(waiter, lambda: waiter.watching)
    assert node.gpus[0].uuid not in waiter.gaps
    assert f"{node.gpus[1].uuid}: nvmlDeviceGetSupportedEventTypes: no permission (4)" in waiter.gaps
    assert f"{node.gpus[2].uuid}: nvmlDeviceGetSupportedEventTypes: GPU is lost (15)" in waiter.gaps


def test_a_node_whose_gpus_have_no_events(node):
    node.apply(Control(returns={"nvmlDeviceGetSupportedEventTypes": {"*": 3}}))
    waiter = Waiter(gpus(node), 10)
    run_until(waiter, lambda: waiter.pointless)
    assert waiter.gaps == "no GPU of this node has events"
    assert not waiter.watching


def test_a_storm_is_counted_and_not_queued(node):
    waiter = Waiter(gpus(node), 10)
    noticed = Noticed()

    def all_told():
        if waiter.watching and not node.control.events:
            node.apply(Control(events=[SimulatedEvent(number=n, gpu=n % 2, xid=31) for n in range(1, 501)]))
        taken = waiter.take()
        for place, count in taken.xids.items():
            noticed.xids[place] = noticed.xids.get(place, 0) + count
        return sum(noticed.xids.values()) == 500

    run_until(waiter, all_told)
    assert sorted(noticed.xids.values()) == [250, 250]


def test_too_many_kinds_at_once_are_dropped_and_counted(node):
    waiter = Waiter(gpus(node), 10)
    data = pynvml.c_nvmlEventData_t()
    waiter._uuids = {0: "GPU-x"}
    data.eventType = pynvml.nvmlEventTypeXidCriticalError
    for xid in range(KINDS_MOST + 7):
        data.eventData = xid
        waiter._note(data)
    taken = waiter.take()
    assert (len(taken.xids), taken.dropped, taken.kinds) == (KINDS_MOST, 7, {"xid": KINDS_MOST + 7})
    assert waiter.take().xids == {}


def test_an_event_of_a_newer_driver_has_its_number_for_a_name(node):
    waiter = Waiter(gpus(node), 10)
    data = pynvml.c_nvmlEventData_t()
    data.eventType = 0x10000
    waiter._uuids = {0: "GPU-x"}
    waiter._note(data)
    assert waiter.take().kinds == {"0x10000": 1}


def test_an_event_of_a_gpu_that_is_not_in_the_set_is_asked_for_its_name(node):
    waiter = Waiter({}, 10)
    data = pynvml.c_nvmlEventData_t()
    data.device = pynvml.nvmlDeviceGetHandleByIndex(4)
    data.eventType = pynvml.nvmlEventTypeXidCriticalError
    data.eventData = 79
    data.gpuInstanceId = data.computeInstanceId = 0xFFFFFFFF
    waiter._note(data)
    assert waiter.take().events(5) == (XidEvent(at_ns=5, uuid=node.gpus[4].uuid, xid=79, source="nvml"),)
