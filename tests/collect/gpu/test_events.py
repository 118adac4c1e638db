"""The watch over the waiting thread: events of simulated GPUs, and threads that end or do not come back."""

import threading

import pynvml
import pytest

from agent.collect.gpu.events import STUCK_MOST, STUCK_NS, EventWatch
from agent.collect.gpu.meters import NS
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedEvent
from agent.demo.gpus.model import NodeSim


class Bench:
    def __init__(self):
        self.node = NodeSim(machine.load("h100x8"))
        nvml.install(self.node)
        pynvml.nvmlInit()
        self.gpus = {gpu.uuid: gpu.pci_bus_id for gpu in self.node.gpus}
        self.watch = EventWatch(wait_milliseconds=20)
        self.now = 0
        self.kinds = {}
        self.xids = []

    def until(self, right, step_ns=NS // 100):
        """Turns until it is `right`. The thread is real, the instants are ours."""
        for _ in range(500):
            self.now += step_ns
            self.watch.follow(self.gpus, self.now)
            noticed = self.watch.take()
            for kind, count in noticed.kinds.items():
                self.kinds[kind] = self.kinds.get(kind, 0) + count
            self.xids += noticed.events(self.now)
            if right():
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"not within 5 s: {self.watch.watched} {self.watch.problem!r} {self.kinds}")

    def tells(self, *events, **more):
        self.node.apply(Control(events=list(events), **more))


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.watch.close()
    nvml.uninstall()
    assert not [thread for thread in threading.enumerate() if thread.name == "nvml-events" and thread.is_alive()]


def test_before_the_start(bench):
    assert bench.watch.watched is False
    assert bench.watch.problem == "not started"
    assert bench.watch.take().events(0) == ()


def test_what_the_driver_tells(bench):
    bench.until(lambda: bench.watch.watched)
    assert bench.watch.problem == ""
    bench.tells(
        SimulatedEvent(number=1, gpu=3, xid=79),
        SimulatedEvent(number=2, gpu=4, xid=94, gpu_instance=2, compute_instance=0),
        SimulatedEvent(number=3, gpu=0, kind="ecc_double_bit"),
        SimulatedEvent(number=4, kind="driver_bind"),
    )
    bench.until(lambda: len(bench.kinds) == 3)
    assert bench.kinds == {"xid": 2, "ecc_double_bit": 1, "driver_bind": 1}
    first, second = sorted(bench.xids, key=lambda event: event.xid)
    assert (first.uuid, first.xid, first.gpu_instance) == (bench.node.gpus[3].uuid, 79, None)
    assert (second.uuid, second.gpu_instance, second.compute_instance) == (bench.node.gpus[4].uuid, 2, 0)


def test_a_lost_gpu_is_left_out_and_the_others_are_heard(bench):
    bench.until(lambda: bench.watch.watched)
    bench.node.apply(Control(lost=[3]))
    bench.until(lambda: "lost" in bench.watch.problem)
    # The next tick finds that it is lost, and follows only the others.
    del bench.gpus[bench.node.gpus[3].uuid]
    bench.until(lambda: bench.watch.watched)
    bench.tells(SimulatedEvent(number=1, gpu=5, xid=31), lost=[3])
    bench.until(lambda: bench.xids)
    assert bench.xids[0].uuid == bench.node.gpus[5].uuid


def test_a_driver_that_does_not_answer_is_asked_again(bench):
    bench.until(lambda: bench.watch.watched)
    bench.node.apply(Control(returns={"nvmlEventSetWait_v2": {"*": 999}}))
    bench.until(lambda: "nvmlEventSetWait_v2: unknown error (999)" in bench.watch.problem)
    assert bench.watch.watched is False
    bench.node.apply(Control())
    bench.until(lambda: bench.watch.watched)
    assert bench.watch.problem == ""


def test_a_thread_that_dies_is_replaced_with_a_word(bench, monkeypatch):
    deaths = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)
    bench.until(lambda: bench.watch.watched)
    monkeypatch.setattr(pynvml, "nvmlEventSetWait_v2", lambda *_: 1 / 0)
    bench.until(lambda: "has ended" in bench.watch.problem)
    assert deaths[0].exc_type is ZeroDivisionError
    assert bench.watch.watched is False
    monkeypatch.undo()
    bench.until(lambda: bench.watch.watched, step_ns=NS // 10)


def test_a_thread_that_does_not_return_is_left_behind_but_not_too_often(bench, monkeypatch):
    gate = threading.Event()
    started = []

    def wait(*_):
        started.append(1)
        gate.wait()
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)

    bench.until(lambda: bench.watch.watched)
    monkeypatch.setattr(pynvml, "nvmlEventSetWait_v2", wait)
    bench.until(lambda: "nvmlEventSetWait_v2 does not return" in bench.watch.problem, step_ns=STUCK_NS // 20)
    assert bench.watch.watched is False
    for _ in range(100):
        bench.watch.follow(bench.gpus, bench.now)
        bench.now += STUCK_NS
        threading.Event().wait(0.005)
    assert len(started) <= STUCK_MOST
    assert bench.watch.watched is False
    gate.set()
    bench.until(lambda: not [t for t in threading.enumerate() if t.name == "nvml-events"])


def test_a_driver_without_events():
    node = NodeSim(machine.load("h100x8"))
    node.machine = machine.msgspec.structs.replace(
        node.machine, missing=("nvmlEventSetCreate", "nvmlSystemEventSetCreate")
    )
    made = Bench()
    nvml.install(node)
    pynvml.nvmlInit()
    made.until(lambda: made.watch.watched is None)
    assert made.watch.problem == "this driver has no events"
    made.watch.close()
    nvml.uninstall()
