"""Replacing, waiting and giving up, with the simulated reader: a real process, no driver needed."""

import itertools
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from agent.collect.gpu.kernel_module import KernelModule
from agent.collect.gpu.settings import GpuSettings
from agent.collect.gpu.supervisor import GpuReader
from agent.demo.gpus.control import Control, SimulatedEvent, SimulatedProcess, write
from tests.support.nvml.watch import FAST, Watch, watching


@pytest.fixture
def control(tmp_path):
    return tmp_path / "control.json"


def simulated(control, machine="h100x8"):
    return [sys.executable, "-m", "agent.demo.gpus.reader", "--machine", machine, "--control", str(control)]


async def test_one_snapshot_per_tick(control):
    async with watching(simulated(control)) as watch:
        await watch.until(lambda _: len(watch.snapshots) >= 6)
    first, *rest = watch.snapshots
    assert (first.driver, first.gpus) == ("starting", ())
    assert first.message
    for earlier, later in itertools.pairwise(rest):
        assert later.read_at_ns - earlier.read_at_ns > 0.15e9
        assert all(gpu.read_at_ns == later.read_at_ns for gpu in later.gpus)
        assert later.nvml_calls["nvmlDeviceGetUtilizationRates"] > earlier.nvml_calls["nvmlDeviceGetUtilizationRates"]
    assert all(gpu.simulated for gpu in rest[-1].gpus)
    assert rest[-1].nvml_call_seconds.keys() == rest[-1].nvml_calls.keys()


