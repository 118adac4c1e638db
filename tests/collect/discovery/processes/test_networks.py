"""Network namespaces: told apart without any right, ours known, sockets and addresses read."""

import socket
from pathlib import Path

from agent.collect.discovery.processes.networks import Networks
from tests.support.engine_processes import engine_process, other_network
from tests.support.proc_tree import ProcTree


def test_processes_of_one_namespace_share_it(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path)
    tree.network("host", [("0.0.0.0", 8000, 7), ("::1", 80, 8)], ["10.0.0.1", "fd00::1"], ours=True)
    tree.network("pod", [("127.0.0.1", 8000, 9)], ["10.244.0.5"])
    for pid, network in ((10, "host"), (11, "host"), (20, "pod"), (30, "")):
        tree.process(pid, network=network)
    networks = Networks(tmp_path)
    host, pod = networks.of(10), networks.of(20)
    assert host is networks.of(11) is networks.own
    assert host is not None
    assert pod is not None
    assert [(str(one.address), one.port, one.inode) for one in host.listeners] == [("0.0.0.0", 8000, 7), ("::1", 80, 8)]
    assert [str(one) for one in host.addresses] == ["10.0.0.1", "fd00::1"]
    assert pod.inode != host.inode
    assert networks.of(30) is networks.of(40) is None


def test_the_real_one_has_our_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = Networks(Path("/proc")).own
        assert own is not None
        assert server.getsockname()[1] in {one.port for one in own.listeners}


def test_a_real_other_one(tmp_path: Path) -> None:
    before = other_network("10.99.0.7/32")
    with engine_process(tmp_path, before=before, listen=["0.0.0.0"]) as child:
        networks = Networks(Path("/proc"))
        own, other = networks.own, networks.of(child.pid)
        assert own is not None
        assert other is not None
        assert own.inode != other.inode
        assert [one.port for one in other.listeners] == [child.port]
        assert "10.99.0.7" in map(str, other.addresses)
