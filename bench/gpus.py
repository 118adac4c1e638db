"""The GPU reader on a node of 8 GPUs with 40 processes, its calls as slow as real ones; nvitop's exporter beside it.

The driver's place is taken by the C library of the tests: both programs load it, and both run on the same one core.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from agent.collect.gpu.settings import GpuSettings
from agent.collect.gpu.supervisor import GpuReader
from agent.core.gpu_readings import GpuSnapshot
from agent.demo.gpus import machine
from agent.demo.gpus.control import Control, SimulatedProcess, write
from bench.figures import Figure
from bench.gpus_page import page_milliseconds
from tests.support.nvml.build import build

ROOT = Path(__file__).resolve().parents[1]
MACHINE = "h100x8"
GPUS, PROCESSES = 8, 40
SETTLE_SECONDS, WINDOW_SECONDS, WINDOWS = 65, 20, 3  # the reader first finds how far to stretch its tiers
CPU_BAR = 0.01
NVML_BAR = 0.015
MEMORY_BAR_MIB = 30
PEER_BAR = 1.0
PAGE_BAR_MILLISECONDS = 20
PEER = "nvitop-exporter"
_CORE, _OTHER_CORE = "0", "1"


@contextmanager
def _started(command: list[str], environment: dict[str, str], core: str) -> Iterator[subprocess.Popen[bytes]]:
    pinned = ["taskset", "-c", core if (os.cpu_count() or 1) > 1 else "0", *command]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(pinned, cwd=ROOT, env={**os.environ, **environment}, **quiet)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _node(folder: Path, stack: ExitStack) -> dict[str, str]:
    """A simulated node at work; the environment in which a program finds it."""
    pids = [stack.enter_context(_started(["sleep", "600"], {}, _OTHER_CORE)).pid for _ in range(PROCESSES)]
    share = PROCESSES // GPUS
    held = {
        str(gpu): [SimulatedProcess(pid=pid, memory_bytes=10**9) for pid in pids[gpu * share : (gpu + 1) * share]]
        for gpu in range(GPUS)
    }
    control, table = folder / "control.json", folder / "table"
    load = {str(gpu): 0.3 + 0.08 * gpu for gpu in range(GPUS)}
    write(control, Control(load=load, processes=held, call_seconds={}))
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("this benchmark needs a C compiler")
    library = build(machine.load(MACHINE), folder, compiler)
    command = [sys.executable, "-m", "bench.gpus_writer", "--machine", MACHINE, "--table", str(table)]
    stack.enter_context(_started([*command, "--control", str(control), "--every", "0.5"], {}, _OTHER_CORE))
    began = time.monotonic()
    while not table.exists() and time.monotonic() - began < 20:
        time.sleep(0.05)
    return {"LD_LIBRARY_PATH": str(library), "ENGINEROOM_NVML_TABLE": str(table)}


def _cpu_seconds(pid: int) -> float:
    """Of all its threads, as exact as the scheduler counts."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _mib(pid: int, what: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


class _Watch:
    """The latest snapshot of our reader."""

    def __init__(self) -> None:
        self.latest: GpuSnapshot | None = None

    def add(self, snapshot: GpuSnapshot) -> None:
        self.latest = snapshot

    def nvml_seconds(self) -> float:
        return sum(self.latest.nvml_call_seconds.values()) if self.latest else 0.0


async def _measured(environment: dict[str, str], peer: int | None) -> dict[str, float]:
    """Medians of some windows, both programs at work all the time."""
    watch = _Watch()
    command = ["taskset", "-c", _CORE, sys.executable, "-m", "agent.collect.gpu.reader", "--interval", "1"]
    reader = GpuReader(GpuSettings(interval_seconds=1), watch.add, command, environment)
    ours: list[float] = []
    nvml: list[float] = []
    theirs: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(reader.run)
        await anyio.sleep(SETTLE_SECONDS)
        if watch.latest is None or reader.pid is None or len(watch.latest.gpus) != GPUS:
            raise RuntimeError("the reader did not read the simulated GPUs")
        pid = reader.pid
        for _ in range(WINDOWS):
            before, spent, peers = _cpu_seconds(pid), watch.nvml_seconds(), _cpu_seconds(peer) if peer else 0.0
            began = time.monotonic()
            await anyio.sleep(WINDOW_SECONDS)
            passed = time.monotonic() - began
            ours.append((_cpu_seconds(pid) - before) / passed)
            nvml.append((watch.nvml_seconds() - spent) / passed)
            theirs.append((_cpu_seconds(peer) - peers) / passed if peer else 0.0)
        found = {"cpu": statistics.median(ours), "nvml": statistics.median(nvml), "peer": statistics.median(theirs)}
        found |= {"pss": _mib(pid, "Pss"), "rss": _mib(pid, "Rss"), "stretch": watch.latest.tier_stretch}
        found["peer_rss"] = _mib(peer, "Rss") if peer else 0.0
        calls = watch.latest.nvml_call_seconds
        group.cancel_scope.cancel()
    dearest = sorted(calls, key=lambda name: -calls[name])[:4]
    print("# NVML calls that took most: " + ", ".join(f"{name} {calls[name]:.3f} s" for name in dearest), flush=True)
    return found


def run() -> list[Figure]:
    """About two minutes."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        environment = _node(Path(name), stack)
        exporter = shutil.which(PEER)
        peer = None
        if exporter is None:
            print(f"# {PEER} is not installed: no comparison with it (pip install nvitop-exporter)", flush=True)
        else:
            listen = ["--bind-address", "127.0.0.1", "--port", "0", "--interval", "1"]
            peer = stack.enter_context(_started([exporter, *listen], environment, _CORE)).pid
        found = anyio.run(_measured, environment, peer)
    print("# " + json.dumps({key: round(value, 5) for key, value in found.items()}), flush=True)
    figures = [
        Figure(name="gpu_reader_cpu", value=found["cpu"], unit="cores", bar=CPU_BAR, better="lower"),
        Figure(name="gpu_reader_nvml_time", value=found["nvml"], unit="ratio", bar=NVML_BAR, better="lower"),
        Figure(name="gpu_reader_memory_pss", value=found["pss"], unit="MiB", bar=MEMORY_BAR_MIB, better="lower"),
    ]
    if found["peer"]:
        against = found["cpu"] / found["peer"]
        figures.append(Figure(name="gpu_reader_cpu_to_nvitop", value=against, unit="x", bar=PEER_BAR, better="lower"))
    page = page_milliseconds()
    figures.append(
        Figure(name="gpu_mig_metrics_page", value=page, unit="ms", bar=PAGE_BAR_MILLISECONDS, better="lower")
    )
    return figures