async def test_load_and_processes_are_seen(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        write(control, Control(load={"1": 0.8}, processes={"1": [SimulatedProcess(pid=42, memory_bytes=8 * 10**9)]}))
        seen = await watch.until(lambda s: s.gpus[1].utilization_ratio == 0.8 and bool(s.gpus[1].processes))
        assert [(p.pid, p.memory_used_bytes) for p in seen.gpus[1].processes] == [(42, 8 * 10**9)]
        assert seen.gpus[0].utilization_ratio == 0


async def test_several_hung_gpus_one_after_the_other(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        write(control, Control(hang=[1, 5], lost=[3]))
        seen = await watch.states({1: "hung", 5: "hung", 3: "lost", 0: "ok", 7: "ok"})
        assert seen.reader_restarts == 2


async def test_a_killed_reader_is_replaced_with_a_word(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        os.kill(watch.reader.pid, signal.SIGKILL)
        gap = await watch.until(lambda s: s.driver == "restarting")
        assert "signal 9" in gap.message
        assert [(gpu.state, gpu.power_watts) for gpu in gap.gpus] == [("error", None)] * 8
        back = await watch.states({0: "ok"})
        assert back.reader_restarts == 1


def alive(pid):
    return Path(f"/proc/{pid}").exists()


async def test_a_driver_reload(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        first = watch.reader.pid
        write(control, Control(driver="unloaded"))
        away = await watch.until(lambda s: s.driver == "no_driver")
        assert "not loaded" in away.message
        assert away.gpus[0].model == "NVIDIA H100 80GB HBM3"
        await watch.until(lambda _: watch.reader.pid is None)
        assert not alive(first)  # nothing of NVML stays open or mapped
        write(control, Control())
        assert (await watch.states({0: "ok"})).reader_restarts == 0
        assert watch.reader.pid != first


async def test_no_reader_is_started_while_the_kernel_module_is_away(control, tmp_path):
    folder = tmp_path / "nvidia"
    folder.mkdir()
    watch = Watch()
    watch.reader = GpuReader(FAST, watch.add, simulated(control), module=KernelModule(folder))
    async with anyio.create_task_group() as group:
        group.start_soon(watch.reader.run)
        await watch.states({0: "ok"})
        folder.rmdir()
        write(control, Control(driver="unloaded"))
        await watch.until(lambda s: s.driver == "no_driver")
        write(control, Control())
        seen = len(watch.snapshots)
        await watch.until(lambda _: len(watch.snapshots) > seen + 10)  # longer than the pause after a first failure
        assert watch.reader.pid is None
        assert watch.snapshots[-1].driver == "no_driver"
        folder.mkdir()
        await watch.states({0: "ok"})
        group.cancel_scope.cancel()


async def test_a_driver_that_is_being_unbound_finds_nobody(control):
    async with watching(simulated(control)) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        first = watch.reader.pid
        write(control, Control(events=[SimulatedEvent(number=1, kind="driver_unbind")]))
        leaving = await watch.until(lambda s: s.driver == "restarting")
        assert "unbound" in leaving.message
        leaving = await watch.until(lambda _: watch.reader.pid is None)
        assert "unbound" in leaving.message
        assert not alive(first)
        assert leaving.reader_restarts == 0


async def test_a_driver_that_was_upgraded_under_the_reader(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        first = watch.reader.pid
        write(control, Control(driver="mismatch"))
        away = await watch.until(lambda s: s.driver == "no_driver")
        assert "different versions" in away.message
        await watch.states({0: "ok"})
        assert watch.reader.pid != first
        assert not alive(first)


async def test_errors_are_in_one_snapshot_each(control):
    async with watching(simulated(control)) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        told = [SimulatedEvent(number=1, gpu=3, xid=79), SimulatedEvent(number=2, gpu=3, xid=31)]
        write(control, Control(events=told))
        await watch.until(lambda s: s.events_seen.get("xid") == 2)
        await watch.until(lambda s: s.events_problem == "")
    found = [(event.uuid, event.xid) for snapshot in watch.snapshots for event in snapshot.xids]
    assert sorted(found) == [(watch.snapshots[-1].gpus[3].uuid, 31), (watch.snapshots[-1].gpus[3].uuid, 79)]


async def test_an_error_that_comes_with_a_hang_is_told(control):
    async with watching(simulated(control)) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        write(control, Control(hang=[5], events=[SimulatedEvent(number=1, gpu=2, xid=62)]))
        await watch.states({5: "hung", 0: "ok"})
        await watch.until(lambda s: bool(s.events_watched))  # the next reader listens, to the others
        told = [SimulatedEvent(number=1, gpu=2, xid=62), SimulatedEvent(number=2, gpu=2, xid=119)]
        write(control, Control(hang=[5], events=told))
        await watch.until(lambda s: any(event.xid == 119 for event in s.xids))


async def test_a_gpu_that_is_removed_stays_expected(control):
    async with watching(simulated(control)) as watch:
        before = await watch.states({3: "ok"})
        assert before.gpus_expected == 8
        write(control, Control(removed=[3]))
        after = await watch.states({3: "lost", 4: "ok"})
        assert (after.gpus_expected, after.gpus[3].uuid) == (8, before.gpus[3].uuid)
        # A new reader counts seven, under other indices.
        os.kill(watch.reader.pid, signal.SIGKILL)
        moved = await watch.until(lambda s: s.driver == "ok" and s.reader_restarts == 1)
        assert {gpu.uuid: gpu.state for gpu in moved.gpus} == {
            gpu.uuid: "lost" if gpu.index == 3 else "ok" for gpu in before.gpus
        }
        assert moved.gpus_expected == 8


async def test_what_the_driver_lacks_and_what_is_forbidden(control):
    lacks = {"nvmlDeviceGetComputeRunningProcesses_v3": {"*": 4}, "nvmlDeviceGetTemperatureV": {"*": 13}}
    write(control, Control(returns={**lacks, "nvmlDeviceGetUtilizationRates": {"2": 999}}))
    async with watching(simulated(control)) as watch:
        found = await watch.states({2: "ok"})
        assert "nvmlDeviceGetTemperatureV" in found.nvml_missing
        assert "privileged" in found.nvml_forbidden["nvmlDeviceGetComputeRunningProcesses_v3"]
        assert found.nvml_errors["nvmlDeviceGetUtilizationRates: unknown error (999)"] >= 1


async def test_devices_that_were_lost_to_the_container(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        write(control, Control(returns={"*": {str(index): 999 for index in range(8)}}))
        told = await watch.until(lambda s: s.driver == "restarting" and s.reader_restarts >= 2)
        assert "/dev/nvidia" in told.message
        assert watch.reader.access_lost
        write(control, Control())
        await watch.states({0: "ok"})
        assert not watch.reader.access_lost


async def test_devices_that_were_never_there_are_not_lost(control):
    write(control, Control(returns={"*": {str(index): 999 for index in range(8)}}))
    async with watching(simulated(control)) as watch:
        await watch.until(lambda s: s.driver == "restarting" and s.reader_restarts >= 2)
        assert not watch.reader.access_lost


async def test_a_reader_that_cannot_be_started(tmp_path):
    async with watching([str(tmp_path / "absent")]) as watch:
        snapshot = await watch.until(lambda s: s.driver == "restarting")
        assert "cannot be started" in snapshot.message
        assert watch.reader.pid is None


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "print('no reader')"])
async def test_a_program_that_is_no_reader(program):
    async with watching([sys.executable, "-c", program]) as watch:
        snapshot = await watch.until(lambda s: s.driver == "restarting")
        assert "status" in snapshot.message


async def test_a_reader_that_speaks_gibberish():
    program = "import os,sys; fd = int(sys.argv[sys.argv.index('--fd') + 1]); os.read(fd, 1); os.write(fd, b'x' * 99)"
    async with watching([sys.executable, "-c", program]) as watch:
        await watch.until(lambda s: s.driver == "restarting")


async def test_switched_off():
    async with watching(settings=GpuSettings(enabled=False)) as watch:
        snapshot = await watch.until(lambda s: s.driver == "no_gpu")
        assert "gpus.enabled" in snapshot.message
        assert watch.reader.pid is None


async def test_a_wrong_control_file_is_told_by_the_reader_and_survived(control):
    control.write_text('{"lod": {}}')
    async with watching(simulated(control), settings=FAST) as watch:
        await watch.until(lambda s: s.driver == "restarting")
        write(control, Control())
        await watch.states({0: "ok"})


class Stuck:
    """Stands for a reader in the kernel's hands: killed, and not ended."""

    def __init__(self, pid):
        self.pid = pid
        self.ended = False

    def status(self):
        return -9 if self.ended else None

    async def reaped(self, _seconds):
        return self.ended


async def test_too_many_stuck_readers_and_no_new_one_is_started(control):
    watch = Watch()
    reader = GpuReader(FAST, watch.add, simulated(control))
    stuck = [Stuck(pid) for pid in (11, 12, 13, 14)]
    reader._abandoned = list(stuck)
    async with anyio.create_task_group() as group:
        group.start_soon(reader.run)
        snapshot = await watch.until(lambda s: s.driver == "hung")
        assert "11, 12, 13, 14" in snapshot.message
        assert "reboot" in snapshot.message
        await watch.until(lambda _: len(watch.snapshots) > 4)
        assert reader.pid is None
        stuck[0].ended = True
        await watch.states({0: "ok"})
        assert reader.abandoned == (12, 13, 14)
        group.cancel_scope.cancel()


async def test_a_hung_gpu_is_tried_again_when_its_time_has_come(control):
    async with watching(simulated(control)) as watch:
        await watch.states({5: "ok"})
        write(control, Control(hang=[5]))
        await watch.states({5: "hung", 0: "ok"})
        benched = watch.reader._bench.benched
        first_pause = benched[5].pause_ns
        benched[5].due_ns = 0
        seen = len(watch.snapshots)
        await watch.until(lambda _: benched[5].pause_ns == 2 * first_pause)
        tried = watch.snapshots[seen:]
        assert len(tried) > 10
        assert all([gpu.state for gpu in snapshot.gpus].count("ok") == 7 for snapshot in tried)  # nobody waited
        write(control, Control())
        benched[5].due_ns = 0
        back = await watch.states({5: "ok", 0: "ok"})
        assert back.reader_restarts == 1
