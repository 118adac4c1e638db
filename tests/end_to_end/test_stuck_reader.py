"""A GPU that hangs for good: the other GPUs are read on, and a new agent starts beside the reader that cannot end."""

import itertools
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.demo.gpus import machine
from tests.support.agent import ROOT, RunningAgent, free_port
from tests.support.components import need
from tests.support.nvml.library import CLibrary

RUN = """
import sys, anyio
from agent.app import run
from agent.config import load
anyio.run(run, load(None), [sys.executable, "-m", "tests.support.unkillable_reader", sys.argv[1]])
"""

pytestmark = pytest.mark.component("cc")


@pytest.fixture
def library(tmp_path):
    built = tmp_path / "built"
    built.mkdir()
    return CLibrary(machine.load("h100x8"), built, tmp_path / "table", need("cc"))


@contextmanager
def agent(program, data, environment, ports):
    """As tests.support.agent, with a program of our own."""
    given = {
        "ENGINEROOM__API__LISTEN": f"127.0.0.1:{ports[0]}",
        "ENGINEROOM__API__PROBES_LISTEN": f"127.0.0.1:{ports[1]}",
        "ENGINEROOM__STORAGE__DATA_DIR": str(data),
        "ENGINEROOM__ENGINES__DISCOVER": "false",
    }
    with subprocess.Popen(program, cwd=ROOT, env={**os.environ, **given, **environment}) as process:
        try:
            yield RunningAgent(process, *ports)
        finally:
            if process.poll() is None:
                process.kill()


def in_state(running, state):
    """How many GPUs /metrics says are in this state."""
    lines = running.get("/metrics")[1].splitlines()
    name = "engineroom_gpu_state{"
    return sum(line.startswith(name) and f'state="{state}"' in line for line in lines)


def readings(running):
    """Instants of the readings of GPU 0 in the last minute, Unix seconds."""
    query = "engineroom_gpu_up{gpu=%220%22}[1m]".replace("{", "%7B").replace("}", "%7D")
    result = running.json(f"/api/v1/query?query={query}")["data"]["result"]
    return [instant for instant, _ in result[0]["values"]] if result else []


def stuck(pids):
    return [int(line) for line in pids.read_text().split() if Path(f"/proc/{line}").exists()]


def open_files(pid):
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def listening_sockets():
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}


def test_a_new_agent_starts_while_the_old_reader_is_stuck(tmp_path, library):
    data, pids = tmp_path / "data", tmp_path / "pids"
    settings = {**library.environment, "ENGINEROOM__GPUS__CALL_DEADLINE_SECONDS": "1", "PYTHONPATH": str(ROOT)}
    ports = (free_port(), free_port())
    program = [sys.executable, "-c", RUN, str(pids)]
    try:
        with agent(program, data, settings, ports) as first:
            first.ready()
            first.until(lambda: in_state(first, "ok") == 8, "all GPUs are read")
            library.wants(hang=[5])
            first.until(lambda: in_state(first, "hung") == 1 and in_state(first, "ok") == 7, "the others go on")
            (held, _) = stuck(pids)
            first.until(lambda: len(readings(first)) >= 12, "readings after the hang")
            gaps = [later - earlier for earlier, later in itertools.pairwise(readings(first))]
            # One gap: the deadline, and the start of the next reader. Before and after it one reading a second.
            assert sorted(gaps)[-2] < 1.5
            assert max(gaps) < 6
            assert first.stop() == 0
        assert held in stuck(pids)
        files = open_files(held)
        assert not [file for file in files if str(data) in file]
        assert not listening_sockets() & set(files)
        with agent(program, data, settings, ports) as second:
            second.ready()
            second.until(lambda: in_state(second, "ok") == 7, "the other GPUs are read by the new agent")
            assert held in stuck(pids)
            assert second.stop() == 0
    finally:
        for pid in stuck(pids):
            os.kill(pid, signal.SIGKILL)
