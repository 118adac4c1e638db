"""A port in, who is behind it out: this process against the real /proc, the rest against a /proc of files."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from agent.collect.discovery.processes.table import ProcessTable
from agent.collect.engines.ports_of import Behind, PortOwners, resolve
from tests.support.made_up_engines import MADE_UP, line
from tests.support.proc_tree import ProcTree

IN_CONTAINER = f"0::/docker/{'a' * 64}\n"


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    """Process 10 listens on 8000, 11 and 12 descend from it, 20 is a stranger, 30 is an engine in a container."""
    tree = ProcTree(tmp_path)
    tree.network("host", [("0.0.0.0", 8000, 77), ("127.0.0.1", 8080, 78), ("::1", 80, 80)], ["10.0.0.1"], ours=True)
    tree.network("container", [("0.0.0.0", 8000, 99)], ["172.30.0.5"])
    tree.process(10, "0::/system.slice/a.service\n", network="host", sockets=[77], cmdline=line("nginx"))
    tree.process(11, parent=10, network="host")
    tree.process(12, parent=11, network="host")
    tree.process(20, network="host", sockets=[98], cmdline=line("sshd"))
    tree.process(30, IN_CONTAINER, network="container", sockets=[99], cmdline=line("alpha-server", "--group", "h:1"))
    (tmp_path / "40").mkdir()  # gone half-way
    return tree


def owners(tree: ProcTree, refresh_seconds: float = 30) -> PortOwners:
    return PortOwners(table=ProcessTable(tree.root, MADE_UP), refresh_seconds=refresh_seconds)


async def test_owner_and_descendants(tree: ProcTree) -> None:
    found = await owners(tree).behind("127.0.0.1", 8000)
    assert found.pids == (10, 11, 12)
    assert (found.kind, found.recognised) == ("", None)
    assert found.workload is not None
    assert found.workload.job == "a.service"
    assert found.started_at_ns is not None


async def test_an_engine_in_a_container_by_its_own_address(tree: ProcTree) -> None:
    found = await owners(tree).behind("172.30.0.5", 8000)
    assert (found.pids, found.kind) == ((30,), "alpha")
    assert found.recognised is not None
    assert found.recognised.group == "h:1"
    assert found.workload is not None
    assert found.workload.container_id == "a" * 64


async def test_the_engine_around_a_process_is_its_kind(tree: ProcTree) -> None:
    tree.process(30, network="host", cmdline=line("alpha-server"))
    tree.process(31, parent=30, network="host", sockets=[78], cmdline=line("python"))
    assert (await owners(tree).behind("127.0.0.1", 8080)).kind == "alpha"


async def test_a_front_end_that_listens_is_a_child_of_what_was_started(tree: ProcTree) -> None:
    tree.process(30, network="host", cmdline=line("alpha-server", "--port", "8080", "--group", "h:1"))
    tree.process(31, parent=30, network="host", sockets=[78], cmdline=line("alpha-server"))
    tree.process(32, parent=30, network="host", cmdline=line("alpha-worker"))
    found = await owners(tree).behind("127.0.0.1", 8080)
    assert (sorted(found.pids), found.kind) == ([30, 31, 32], "alpha")
    assert found.recognised is not None
    assert (found.recognised.part, found.recognised.group) == ("server", "h:1")


async def test_a_server_that_does_not_listen_yet_is_known_by_the_port_that_will_be_its(tree: ProcTree) -> None:
    """It loads its model for minutes: the engine configured there is starting, and its GPUs are its own."""
    tree.process(50, network="host", cmdline=line("alpha-server", "--port", "8181", "--group", "h:1"))
    tree.process(51, parent=50, network="host", cmdline=line("alpha-worker"))
    subject = owners(tree)
    found = await subject.behind("127.0.0.1", 8181)
    assert (sorted(found.pids), found.kind) == ([50, 51], "alpha")
    assert await subject.behind("192.0.2.7", 8181) == Behind()
    tree.process(60, network="host", cmdline=line("alpha-server", "--port", "8181"))  # whose will it be?
    assert await owners(tree).behind("127.0.0.1", 8181) == Behind()


async def test_two_servers_that_one_process_started_have_each_their_own(tree: ProcTree) -> None:
    tree.process(30, network="host", cmdline=line("alpha-server", "--port", "9256"))
    tree.process(31, parent=30, network="host", sockets=[77], cmdline=line("alpha-server", "--port", "8000"))
    tree.process(32, parent=30, network="host", sockets=[78], cmdline=line("alpha-server", "--port", "8080"))
    tree.process(10, network="host")
    subject = owners(tree)
    assert 31 in await subject.pids("127.0.0.1", 8000)
    assert 31 not in await subject.pids("127.0.0.1", 8080)


async def test_other_machines_and_other_addresses_have_no_processes_here(tree: ProcTree) -> None:
    subject = owners(tree)
    assert await subject.behind("192.0.2.7", 8000) == Behind()
    assert await subject.pids("no-such-host.invalid", 8000) == ()
    assert await subject.pids("127.0.0.1", 8001) == ()
    assert await subject.pids("127.0.0.2", 8080) == ()
    assert await subject.pids("172.30.0.5", 8001) == ()


async def test_without_rights_the_engine_that_names_the_port(tree: ProcTree) -> None:
    tree.process(30, network="host", cmdline=line("alpha-server", "--port", "8080"))
    table = ProcessTable(tree.root, MADE_UP)
    subject = PortOwners(table=table)
    assert await subject.pids("127.0.0.1", 8080) == ()  # its files are open to us, and it does not hold that socket
    for row in table.rows.values():
        row.files_closed = True
    assert await subject.pids("127.0.0.1", 8080) == (30,)
    tree.process(31, network="host", cmdline=line("alpha-server", "--port", "8080"))
    table.look()
    table.rows[31].files_closed = True
    assert await subject.pids("127.0.0.1", 8080) == ()  # one of two: nobody knows which


async def test_answers_are_kept_for_a_while(tree: ProcTree) -> None:
    subject, hasty = owners(tree), owners(tree, refresh_seconds=0)
    assert await subject.pids("127.0.0.1", 8000) == await hasty.pids("127.0.0.1", 8000)
    (tree.root / "12/stat").unlink()
    tree.process(11, parent=10, network="host", start_ticks=6000)
    tree.process(13, parent=10)
    assert await subject.pids("127.0.0.1", 8000) == (10, 11, 12)
    assert await hasty.pids("127.0.0.1", 8000) == (10, 11, 12, 13)


async def test_a_start_does_not_move(tree: ProcTree) -> None:
    hasty = owners(tree, refresh_seconds=0)
    starts = {(await hasty.behind("127.0.0.1", 8000)).started_at_ns for _ in range(5)}
    assert len(starts) == 1


async def test_no_proc_at_all(tmp_path: Path) -> None:
    assert await PortOwners(tmp_path / "none").pids("127.0.0.1", 8000) == ()


@pytest.fixture
def child() -> Iterator[Popen[bytes]]:
    with Popen([sys.executable, "-c", "input()"], stdin=PIPE) as process:
        yield process
        process.communicate(b"\n")


async def test_this_process_and_its_child_are_found(child: Popen[bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await PortOwners().behind("localhost", server.getsockname()[1])
    assert {os.getpid(), child.pid} <= set(found.pids)
    assert found.started_at_ns is not None


def test_names_are_resolved() -> None:
    assert "127.0.0.1" in map(str, resolve("localhost"))
    assert resolve("no-such-host.invalid") == set()
