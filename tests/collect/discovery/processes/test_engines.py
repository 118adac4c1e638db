"""The engines of a machine, from its processes: servers with all that is theirs, workers of servers elsewhere."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.collect.discovery.processes.engines import FoundEngine, engines_of, strangers
from agent.collect.discovery.processes.table import ProcessTable
from tests.support.made_up_engines import ALPHA, BETA, MADE_UP, line
from tests.support.proc_tree import ProcTree

POD = "0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-{}.scope\n"
ONE, TWO = POD.format("a" * 64), POD.format("b" * 64)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path)
    tree.network("host", [("0.0.0.0", 8000, 80), ("127.0.0.1", 7000, 70)], ["10.0.0.1"], ours=True)
    tree.process(1, name="init", parent=0, network="host")
    return tree


def looked(tree: ProcTree) -> list[FoundEngine]:
    return engines_of(table_of(tree))


def table_of(tree: ProcTree) -> ProcessTable:
    table = ProcessTable(tree.root, MADE_UP)
    table.look()
    return table


def test_a_server_with_its_workers(tree: ProcTree) -> None:
    words = ("alpha-server", "--group", "h:1", "--nodes", "2", "--metrics-port", "7000")
    tree.process(10, ONE, cmdline=line(*words), network="host", sockets=[80], environ="RANK=prefill\0")
    tree.process(11, ONE, cmdline=line("alpha-worker", "--model", "m"), parent=10, network="host")
    (found,) = looked(tree)
    assert (found.engine, found.part, found.pids) == (ALPHA, "server", (10, 11))
    assert (found.host, found.port, found.why) == ("127.0.0.1", 8000, "")
    assert found.places == {"127.0.0.1:8000", "10.0.0.1:8000"}
    assert found.workload is not None
    assert found.workload.container_id == "a" * 64
    assert found.started_at_ns is not None
    said = found.recognised
    assert (said.group, said.nodes, said.role, said.model, said.metrics_port) == ("h:1", 2, "prefill", "m", 7000)


def test_workers_of_a_server_elsewhere_are_one_engine_for_each_group(tree: ProcTree) -> None:
    tree.process(5, cmdline=line("raylet", "--gcs-address=10.0.0.9:6379"))
    for pid in (10, 11):
        tree.process(pid, ONE, cmdline=line("alpha-worker"), parent=5)
    tree.process(20, TWO, cmdline=line("alpha-worker", "--group", "h:1", "--rank", "1"))
    tree.process(21, TWO, cmdline=line("python"), parent=20)
    tree.process(30, cmdline=line("beta-worker"))
    found = {(one.engine.kind, one.recognised.group): one for one in looked(tree)}
    assert {key: one.pids for key, one in found.items()} == {
        ("alpha", "10.0.0.9:6379"): (10, 11),
        ("alpha", "h:1"): (20, 21),
        ("beta", None): (30,),
    }
    assert {one.part for one in found.values()} == {"worker"}
    assert {one.host for one in found.values()} == {""}
    assert found["alpha", "h:1"].recognised.node_rank == 1


def test_a_title_inherits_what_the_launcher_said(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-worker", "--group", "h:1", "--rank", "3"))
    tree.process(11, parent=10)
    tree.process(12, cmdline=line("alpha-worker"), parent=11)
    (found,) = looked(tree)
    assert (found.recognised.group, found.recognised.node_rank, found.pids) == ("h:1", 3, (10, 11, 12))


def test_workers_that_are_no_descendants_go_to_the_server_of_their_container(tree: ProcTree) -> None:
    tree.process(5, cmdline=line("raylet", "--gcs-address=10.0.0.9:6379"))
    tree.process(10, ONE, cmdline=line("alpha-server"), network="host", sockets=[80])
    tree.process(11, ONE, cmdline=line("alpha-worker"), parent=5)
    (found,) = looked(tree)
    assert (found.pids, found.recognised.group, found.part) == ((10, 11), "10.0.0.9:6379", "server")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (TWO, ("alpha-worker",)),  # another container
        (ONE, ("beta-worker",)),  # another engine
        (ONE, ("alpha-worker", "--group", "other:1")),  # another group
        ("0::/\n", ("alpha-worker",)),  # nowhere
    ],
)
def test_other_workers_do_not(tree: ProcTree, place: str, words: tuple[str, ...]) -> None:
    tree.process(10, ONE, cmdline=line("alpha-server", "--group", "h:1"), network="host", sockets=[80])
    tree.process(11, place, cmdline=line(*words))
    assert [one.pids for one in looked(tree)] == [(10,), (11,)]


def test_of_two_servers_in_one_container_nobody_guesses(tree: ProcTree) -> None:
    tree.process(10, ONE, cmdline=line("alpha-server", "--port", "8000"), network="host", sockets=[80])
    tree.process(11, ONE, cmdline=line("alpha-server", "--port", "7000"), network="host", sockets=[70])
    tree.process(12, ONE, cmdline=line("alpha-worker"))
    assert [one.pids for one in looked(tree)] == [(10,), (11,), (12,)]


def test_a_launcher_that_is_recognised_as_a_worker_belongs_to_the_server_it_launched(tree: ProcTree) -> None:
    tree.process(10, ONE, cmdline=line("alpha-worker", "--group", "h:1"), network="host")
    tree.process(11, ONE, cmdline=line("bash"), parent=10, network="host")
    tree.process(12, ONE, cmdline=line("alpha-server"), parent=11, network="host", sockets=[80])
    (found,) = looked(tree)
    assert (found.part, found.pids, found.port) == ("server", (12, 10, 11), 8000)
    assert found.recognised.group == "h:1"


def test_what_a_server_started_for_itself_owns_no_process(tree: ProcTree) -> None:
    tree.network("pod", [("0.0.0.0", 8000, 81), ("127.0.0.1", 40001, 41)], ["10.244.0.5"])
    tree.process(10, ONE, cmdline=line("alpha-server"), network="pod", sockets=[81])
    child = line("beta-server", "--port", "40001")
    tree.process(11, ONE, cmdline=child, parent=10, network="pod", sockets=[41])
    outer, inner = looked(tree)
    assert (outer.host, outer.pids) == ("10.244.0.5", (10, 11))
    assert (inner.engine, inner.host, inner.pids, inner.inside) == (BETA, "", (), 10)
    assert "sidecar" in inner.why


def test_servers_that_cannot_be_asked_say_why(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"))  # its network is not shown
    tree.process(11, cmdline=line("beta-server"), network="host", sockets=[70, 80])
    tree.process(12, cmdline=line("alpha-server", "--port", "1"), network="host")
    why = {one.pids[0]: one.why for one in looked(tree)}
    assert "hidepid" in why[10]
    assert "7000, 8000" in why[11]
    assert "does not listen yet" in why[12]


def test_without_rights_a_missing_port_may_be_another_one(tree: ProcTree) -> None:
    tree.process(12, cmdline=line("alpha-server", "--port", "1"), network="host")
    table = table_of(tree)
    table.rows[12].files_closed = True
    assert "SYS_PTRACE" in engines_of(table)[0].why


def test_processes_of_no_engine_are_strangers(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    tree.process(11, parent=10)
    tree.process(20, cmdline=line("python", "train.py"))
    table = table_of(tree)
    assert [row.pid for row in strangers(table, [10, 11, 20, 999], engines_of(table))] == [20]


NAMES = st.sampled_from(["bash", "alpha-server", "alpha-worker", "beta-server", "raylet", ""])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.integers(0, 12), st.booleans()), max_size=12))
def test_any_tree_gives_each_process_to_one_engine_at_most(
    tmp_path_factory: pytest.TempPathFactory, processes: list[tuple[str, int, bool]]
) -> None:
    tree = ProcTree(tmp_path_factory.mktemp("proc"))
    tree.network("host", [("127.0.0.1", 8000, 80)], ours=True)
    for at, (name, parent, listens) in enumerate(processes):
        tree.process(100 + at, cmdline=line(name), parent=100 + parent, network="host", sockets=[80] * listens)
    pids = [pid for one in looked(tree) for pid in one.pids]
    assert len(pids) == len(set(pids))
