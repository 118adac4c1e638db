"""The table of processes: what is read again and what is not, and processes that come, go and change."""

import dataclasses
import os
import shutil
from pathlib import Path
from subprocess import PIPE, Popen

import anyio
import pytest

from agent.collect.discovery.processes.table import ProcessTable
from agent.engines.contract import Process, Recognised
from tests.support.engine_processes import engine_process
from tests.support.made_up_engines import ALPHA, MADE_UP, line
from tests.support.proc_tree import ProcTree


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def looked(tree: ProcTree) -> ProcessTable:
    table = ProcessTable(tree.root, MADE_UP)
    table.look()
    return table


def test_a_tree_of_processes(tree: ProcTree) -> None:
    tree.process(1, name="init", parent=0)
    tree.process(10, cmdline=line("alpha-server", "--port", "8001"))
    tree.process(11, parent=10)
    tree.process(12, parent=11)
    tree.process(20, state="Z", parent=10)
    table = looked(tree)
    assert table.with_descendants([10, 99]) == (10, 11, 12)
    assert [row.pid for row in table.ancestors(12)] == [11, 10, 1]
    assert table.rows[10].engine is ALPHA
    assert table.rows[11].engine is None
    assert 20 not in table.rows


def test_an_old_process_is_read_once_and_now_and_then(tree: ProcTree) -> None:
    folder = tree.process(10, cmdline=line("bash"))
    table = looked(tree)
    (folder / "cmdline").write_text(line("alpha-server"))
    table.look()
    assert table.rows[10].engine is None
    for _ in range(20):
        table.look()
    assert table.rows[10].engine is ALPHA


def test_an_engine_is_read_at_each_look_and_its_title_may_change(tree: ProcTree) -> None:
    folder = tree.process(10, cmdline=line("alpha-server"))
    table = looked(tree)
    (folder / "cmdline").write_text(line("alpha-worker"))
    table.look()
    assert table.rows[10].recognised is not None
    assert table.rows[10].recognised.part == "worker"
    (folder / "cmdline").write_text("")  # ended: a zombie's is empty
    (folder / "stat").write_text("10 (x) Z 1 " + "0 " * 50)
    table.look()
    assert 10 not in table.rows


def test_a_pid_that_was_given_again_is_another_process(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), start_ticks=5000)
    table = looked(tree)
    first = table.rows[10]
    started = table.details([10])[10].started_at_ns
    assert table.details([10])[10].started_at_ns == started
    tree.process(10, cmdline=line("alpha-server"), start_ticks=6000)
    table.look()
    assert table.rows[10] is not first
    assert table.rows[10].key == (10, 6000)


def test_orphans_get_their_new_parent_and_no_wrong_one(tree: ProcTree) -> None:
    tree.process(1, name="init", parent=0)
    tree.process(10, start_ticks=100)
    tree.process(11, parent=10, start_ticks=200)
    table = looked(tree)
    shutil.rmtree(tree.root / "10")
    tree.process(11, parent=1, start_ticks=200)
    table.look()
    assert [row.pid for row in table.ancestors(11)] == [1]
    # The number of the parent is given to a later process before we look.
    tree.process(10, start_ticks=900)
    table.rows[11].parent = 10
    table.look()
    assert table.with_descendants([10]) == (10,)


def test_equal_command_lines_are_judged_once_unless_the_environment_was_looked_at(tree: ProcTree) -> None:
    judged: list[int] = []

    def recognise(process: Process) -> Recognised | None:
        judged.append(process.pid)
        if process.name == "mpi":
            return Recognised(part="worker") if "RANK" in process.environ else None
        return None

    for pid in (10, 11, 12):
        tree.process(pid, name="loader", cmdline=line("python", "train.py"))
        tree.process(pid + 10, name="mpi", cmdline=line("python", "-m", "mpi"), environ="RANK=1\0" * (pid == 12))
    table = ProcessTable(tree.root, [dataclasses.replace(ALPHA, recognise=recognise)])
    table.look()
    assert len([pid for pid in judged if pid < 20]) == 1
    assert [row.pid for row in table.rows.values() if row.engine is not None] == [22]


def test_kernel_threads_are_no_engines(tree: ProcTree) -> None:
    tree.process(2, name="kthreadd", parent=0)
    tree.process(30, name="alpha-server", parent=2)
    table = looked(tree)
    table.look()
    assert table.rows[30].engine is None


def test_parents_that_run_in_a_circle_end(tree: ProcTree) -> None:
    tree.process(10, parent=11)
    tree.process(11, parent=10)
    table = looked(tree)
    assert table.with_descendants([10]) == (10, 11)
    assert {row.pid for row in table.ancestors(10)} <= {10, 11}


def test_no_proc_has_no_processes(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "none", MADE_UP)
    table.look()
    assert table.rows == {}


async def test_questions_share_a_look_that_is_young_enough(tree: ProcTree) -> None:
    table = ProcessTable(tree.root, MADE_UP)
    seen: list[int] = []

    async def ask(age: float) -> None:
        seen.append(await table.ask(lambda one: len(one.rows), age))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, 100)
        group.start_soon(ask, 100)
    tree.process(10)
    await ask(100)
    await ask(0)
    assert seen == [0, 0, 0, 1]


def test_real_processes_that_come_and_go_during_looks(tmp_path: Path) -> None:
    table = ProcessTable()
    with engine_process(tmp_path, "serve", name="llama-server") as engine:
        for _ in range(5):
            with Popen(["true"], stdin=PIPE):
                table.look()
            table.look()
        row = table.rows[engine.pid]
        assert row.process.name == "llama-server"
        assert row.process.argv[-1] == "serve"
        assert next(above.pid for above in table.ancestors(engine.pid)) == os.getpid()
        assert table.details([engine.pid])[engine.pid].started_at_ns > 10**18
    table.look()
    assert engine.pid not in table.rows


def test_command_lines_of_any_length_and_bytes(tmp_path: Path) -> None:
    huge = [b"sh", b"-c", b"read x", b"\xff\xfe", *[b"x" * 100_000] * 10]
    with Popen(huge, stdin=PIPE) as child:
        table = ProcessTable()
        table.look()
        assert table.rows[child.pid].process.argv[:4] == ("sh", "-c", "read x", "��")
        child.communicate(b"\n")
