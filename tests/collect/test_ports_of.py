"""Sockets and their owners: this process against the real /proc, the rest against a /proc of files."""

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from agent.collect.ports_of import Listener, PortOwners, listeners

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, state: str, inode: int) -> str:
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Process 10 listens on 8000 (inode 77), 11 and 12 descend from it, 20 is a stranger, 30 is gone half-way."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(
        HEADER + line("00000000:1F40", "0A", 77) + line("0100007F:1F90", "0A", 78) + line("0100007F:1F40", "01", 79)
    )
    (tmp_path / "net/tcp6").write_text(
        HEADER
        + line("00000000000000000000000001000000:0050", "0A", 80)
        + line("0000000000000000FFFF00000100007F:0051", "0A", 81)
    )
    for pid, parent, inode in ((10, 1, 77), (11, 10, 99), (12, 11, 99), (20, 1, 98)):
        fd = tmp_path / str(pid) / "fd"
        fd.mkdir(parents=True)
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0\n")
        (fd / "3").symlink_to(f"socket:[{inode}]")
    (tmp_path / "30").mkdir()
    (tmp_path / "sys").mkdir()
    return tmp_path


@pytest.mark.skipif(sys.byteorder != "little", reason="the recorded lines are from a little-endian machine")
def test_listeners_of_both_families(proc: Path) -> None:
    assert listeners(proc) == [
        Listener(IPv4Address("0.0.0.0"), 8000, 77),
        Listener(IPv4Address("127.0.0.1"), 8080, 78),
        Listener(IPv6Address("::1"), 80, 80),
        Listener(IPv4Address("127.0.0.1"), 81, 81),
    ]


async def test_owner_and_descendants(proc: Path) -> None:
    assert await PortOwners(proc).pids("127.0.0.1", 8000) == (10, 11, 12)


async def test_other_machines_and_other_addresses_have_no_processes_here(proc: Path) -> None:
    owners = PortOwners(proc)
    assert await owners.pids("192.0.2.7", 8000) == ()
    assert await owners.pids("no-such-host.invalid", 8000) == ()
    assert await owners.pids("127.0.0.1", 8001) == ()
    assert await owners.pids("127.0.0.2", 8080) == ()


async def test_answers_are_kept_for_a_while(proc: Path) -> None:
    owners, hasty = PortOwners(proc), PortOwners(proc, refresh_seconds=0)
    assert await owners.pids("127.0.0.1", 8000) == await hasty.pids("127.0.0.1", 8000)
    (proc / "12/stat").unlink()
    assert await owners.pids("127.0.0.1", 8000) == (10, 11, 12)
    assert await hasty.pids("127.0.0.1", 8000) == (10, 11)


async def test_no_proc_at_all(tmp_path: Path) -> None:
    assert listeners(tmp_path / "none") == []
    assert await PortOwners(tmp_path / "none").pids("127.0.0.1", 8000) == ()


@pytest.fixture
def child() -> Iterator[Popen[bytes]]:
    with Popen([sys.executable, "-c", "input()"], stdin=PIPE) as process:
        yield process
        process.communicate(b"\n")


async def test_this_process_and_its_child_are_found(child: Popen[bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await PortOwners().pids("localhost", server.getsockname()[1])
    assert {os.getpid(), child.pid} <= set(found)
