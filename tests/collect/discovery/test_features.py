"""What doctor is told about the rights that finding engines needs."""

from pathlib import Path

import pytest

from agent.collect.discovery.features import process_features, stranger_words
from agent.collect.discovery.processes.table import ProcessTable
from tests.support.made_up_engines import MADE_UP, line
from tests.support.proc_tree import ProcTree


def told(root: Path, *, closed: bool = False) -> dict[str, str]:
    table = ProcessTable(root, MADE_UP)
    table.look()
    for row in table.rows.values():
        row.files_closed = closed
    return {one.name: one.reason for one in process_features(table) if not one.enabled}


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path)
    tree.process(1, name="init", parent=0)
    tree.process(10, cmdline=line("alpha-server"))
    return tree


def test_everything_is_seen(tree: ProcTree) -> None:
    assert told(tree.root) == {}


def test_open_files_that_are_closed(tree: ProcTree) -> None:
    found = told(tree.root, closed=True)
    assert set(found) == {"engine_sockets"}
    assert "processes 10" in found["engine_sockets"]
    assert "SYS_PTRACE" in found["engine_sockets"]


def test_a_container_of_its_own(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path, host=False)
    tree.process(1, name="engineroom", parent=0)
    assert "hostPID: true" in told(tree.root)["engine_processes"]


def test_hidden_processes(tree: ProcTree) -> None:
    tree.process(1, state="Z")
    (tree.root / "1/stat").unlink()
    assert "hidepid" in told(tree.root)["engine_processes"]


def test_no_proc(tmp_path: Path) -> None:
    assert "there is no /proc" in told(tmp_path / "none")["engine_processes"]


def test_strangers(tree: ProcTree) -> None:
    table = ProcessTable(tree.root, MADE_UP)
    table.look()
    words = stranger_words(table.rows[10])
    assert words.startswith("python3 uses a GPU")
    assert "engines.targets" in words
