"""Replacing, waiting and giving up, with the simulated reader: a real process, no driver needed."""

import itertools
import os
import signal
import sys

import anyio
import pytest

from agent.collect.gpu.settings import GpuSettings
from agent.collect.gpu.supervisor import GpuReader
from agent.demo.gpus.control import Control, SimulatedProcess, write
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
        assert later.nvml_calls["nvmlDeviceGetPowerUsage"] > earlier.nvml_calls["nvmlDeviceGetPowerUsage"]
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


async def test_a_driver_reload(control):
    async with watching(simulated(control)) as watch:
        await watch.states({0: "ok"})
        write(control, Control(driver="unloaded"))
        away = await watch.until(lambda s: s.driver == "no_driver")
        assert "not loaded" in away.message
        assert away.gpus[0].model == "NVIDIA H100 80GB HBM3"
        write(control, Control())
        assert (await watch.states({0: "ok"})).reader_restarts == 0


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
        first_pause = watch.reader._benched[5].pause_ns
        watch.reader._benched[5].due_ns = 0
        await watch.until(lambda s: s.reader_restarts == 2)
        await watch.states({5: "hung", 0: "ok"})
        assert watch.reader._benched[5].pause_ns == 2 * first_pause
        write(control, Control())
        watch.reader._benched[5].due_ns = 0
        back = await watch.states({5: "ok", 0: "ok"})
        assert back.reader_restarts == 2
