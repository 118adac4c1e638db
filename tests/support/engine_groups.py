"""Engines over several nodes, for tests: statuses as scrapers and discovery tell them, and processes as they look."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from agent.core.readings import EngineSnapshot, EngineStatus

GROUP = "10.0.0.1:29500"
ROOT = Path(__file__).resolve().parents[2]


def status(name: str = "vllm", *pids: int, **fields: Any) -> EngineStatus:
    """A server that answers."""
    values: dict[str, Any] = {"kind": "vllm", "url": f"http://{name}:8000", "state": "ready", "pids": pids}
    return EngineStatus(engine=name, **{**values, **fields})


def worker(*pids: int, group: str = GROUP, name: str = "", **fields: Any) -> EngineStatus:
    """What works on this node for an engine whose server is elsewhere, or is nobody's child."""
    return status(name or f"vllm {group}", *pids, url="", part="worker", group=group, **fields)


def scraped(found: EngineStatus) -> EngineSnapshot:
    return EngineSnapshot(status=found)


class Started:
    """A process tree that a test started; `pids` by the words it printed (``server 12``)."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.pids: dict[str, int] = {}
        assert process.stdout is not None
        for line in process.stdout:
            words = line.decode().split()
            if words == ["ready"]:
                return
            self.pids[words[0]] = int(words[1])
        raise AssertionError("the process ended before it was ready; its errors are above")


@contextmanager
def started(folder: Path, program: str, script: str, *arguments: str) -> Iterator[Started]:
    """A Python process whose command line reads ``python .../PROGRAM ARGUMENTS``; it and its children end with it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / program
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{script}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LWS_", "RAY_"))}
    command = [sys.executable, str(path), *arguments]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, cwd=folder, env=environment) as process:
        try:
            yield Started(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


# A child with a title of its own and no other argument, as vLLM's workers have; it ends with its parent.
_TITLED = """
import os, shutil, subprocess
def titled(word, title):
    child = subprocess.Popen([title], executable=shutil.which("cat"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    print(word, child.pid, flush=True)
"""
_WAIT = """
print("ready", flush=True)
sys.stdin.read()
"""

HEADLESS = _TITLED + 'print("server", os.getpid(), flush=True)\ntitled("worker", "VLLM::Worker_TP1")' + _WAIT
TORCHRUN = """
import subprocess
rank = "import sys; sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", rank, "train.py"], stdin=subprocess.PIPE)
print("rank", child.pid, flush=True)
""" + _WAIT  # fmt: skip
# The real front end of vLLM with a core that we play, and beside it a worker, all under one `vllm serve`.
LEADER = _TITLED + """
import socket
from pathlib import Path
from tests.support import vllm_rs
port, any_listener = int(sys.argv[sys.argv.index("--port") + 1]), vllm_rs._listener
def listener(stack):
    global port
    if port is None:
        return any_listener(stack)
    server = stack.enter_context(socket.create_server(("127.0.0.1", port)))
    server.set_inheritable(True)
    port = None
    return server
vllm_rs._listener = listener
with vllm_rs.vllm_rs(Path.cwd()) as engine:
    print("server", os.getpid(), flush=True)
    titled("worker", "VLLM::Worker_TP0")
    print("ready", flush=True)
    sys.stdin.read()
"""  # fmt: skip


def own_proc(folder: Path, *trees: Started) -> Path:
    """A /proc that shows the processes of one node only, of the many that tests run on this machine."""
    folder.mkdir()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            (folder / entry.name).symlink_to(entry)
    left = [tree.process.pid for tree in trees]
    while left:
        pid = left.pop()
        (folder / str(pid)).symlink_to(f"/proc/{pid}")
        for task in Path(f"/proc/{pid}/task").iterdir():
            left += map(int, (task / "children").read_text().split())
    return folder
