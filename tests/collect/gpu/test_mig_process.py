"""MIG, profiling ratios and processes through the reader's own process, on real clocks."""

import sys

import pytest

from agent.demo.gpus.control import Control, write
from tests.support.mig_bench import held, part
from tests.support.nvml.watch import watching


@pytest.fixture
def control(tmp_path):
    return tmp_path / "control.json"


def simulated(control, machine):
    return [sys.executable, "-m", "agent.demo.gpus.reader", "--machine", machine, "--control", str(control)]


def profiles(snapshot):
    return [one.profile for gpu in snapshot.gpus for one in gpu.mig or ()]


async def test_a_recorded_layout_and_then_another(control):
    async with watching(simulated(control, "h100mig")) as watch:
        await watch.until(lambda s: profiles(s) == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"])
        write(control, Control(mig={"0": [part("7g.80gb", 0, load=0.5, processes=[held(42)])]}))
        snapshot = await watch.until(lambda s: profiles(s) == ["7g.80gb"] and s.gpus[0].mig[0].activity is not None)
    (one,) = snapshot.gpus[0].mig
    assert [process.pid for process in one.processes] == [42]
    assert one.activity.graphics_engine_ratio == pytest.approx(0.5, abs=0.02)
    assert snapshot.gpus[0].mig_slices == 7


async def test_who_uses_the_gpu(control):
    write(control, Control(load={"0": 0.6}, processes={"0": [held(1, sm_ratio=0.6), held(2, sm_ratio=0.0)]}))
    async with watching(simulated(control, "h100x8")) as watch:
        snapshot = await watch.until(
            lambda s: any(one.sm_utilization_ratio for gpu in s.gpus[:1] for one in gpu.processes or ())
        )
    busy, idle = snapshot.gpus[0].processes
    assert 0.1 < busy.sm_utilization_ratio <= 0.6
    assert idle.sm_utilization_ratio is None
