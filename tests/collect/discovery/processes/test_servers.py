"""Which process of an engine is asked, and at which port: with open files shown to us, and without."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.collect.discovery.processes.servers import Server, servers
from agent.collect.discovery.processes.table import ProcessTable
from tests.support.made_up_engines import MADE_UP, line
from tests.support.proc_tree import ProcTree


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def add(tree: ProcTree, pid: int, *words: str, parent: int = 1, sockets: Iterable[int] = ()) -> None:
    tree.process(pid, cmdline=line(*words), parent=parent, sockets=sockets, network="host")


def looked(tree: ProcTree, pid: int, *, closed: bool = False) -> list[Server]:
    table = ProcessTable(tree.root, MADE_UP)
    table.look()
    for row in table.rows.values():
        row.files_closed = closed
    return list(servers(table, table.rows[pid]))


def shown(found: list[Server]) -> list[tuple[int, int | None, bool]]:
    return [(one.row.pid, one.port, bool(one.listeners)) for one in found]


def listening(tree: ProcTree, *ports: int) -> None:
    """Somebody listens at each of the ports; the socket's inode is the port."""
    tree.network("host", [("127.0.0.1", port, port) for port in ports], ours=True)


@pytest.mark.parametrize("closed", [False, True])
def test_the_port_of_the_command_line_then_the_default(tree: ProcTree, closed: bool) -> None:
    listening(tree, 8000, 8001, 5)
    add(tree, 10, "alpha-server", "--port", "8001", sockets=[8001])
    add(tree, 11, "alpha-server", sockets=[8000, 5])
    assert shown(looked(tree, 10, closed=closed)) == [(10, 8001, True)]
    assert shown(looked(tree, 11, closed=closed)) == [(11, 8000, True)]


def test_a_port_that_is_somebody_elses_is_not_asked(tree: ProcTree) -> None:
    listening(tree, 8000)
    add(tree, 10, "alpha-server")
    add(tree, 20, "nginx", sockets=[8000])
    assert shown(looked(tree, 10)) == [(10, 8000, False)]


def test_without_rights_a_port_nobody_listens_at_is_not_asked(tree: ProcTree) -> None:
    listening(tree, 8001)
    add(tree, 10, "alpha-server")
    assert shown(looked(tree, 10, closed=True)) == [(10, 8000, False)]


def test_the_only_port_of_a_server_that_was_given_none(tree: ProcTree) -> None:
    listening(tree, 4321)
    add(tree, 10, "alpha-server", sockets=[4321])
    assert shown(looked(tree, 10)) == [(10, 4321, True)]


def test_of_several_unknown_ports_none_is_asked(tree: ProcTree) -> None:
    listening(tree, 4321, 4322)
    add(tree, 10, "alpha-server", sockets=[4321, 4322])
    (found,) = looked(tree, 10)
    assert (found.listeners, found.other_ports) == ((), (4321, 4322))


def test_a_server_that_was_given_a_port_is_not_asked_at_another(tree: ProcTree) -> None:
    listening(tree, 4321)
    add(tree, 10, "alpha-server", "--port", "8001", sockets=[4321])
    assert shown(looked(tree, 10)) == [(10, 8001, False)]


def test_sockets_of_children_are_the_servers(tree: ProcTree) -> None:
    listening(tree, 8000, 29500)
    add(tree, 10, "alpha-server")
    add(tree, 11, "alpha-server", parent=10, sockets=[8000])
    add(tree, 12, "alpha-worker", parent=10, sockets=[29500])
    (found,) = looked(tree, 10)
    assert (found.row.pid, found.port, found.pids) == (10, 8000, (10, 11, 12))


def test_a_launcher_of_several_servers_is_several(tree: ProcTree) -> None:
    listening(tree, 8001, 8002)
    add(tree, 10, "alpha-server")
    add(tree, 11, "alpha-server", "--port", "8001", parent=10, sockets=[8001])
    add(tree, 12, "alpha-server", "--port", "8002", parent=10, sockets=[8002])
    add(tree, 13, "alpha-worker", parent=10)
    found = looked(tree, 10)
    assert shown(found) == [(11, 8001, True), (12, 8002, True)]
    assert [one.pids for one in found] == [(11, 10, 13), (12,)]


def test_a_server_of_another_kind_inside_is_one_of_its_own(tree: ProcTree) -> None:
    listening(tree, 8000, 40001)
    add(tree, 10, "alpha-server", sockets=[8000])
    add(tree, 11, "beta-server", "--port", "40001", parent=10, sockets=[40001])
    outer, inner = looked(tree, 10)
    assert (outer.port, outer.pids, outer.inside) == (8000, (10, 11), None)
    assert (inner.port, inner.row.pid, inner.inside and inner.inside.pid) == (40001, 11, 10)


def test_a_network_that_is_not_shown(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"))
    (found,) = looked(tree, 10)
    assert (found.network, found.port, found.listeners) == (None, 8000, ())
