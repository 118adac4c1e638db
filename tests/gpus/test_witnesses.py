"""Other people's programs on the same C library: they and the agent must say the same of every GPU."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.demo.gpus import machine
from agent.demo.gpus.control import SimulatedProcess
from tests.support.components import need
from tests.support.nvml.library import CLibrary
from tests.support.nvml.watch import watching

MIB = 2**20
HELD = 7 * 10**9

# Runs in nvitop's own environment.
NVITOP = """
import json
from nvitop import Device
print(json.dumps([
    {
        "uuid": gpu.uuid(), "name": gpu.name(), "utilization": gpu.gpu_utilization(), "used": gpu.memory_used(),
        "total": gpu.memory_total(), "celsius": gpu.temperature(), "milliwatts": gpu.power_usage(),
        "sm_megahertz": gpu.clock_infos().sm,
        "processes": [[pid, process.gpu_memory()] for pid, process in gpu.processes().items()],
    }
    for gpu in Device.all()
]))
"""


@pytest.fixture
def library(tmp_path):
    """8 GPUs, one under load with this test on it."""
    made = CLibrary(machine.load("h100x8"), tmp_path, tmp_path / "table", need("cc"))
    made.wants(
        recorded={"1": "load"},
        load={"2": 0.5},
        processes={"1": [SimulatedProcess(pid=os.getpid(), memory_bytes=HELD)]},
    )
    return made


async def read(library):
    async with watching(environment=library.environment) as watch:
        snapshot = await watch.until(lambda s: s.driver == "ok" and all(gpu.processes is not None for gpu in s.gpus))
        return snapshot.gpus


def said(command, library):
    environment = {**os.environ, **library.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.component("cc")
@pytest.mark.component("gpustat")
async def test_gpustat(library):
    theirs = said([need("gpustat"), "--json"], library)
    ours = await read(library)
    assert theirs["driver_version"] == ours[0].driver_version
    assert len(theirs["gpus"]) == len(ours) == 8
    for their, our in zip(theirs["gpus"], ours, strict=True):
        assert (their["uuid"], their["name"]) == (our.uuid, our.model)
        assert their["utilization.gpu"] == round(our.utilization_ratio * 100)
        assert their["temperature.gpu"] == our.temperature_celsius
        assert their["power.draw"] == int(our.power_watts)
        assert their["enforced.power.limit"] == our.power_limit_watts
        assert their["memory.used"] == our.memory_used_bytes // MIB
        assert their["memory.total"] == our.memory_total_bytes // MIB
        held = [(one["pid"], one["gpu_memory_usage"]) for one in their["processes"]]
        assert held == [(one.pid, one.memory_used_bytes // MIB) for one in our.processes]
    assert [len(our.processes) for our in ours] == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.component("cc")
@pytest.mark.component("nvitop")
async def test_nvitop(library):
    python = Path(need("nvitop")).with_name("python")
    theirs = said([str(python), "-c", NVITOP], library)
    ours = await read(library)
    assert len(theirs) == len(ours) == 8
    for their, our in zip(theirs, ours, strict=True):
        assert (their["uuid"], their["name"]) == (our.uuid, our.model)
        assert their["utilization"] == round(our.utilization_ratio * 100)
        assert their["celsius"] == our.temperature_celsius
        assert their["milliwatts"] / 1000 == our.power_watts
        assert (their["used"], their["total"]) == (our.memory_used_bytes, our.memory_total_bytes)
        assert their["sm_megahertz"] * 1e6 == our.clocks_hertz["sm"]
        assert their["processes"] == [[one.pid, one.memory_used_bytes] for one in our.processes]
    assert theirs[2]["utilization"] == 50
