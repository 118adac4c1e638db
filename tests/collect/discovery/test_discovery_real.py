"""Discovery over the real /proc: real processes, sockets and namespaces, as root and as somebody without rights."""

import os
import shutil
import socket
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory

import anyio
import pytest

from agent.collect.engines.settings import EnginesSettings
from agent.collect.engines.watch import EngineWatch
from agent.core.readings import EngineSnapshot
from agent.engines.registry import BY_KIND
from agent.lifecycle import Health, running
from tests.support.discovery_watch import DiscoveryWatch
from tests.support.engine_processes import engine_process, other_network
from tests.support.http import told_server
from tests.support.llamacpp import llama_server


async def test_a_real_server_is_found_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    async with told_server() as stranger:
        with engine_process(tmp_path, name="llama-server") as engine:
            watch = DiscoveryWatch()
            await watch.discovery.step()
            found = watch.of(engine.pid)
            assert (found.url, found.kind, found.found_by) == (f"http://127.0.0.1:{engine.port}", "llamacpp", "process")
            assert engine.heads() == []
        assert stranger.asked == []
        await watch.discovery.step()
        assert watch.targets[found.engine].url == ""


async def test_an_engine_is_asked_at_its_documented_paths_alone_and_nobody_else_anything(tmp_path: Path) -> None:
    """The whole watch, as `engineroom run` has it with nothing configured, beside a stranger in the same network."""
    snapshots: list[EngineSnapshot] = []
    enough = anyio.Event()

    def keep(snapshot: EngineSnapshot, _raw: object) -> None:
        if snapshot.status.pids[:1] == (engine.pid,):
            snapshots.append(snapshot)
            enough.set()

    with (
        engine_process(tmp_path / "engine", name="llama-server") as engine,
        engine_process(tmp_path / "stranger", program="server.py") as stranger,
    ):
        watch = EngineWatch(EnginesSettings(), keep, Health())
        with anyio.fail_after(30):
            async with running() as group:
                group.start_soon(watch.run)
                await enough.wait()
        heads = engine.heads()
        assert stranger.heads() == []
    assert snapshots[0].status.kind == "llamacpp"
    assert heads
    for head in heads:
        method, path, _ = head.split(" ", 2)
        assert method == "GET"
        assert path in BY_KIND["llamacpp"].paths
        assert "authorization" not in head.lower()
        assert "cookie" not in head.lower()


async def test_a_real_server_in_another_network(tmp_path: Path) -> None:
    before = other_network("10.99.0.8/32")
    with (
        engine_process(tmp_path / "a", name="llama-server", before=before, listen=["0.0.0.0"]) as everywhere,
        engine_process(tmp_path / "b", name="llama-server", before=before, listen=["127.0.0.1"]) as inside,
    ):
        watch = DiscoveryWatch()
        await watch.discovery.step()
        assert watch.of(everywhere.pid).url == f"http://10.99.0.8:{everywhere.port}"
        assert watch.of(inside.pid).url == ""
        assert "sidecar" in watch.of(inside.pid).unreachable


async def test_a_real_llamacpp_is_found(tmp_path: Path) -> None:
    with llama_server(tmp_path) as server:
        watch = DiscoveryWatch()
        await watch.discovery.step()
        found = watch.of(server.pid)
        assert (found.url, found.kind) == (server.url, "llamacpp")


def test_without_the_right_to_look_into_processes_the_port_of_the_command_line_counts(tmp_path: Path) -> None:
    """As another user, in a process of its own: open files, environment and namespace links are closed to it."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    program = (
        "import os, sys; from agent.collect.discovery.processes.table import ProcessTable;"
        "from agent.collect.discovery.processes.engines import engines_of;"
        "from agent.collect.discovery.features import *;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "table = ProcessTable(); table.look();"
        "print([(one.host, one.port) for one in engines_of(table) if one.pids[0] == int(sys.argv[1])]);"
        "print(process_features(table)[1].reason)"
    )
    port = _any_port()
    with (
        engine_process(tmp_path, "--port", str(port), name="llama-server", listen=[f"127.0.0.1,{port}"]) as engine,
        Popen([sys.executable, "-c", program, str(engine.pid)], stdout=PIPE, text=True) as child,
    ):
        told, _ = child.communicate()
    assert f"[('127.0.0.1', {port})]" in told
    assert "SYS_PTRACE" in told


@pytest.mark.parametrize("hidden", ["1", "2"])
def test_a_proc_that_hides_processes_of_others_is_told(hidden: str) -> None:
    """A real one, mounted with hidepid in a mount namespace of its own, read as another user."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount a /proc, in a namespace made by unshare (util-linux)")
    program = (
        "import os, sys; from pathlib import Path; from agent.collect.discovery.processes.table import ProcessTable;"
        "from agent.collect.discovery.processes.engines import engines_of;"
        "from agent.collect.discovery.features import *;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "table = ProcessTable(Path(sys.argv[1])); table.look(); print(engines_of(table));"
        "print(process_features(table)[0].reason)"
    )
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the folders of pytest are closed to others
        mount = (
            f'mount -t proc -o hidepid={hidden} proc {folder} && "$@"; true'  # the shell stays: it is process 1 there
        )
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mount, "sh", sys.executable, "-c", program]
        with Popen([*command, folder], stdout=PIPE, stderr=PIPE, text=True) as child:
            told, problem = child.communicate()
    if "mount" in problem:
        pytest.skip(f"this machine mounts no /proc with hidepid: {problem.strip()[:100]}")
    assert "hidepid" in told, problem


def _any_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
