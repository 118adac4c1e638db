"""Processes of trees that are written as systems have them, and of this very machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.workloads.proc import Processes
from agent.core.workloads import Workload
from tests.support.proc_tree import ProcTree

GROUPS = Path(__file__).parent / "cgroups"
EXPECTED: dict[str, dict[str, str]] = json.loads((GROUPS / "expected.json").read_text())
FIRST_CGROUPS = str(Path("/proc/self/ns/cgroup").readlink()) == "cgroup:[4026531835]"


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


@pytest.mark.parametrize("name", EXPECTED)
def test_processes_of_every_system(tree: ProcTree, name: str) -> None:
    if not FIRST_CGROUPS and name == "v2-root":
        pytest.skip("within a cgroup namespace that path is our own container's")
    tree.process(7, (GROUPS / f"{name}.txt").read_text(), name="a (b) c", start_ticks=300)
    found = Processes(tree.root).look([7, 8])
    assert set(found) == {7}
    assert found[7].place == Workload(**EXPECTED[name])
    assert found[7].name == "a (b) c"
    ticks = os.sysconf("SC_CLK_TCK")
    assert found[7].started_at_ns == pytest.approx(unix_ns() - boot_ns() + 300 * NS // ticks, abs=NS)


def test_the_start_is_the_same_at_each_look_and_another_for_another_process(tree: ProcTree) -> None:
    tree.process(7, start_ticks=300)
    processes = Processes(tree.root)
    first = processes.look([7])[7].started_at_ns
    assert processes.look([7])[7].started_at_ns == first
    tree.process(7, start_ticks=301)
    assert processes.look([7])[7].started_at_ns > first


def test_whose_pids_they_are(tmp_path: Path) -> None:
    assert Processes(ProcTree(tmp_path / "host").root).are_the_hosts()
    container = ProcTree(tmp_path / "container", host=False)
    container.process(2, name="python3")
    assert not Processes(container.root).are_the_hosts()
    mounted = ProcTree(tmp_path / "mounted", host=False)
    mounted.process(2, name="kthreadd")
    assert Processes(mounted.root).are_the_hosts(), "the host's /proc, seen from within a pid namespace"
    assert not Processes(tmp_path / "none").are_the_hosts()


def test_a_slurm_job_without_cgroups(tree: ProcTree) -> None:
    tree.process(100, name="slurmstepd", cmdline="slurmstepd: [4711.0]\0")
    tree.process(101, parent=100, name="bash")
    tree.process(102, "0::/system.slice/slurmd.service\n", parent=101)
    tree.process(200, name="slurmstepd", cmdline="slurmstepd\0")
    tree.process(201, parent=200)
    processes = Processes(tree.root)
    assert processes.look([102])[102].place == Workload(job="4711")
    assert not processes.slurm_without_job
    assert processes.look([201])[201].place == Workload()
    assert processes.slurm_without_job


def test_parents_that_go_round_in_a_circle(tree: ProcTree) -> None:
    tree.process(100, parent=101)
    tree.process(101, parent=100)
    assert Processes(tree.root).look([100])[100].place == Workload()


def test_a_process_whose_files_make_no_sense(tree: ProcTree) -> None:
    folder = tree.process(7)
    (folder / "cgroup").write_bytes(b"\xff\x00\n")
    assert Processes(tree.root).look([7])[7].place is None
    (folder / "stat").write_bytes(b"7 (x) \xff")
    assert Processes(tree.root).look([7, -1, 2**40]) == {}


def test_open_files_of_others(tree: ProcTree) -> None:
    assert Processes(tree.root).may_see_files([]) is None
    tree.process(7)
    assert Processes(tree.root).may_see_files([8, 7]) is True


def test_open_files_without_the_capability() -> None:
    """A process of root's, looked at by another user: what a container without SYS_PTRACE meets."""
    if os.geteuid() != 0:
        assert Processes(Path("/proc")).may_see_files([1]) is False
        return
    code = (
        "import os; from pathlib import Path\n"
        "from agent.collect.workloads.proc import Processes\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "print(Processes(Path('/proc')).may_see_files([1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_process_of_this_machine() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = Processes(Path("/proc")).look([child.pid, os.getpid()])
        child.communicate(b"\n")
    assert set(found) == {child.pid, os.getpid()}
    assert found[child.pid].name == Path(sys.executable).name[:15] or found[child.pid].name.startswith("python")
    assert abs(found[child.pid].started_at_ns - unix_ns()) < 30 * NS
    assert found[os.getpid()].started_at_ns <= found[child.pid].started_at_ns
