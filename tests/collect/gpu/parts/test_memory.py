"""The GPU's own memory, or the system's where it has none."""

import pynvml
import pytest

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.parts.memory import Memory, shared_memory
from agent.collect.gpu.parts.part import Asker

MEMINFO = "MemTotal:       125829120 kB\nMemFree:         1000 kB\nMemAvailable:   83886080 kB\nHugePages_Total: 0\n"


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


def read(meminfo, calls=None):
    asker = Asker(calls or Calls(), "gpu", pynvml.nvmlDeviceGetHandleByIndex(0))
    return Memory(meminfo).read(asker, {}, {}, None)


def test_its_own(bench, meminfo):
    found = read(meminfo)
    assert found["memory_source"] == "device"
    parts = ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes")
    assert sum(found[part] for part in parts) == found["memory_total_bytes"] == 85520809984


def test_that_of_the_system(bench, meminfo):
    bench.wish(memory_shared=True)
    assert read(meminfo) == {
        "memory_total_bytes": 120 * 2**30,
        "memory_free_bytes": 80 * 2**30,
        "memory_used_bytes": 40 * 2**30,
        "memory_source": "system",
    }


def test_a_missing_right_is_no_shared_memory(bench, meminfo):
    bench.control(returns={name: {"0": 4} for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")})
    assert read(meminfo) == {}


def test_no_meminfo(bench, tmp_path):
    bench.wish(memory_shared=True)
    assert read(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 5 kB\n", "MemTotal: 5 kB\nMemAvailable: 9 kB\n", "MemTotal: many kB\n"]
)
def test_a_meminfo_that_does_not_say(text):
    with pytest.raises(ValueError, match=r"MemTotal|invalid literal"):
        shared_memory(text)


def test_the_window_of_the_host(bench):
    gpu = bench.read()
    assert (gpu.bar1_used_bytes, gpu.bar1_total_bytes) == (2**20, 128 * 2**30)
