"""The real reader process over a C library of our own: marshalling, hangs with the GIL released, ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agent.collect.gpu import frames
from agent.collect.gpu.driver import Driver
from agent.collect.gpu.meters import NS
from agent.collect.gpu.reader import serve
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim
from tests.support.nvml.watch import FAST, watching


def conversation(node, *ticks):
    """Exit status and answers of a reader in this process that is told `ticks` and then left alone."""
    nvml.install(node)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"".join(frames.encode(tick) for tick in ticks))
        ours.shutdown(socket.SHUT_WR)
        try:
            status = serve(theirs, Driver(10 * NS, NS, simulated=True), lambda tick: node.advance(tick.boot_ns))
        finally:
            nvml.uninstall()
        theirs.close()
        data = b"".join(iter(lambda: ours.recv(65536), b""))
    return status, [frames.decode_answer(body) for body in frames.FrameBuffer().feed(data)]


def test_the_answers_to_a_tick_and_the_end():
    node = NodeSim(machine.load("rtx4080sx2"))
    ticks = [frames.Tick(unix_ns=s * NS, boot_ns=s * NS) for s in (1, 2)]
    status, answers = conversation(node, *ticks)
    assert status == 0
    assert [type(answer).__name__ for answer in answers] == (
        ["Touching"] * 2 + (["Touching", "Touching", "GpuRead"] * 2) + ["TickEnded"]
    ) + (["Touching", "GpuRead"] * 2 + ["TickEnded"])
    assert answers[-1].driver == "ok"
    assert answers[-1].calls["nvmlDeviceGetUtilizationRates"] == 4
    assert {answer.reading.read_at_ns for answer in answers[-5:] if isinstance(answer, frames.GpuRead)} == {2 * NS}


def test_a_reader_that_must_be_replaced_says_why_before_it_ends():
    node = NodeSim(machine.load("rtx4080sx2"))
    node.apply(Control(returns={"nvmlInitWithFlags": {"*": 18}}))
    status, answers = conversation(node, frames.Tick(unix_ns=1, boot_ns=1))
    assert status == frames.EXIT_VERSION_MISMATCH
    assert answers[-1].driver == "no_driver"
    assert "different versions" in answers[-1].message


def test_a_supervisor_that_is_gone_is_a_quiet_end():
    nvml.install(NodeSim(machine.load("rtx4080sx2")))
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(frames.encode(frames.Tick(unix_ns=1, boot_ns=1)))
        ours.close()
        try:
            assert serve(theirs, Driver(10 * NS, NS)) == 0
        finally:
            nvml.uninstall()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


H100 = machine.load("h100x8").gpus[0]


@pytest.mark.component("cc")
@pytest.mark.parametrize("name", ["h100x8", "rtx4080sx2"])
@pytest.mark.parametrize("at_work", [False, True])
async def test_readings_are_the_facts_of_the_machine(c_library, name, at_work):
    library = c_library(name)
    recorded = machine.load(name)
    held = SimulatedProcess(pid=4711, memory_bytes=4 * 10**9)
    gpus = range(len(NodeSim(recorded).gpus))
    if at_work:
        library.wants(recorded={str(index): "load" for index in gpus}, processes={str(index): [held] for index in gpus})
    facts = recorded.gpus[0]
    state = facts.load if at_work else facts.idle
    async with watching(environment=library.environment) as watch:
        snapshot = await watch.until(lambda s: s.driver == "ok")
    assert [(g.uuid, g.pci_bus_id, g.model, g.state) for g in snapshot.gpus] == [
        (sim.uuid, sim.pci_bus_id, facts.model, "ok") for sim in NodeSim(recorded).gpus
    ]
    gpu = snapshot.gpus[-1]
    assert not gpu.simulated
    assert gpu.driver_version == recorded.driver_version
    assert gpu.utilization_ratio == state.utilization_percent / 100
    assert gpu.memory_utilization_ratio == state.memory_utilization_percent / 100
    assert gpu.memory_total_bytes == facts.memory_total_bytes
    assert gpu.memory_reserved_bytes == facts.memory_reserved_bytes
    assert gpu.memory_used_bytes == (state.memory_used_bytes if at_work else facts.memory_baseline_bytes)
    assert gpu.temperature_celsius == state.temperature_celsius
    assert gpu.memory_temperature_celsius == state.memory_temperature_celsius
    assert gpu.power_watts == state.power_watts
    assert gpu.power_limit_watts == facts.power_limit_watts
    assert gpu.clocks_hertz == {domain: mhz * 1e6 for domain, mhz in state.clocks_megahertz.items()}
    assert gpu.throttle_reasons == (() if at_work else ("gpu_idle",))
    assert gpu.energy_source == "counter"
    slowdown = facts.slowdown_celsius
    if slowdown is None:
        slowdown = state.temperature_celsius + state.temperature_margin_celsius - facts.slowdown_margin_celsius
    assert gpu.temperature_slowdown_celsius == slowdown
    listed = [(process.pid, process.kind, process.memory_used_bytes) for process in gpu.processes]
    assert listed == ([(held.pid, "compute", held.memory_bytes)] if at_work else [])


@pytest.mark.component("cc")
async def test_a_hung_gpu_costs_only_itself(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        before = await watch.until(lambda s: s.driver == "ok")
        first = watch.reader.pid
        library.wants(hang=[5])
        after = await watch.states({5: "hung", 0: "ok", 7: "ok"})
        assert watch.reader.pid != first
        assert after.gpus[5].uuid == before.gpus[5].uuid
        assert after.gpus[5].power_watts is None
        assert "did not answer" in after.gpus[5].reason
        assert after.reader_restarts == 1
        assert watch.reader.abandoned == ()  # this one could be killed
        # No snapshot in between claims anything about a GPU that was not read.
        for snapshot in watch.snapshots[2:]:
            assert [gpu.state for gpu in snapshot.gpus].count("ok") in (7, 8)


@pytest.mark.component("cc")
async def test_a_gpu_that_hangs_before_it_has_a_name(c_library):
    library = c_library()
    library.wants(hang=[2])
    settings = FAST.model_copy(update={"call_deadline_seconds": 0.4})
    async with watching(environment=library.environment, settings=settings) as watch:
        snapshot = await watch.states({2: "hung", 3: "ok"})
        assert (snapshot.gpus[2].uuid, snapshot.gpus[2].model) == ("index-2", "unknown GPU")


@pytest.mark.component("cc")
async def test_a_driver_that_hangs_at_the_start(c_library):
    library = c_library()
    library.wants(hang_driver=True)
    settings = FAST.model_copy(update={"call_deadline_seconds": 0.4})
    async with watching(environment=library.environment, settings=settings) as watch:
        snapshot = await watch.until(lambda s: s.driver == "hung")
        assert "nvmlInit" in snapshot.message
        assert snapshot.gpus == ()
        library.wants()
        await watch.states({0: "ok"})


@pytest.mark.component("cc")
async def test_a_lost_gpu_keeps_its_name(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        before = await watch.states({3: "ok"})
        library.wants(lost=[3])
        after = await watch.states({3: "lost", 2: "ok"})
        assert after.gpus[3].uuid == before.gpus[3].uuid
        assert after.reader_restarts == 0


@pytest.mark.component("cc")
@pytest.mark.parametrize(("code", "says"), [(9, "not loaded"), (18, "different versions"), (999, "cannot be used")])
async def test_a_driver_that_refuses_and_comes_back(c_library, code, says):
    library = c_library()
    library.wants(returns={"nvmlInitWithFlags": {"*": code}})
    async with watching(environment=library.environment) as watch:
        refused = await watch.until(lambda s: s.driver == "no_driver")
        assert says in refused.message
        library.wants()
        assert len((await watch.states({0: "ok"})).gpus) == 8


@pytest.mark.component("cc")
async def test_a_driver_upgrade_replaces_the_reader(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.states({0: "ok"})
        first = watch.reader.pid
        library.wants(driver="mismatch")
        away = await watch.until(lambda s: s.driver == "no_driver")
        assert [gpu.state for gpu in away.gpus] == ["error"] * 8 or away.gpus[0].state == "error"
        library.wants()
        await watch.states({0: "ok"})
        assert watch.reader.pid != first


@pytest.mark.component("cc")
async def test_all_gpus_unknown_replaces_the_reader_once_and_then_waits(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.states({0: "ok"})
        library.wants(returns={"*": {str(index): 999 for index in range(8)}})
        told = await watch.until(lambda s: "/dev/nvidia" in s.message and s.reader_restarts >= 2)
        assert [gpu.state for gpu in told.gpus] == ["error"] * 8
        library.wants()
        await watch.states({0: "ok", 7: "ok"})


async def test_no_driver_on_this_node(tmp_path):
    if driver_library_present():
        pytest.skip("this machine has the real library")
    async with watching(environment={"LD_LIBRARY_PATH": str(tmp_path)}) as watch:
        snapshot = await watch.until(lambda s: s.driver == "no_library")
        assert "libnvidia-ml.so.1" in snapshot.message
        assert snapshot.gpus == ()


def driver_library_present() -> bool:
    probe = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0


@pytest.mark.component("cc")
async def test_a_driver_without_the_newer_functions(c_library):
    library = c_library(
        missing=(
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetTemperatureV",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetMarginTemperature",
            "nvmlDeviceGetFieldValues",
        )
    )
    library.wants(recorded={"0": "load"}, processes={"0": [SimulatedProcess(pid=7, memory_bytes=10**9)]})
    async with watching(environment=library.environment) as watch:
        gpu = (await watch.states({0: "ok"})).gpus[0]
    assert (
        gpu.memory_used_bytes == H100.load.memory_used_bytes + H100.memory_reserved_bytes
    )  # the old struct cannot tell them apart
    assert gpu.memory_reserved_bytes is None
    assert gpu.temperature_celsius == H100.load.temperature_celsius
    assert gpu.throttle_reasons == ()
    assert len(gpu.processes) == 1
    assert gpu.energy_source == "counter"
    assert gpu.temperature_slowdown_celsius is None


@pytest.mark.component("cc")
async def test_a_gpu_that_crashes_the_reader_is_left_alone(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.states({0: "ok"})
        library.wants(crash=[6])
        restarting = await watch.until(lambda s: s.driver == "restarting")
        assert "signal 11" in restarting.message
        benched = await watch.states({6: "error", 0: "ok", 7: "ok"}, seconds=30)
        assert "crashed" in benched.gpus[6].reason


@pytest.mark.component("cc")
async def test_the_reader_ends_when_its_supervisor_is_cancelled(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.states({0: "ok"})
        pid = watch.reader.pid
    assert not alive(pid)


@pytest.mark.component("cc")
async def test_a_hung_reader_does_not_hold_up_the_end(c_library):
    library = c_library()
    patient = FAST.model_copy(update={"call_deadline_seconds": 60})
    with anyio.fail_after(10):
        async with watching(environment=library.environment, settings=patient) as watch:
            await watch.states({0: "ok"})
            pid = watch.reader.pid
            library.wants(hang=list(range(8)))
            # It is in the call when its socket has nothing more to say: wait for a tick that is not answered.
            seen = len(watch.snapshots)
            with anyio.move_on_after(1):
                await watch.until(lambda _: len(watch.snapshots) > seen + 100)
    assert not alive(pid)


PARENT = """
import sys, anyio
from agent.collect.gpu.supervisor import GpuReader
from tests.support.nvml.watch import FAST
reader = GpuReader(FAST, lambda s: print(s.driver, reader.pid, [g.state for g in s.gpus], flush=True))
anyio.run(reader.run)
"""


def started(environment):
    command = [sys.executable, "-c", PARENT]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


@pytest.mark.component("cc")
@pytest.mark.parametrize("hung", [False, True])
async def test_the_reader_ends_with_its_parent(c_library, hung):
    library = c_library()
    parent = started(library.environment)
    try:
        line = next(line for line in parent.stdout if line.startswith("ok"))
        handle = os.pidfd_open(int(line.split()[1]))
        if hung:
            library.wants(hang=list(range(8)))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    try:
        with anyio.fail_after(5):
            await anyio.wait_readable(handle)
    finally:
        os.close(handle)
