"""The simulator's two faces: what the Python one answers in this process, the C library answers in another."""

import ctypes
import json
import os
import subprocess
import sys

import pynvml
import pytest

from agent.collect.gpu.raw import Choices
from agent.collect.gpu.shapes import SHAPES, STATEFUL
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import SimulatedEvent, SimulatedProcess, SimulatedSlice
from tests.support.components import need
from tests.support.nvml.everything import everything
from tests.support.nvml.library import CLibrary

pytestmark = pytest.mark.component("cc")


@pytest.fixture
def library(tmp_path):
    def make(name):
        return CLibrary(machine.load(name), tmp_path, tmp_path / "table", need("cc"))

    return make


def run(library, *command):
    environment = {**os.environ, **library.environment}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_c(library, *lines):
    """The JSON that these lines print, with NVML initialised."""
    begin = "import json, time, pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0)"
    return run(library, "-c", "\n".join([begin, *lines]))


@pytest.mark.parametrize("name", machine.names())
def test_both_answer_alike(library, name):
    c = library(name)
    held = [SimulatedProcess(pid=pid, memory_bytes=pid * 10**6) for pid in (11, 12)]
    c.wants(load={"0": 0.4}, processes={"0": held})
    node = c.writer.node
    uuids = [gpu.uuid for gpu in node.gpus] + [
        one.uuid for one in (node.gpus[0].mig and node.gpus[0].mig.devices) or ()
    ]
    handles = [gpu.index + 1 for gpu in node.gpus]
    handles += [one.handle for one in (node.gpus[0].mig and node.gpus[0].mig.devices) or ()]
    known = [len(node.gpus), {"uuid": uuids, "pci_bus_id": [gpu.pci_bus_id for gpu in node.gpus]}, [11, 12]]
    theirs = run(c, "-m", "tests.support.nvml.everything", json.dumps([handles, known]))
    face = nvml.SimulatedNvml(node)
    face.nvmlInitWithFlags(ctypes.c_uint(0))
    ours = json.loads(json.dumps(everything(face, handles, Choices(*known))))
    assert len(ours) > 60
    assert theirs == ours


def test_every_function_of_the_python_face_has_a_shape(library):
    face = nvml.SimulatedNvml(library("h100mig").writer.node)
    known = {*nvml._SYSTEM, *nvml._DEVICE, *nvml._SLICE}
    assert {name for name in known if getattr(face, name, None)} - {*SHAPES, *STATEFUL} == set()


def test_field_values_by_link(library):
    c = library("h100x8")
    c.wants(load={"0": 1.0})
    found = in_c(
        c,
        "fields = n.nvmlDeviceGetFieldValues(h, [83, (138, 0), (138, 0xFFFFFFFF), (138, 40), 9999])",
        "print(json.dumps([[f.nvmlReturn, f.value.ullVal] for f in fields]))",
    )
    assert [code for code, _ in found] == [0, 0, 0, 3, 3]
    assert found[2][1] == pytest.approx(18 * found[1][1], rel=0.01)


def test_mig_comes_and_goes_while_a_client_looks(library):
    c = library("h100x8")
    slices = [SimulatedSlice(profile="1g.10gb", gpu_instance=7), SimulatedSlice(profile="3g.40gb", gpu_instance=2)]
    c.wants(mig={"0": slices})
    look = [
        "m = [n.nvmlDeviceGetMigDeviceHandleByIndex(h, i) for i in range(2)]",
        "names, ids = ([ask(x) for x in m] for ask in (n.nvmlDeviceGetName, n.nvmlDeviceGetGpuInstanceId))",
        "print(json.dumps([n.nvmlDeviceGetMigMode(h), names, ids]))",
    ]
    mode, names, instances = in_c(c, *look)
    assert mode == [1, 1]
    assert [name.rpartition(" ")[2] for name in names] == ["1g.10gb", "3g.40gb"]
    assert instances == [7, 2]


def test_profiling_ratios(library):
    c = library("h100x8")
    c.wants(load={"0": 0.5})
    c.writer.advance(c.writer.node.now_ns + 10**9)
    metric = in_c(
        c,
        "older, newer = n.nvmlGpmSampleAlloc(), n.nvmlGpmSampleAlloc()",
        "n.nvmlGpmSampleGet(h, older); n.nvmlGpmSampleGet(h, newer)",
        "a = n.c_nvmlGpmMetricsGet_t(); a.version, a.numMetrics, a.sample1, a.sample2 = 1, 2, older, newer",
        "a.metrics[0].metricId, a.metrics[1].metricId = 2, 90",
        "n.nvmlGpmMetricsGet(a)",
        "print(json.dumps([[m.nvmlReturn, m.value] for m in a.metrics[:2]]))",
    )
    assert metric[0] == [0, pytest.approx(45)]  # 90 % of the load
    assert metric[1][0] == pynvml.NVML_ERROR_NOT_SUPPORTED


WATCHER = """
import pynvml as n
n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(1); s = n.nvmlEventSetCreate()
n.nvmlDeviceRegisterEvents(h, n.nvmlEventTypeXidCriticalError, s)
print("ready", flush=True)
while True:
    try:
        event = n.nvmlEventSetWait_v2(s, 5000)
        print(event.eventData, event.gpuInstanceId, flush=True)
    except n.NVMLError as error:
        print("error", error.value, flush=True)
        break
"""


def test_events_reach_a_client_that_waits(library):
    c = library("h100x8")
    c.wants(events=[SimulatedEvent(number=1, gpu=1, xid=13)])
    environment = {**os.environ, **c.environment}
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER], env=environment, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout.readline() == "ready\n"
        told = [SimulatedEvent(number=1, gpu=1, xid=13), SimulatedEvent(number=2, gpu=0, xid=31)]
        told.append(SimulatedEvent(number=3, gpu=1, xid=79, gpu_instance=4))
        c.wants(events=told)
        assert watcher.stdout.readline() == "79 4\n"  # neither the old one nor that of another GPU
        c.wants(events=told, lost=[1])
        assert watcher.stdout.readline() == "error 15\n"
        assert watcher.wait(10) == 0


def test_calls_take_as_long_as_they_are_told_to(library):
    c = library("h100x8")
    look = "b = time.perf_counter(); [n.nvmlDeviceGetPowerUsage(h) for _ in range(5)]; print(time.perf_counter() - b)"
    assert in_c(c, look) < 0.05
    c.wants(call_seconds={"nvmlDeviceGetPowerUsage": 0.02})
    assert in_c(c, look) == pytest.approx(0.1, rel=0.5)


def test_an_upgraded_driver_refuses_who_was_there_before(library):
    c = library("h100x8")
    code = "import sys, pynvml as n; n.nvmlInit(); print(1, flush=True); sys.stdin.readline(); n.nvmlDeviceGetCount()"
    environment = {**os.environ, **c.environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as client:
        assert client.stdout.readline() == "1\n"
        c.wants(driver="mismatch")
        _, said = client.communicate("\n", timeout=20)
    assert "Mismatch" in said
    assert in_c(c, "print(n.nvmlDeviceGetCount())") == 8
    c.wants(driver="unloaded")
    with pytest.raises(AssertionError, match="Driver Not Loaded"):
        in_c(c, "print(1)")
