"""Single processes: what is read of them, and what is left alone."""

from pathlib import Path

import pytest

from agent.collect.discovery.processes.rows import Row, find_sockets, read_bytes, read_process, read_stat
from agent.engines.contract import Process
from tests.support.proc_tree import ProcTree


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def row(pid: int) -> Row:
    return Row(pid=pid, inode=1, parent=1, start_ticks=5000, process=Process(pid=pid))


def test_zombies_and_processes_that_are_gone_are_none(tree: ProcTree) -> None:
    tree.process(7, name="a (b) c", parent=3)
    tree.process(8, state="Z")
    stat = read_stat(tree.root, 7)
    assert stat is not None
    assert (stat.name, stat.parent, stat.start_ticks) == ("a (b) c", 3, 5000)
    assert read_stat(tree.root, 8) is None
    assert read_stat(tree.root, 9) is None


def test_environment_is_read_late_and_only_what_was_named(tree: ProcTree) -> None:
    tree.process(7, cmdline="vllm\0serve\0", environ="HF_TOKEN=secret\0RANK=3\0")
    process = read_process(tree.root, 7, "vllm")
    assert process.argv == ("vllm", "serve")
    assert dict(process.environ) == {"RANK": "3"}
    assert len(process.environ) == 1
    (tree.root / "7/environ").unlink()
    assert process.environ["RANK"] == "3"  # it is kept
    assert dict(read_process(tree.root, 7, "vllm").environ) == {}  # and where it is closed, it is empty


def test_each_socket_is_looked_for_once(tree: ProcTree) -> None:
    folder = tree.process(7, sockets=[77, 78])
    process = row(7)
    assert find_sockets(tree.root, process, {77, 99}) == {77}
    (folder / "fd/3").unlink()
    assert find_sockets(tree.root, process, {77, 99}) == {77}
    assert find_sockets(tree.root, process, {77, 78}) == {77, 78}
    assert find_sockets(tree.root, row(8), {77}) == set()


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10_000)
    assert len(read_bytes(str(file), 9_000)) == 9_000
    assert len(read_bytes(str(file), 90_000)) == 10_000
    assert read_bytes(str(tmp_path / "none"), 10) == b""
