"""A port in, the processes behind it out: listening sockets and their owners, read from /proc.

Works without any right for sockets; owners are only seen for processes whose `fd` folder we may read (our own user's,
or all of them as root or with CAP_SYS_PTRACE). What may not be seen is left out.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
from msgspec import Struct

from agent.clock import NS, boot_ns
from agent.core.workloads import Workload
from agent.engines.contract import Recognised

REFRESH_SECONDS = 30.0
_LISTEN = "0A"  # state column of /proc/net/tcp (include/net/tcp_states.h)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Listener(Struct, frozen=True):
    """A TCP socket that accepts connections."""

    address: Address
    port: int
    inode: int


class Behind(Struct, frozen=True, kw_only=True):
    """What is behind a port of this machine; empty where the processes cannot be seen, or are another machine's."""

    pids: tuple[int, ...] = ()  # those that listen there, and their descendants, ascending
    started_at_ns: int | None = None  # Unix ns: when the first of those that listen was started
    workload: Workload | None = None  # the pod, container or job of those that listen
    kind: str = ""  # engine whose command line it is, '' for none
    recognised: Recognised | None = None


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Every listening TCP socket of this network namespace, IPv4 first. Blocking, short."""
    found: list[Listener] = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6, or no /proc: nothing to see there
        for line in lines:
            columns = line.split()
            if len(columns) > 9 and columns[3] == _LISTEN:
                address, _, port = columns[1].rpartition(":")
                found.append(Listener(_address(address), int(port, 16), int(columns[9])))
    return found


def _address(text: str) -> Address:
    """The kernel prints addresses as 32-bit words in the machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    return (address.version == 6 and address.ipv4_mapped) or address


class PortOwners:
    """Process ids behind ports; one instance serves all scrapers, and looks through /proc at most twice a minute."""

    def __init__(self, proc: Path = Path("/proc"), refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._proc = proc
        self._refresh_ns = int(refresh_seconds * NS)
        self._lock = anyio.Lock()
        self._wanted: set[tuple[str, int]] = set()
        self._pids: dict[tuple[str, int], tuple[int, ...]] = {}
        self._read_at_ns: int | None = None

    async def pids(self, host: str, port: int) -> tuple[int, ...]:
        """Processes that listen on `host`:`port` and their descendants, ascending; empty when `host` is elsewhere."""
        place = (host, port)
        async with self._lock:
            now = boot_ns()
            stale = self._read_at_ns is None or now - self._read_at_ns >= self._refresh_ns
            if stale or place not in self._wanted:
                self._wanted.add(place)
                self._pids = await anyio.to_thread.run_sync(self.look, frozenset(self._wanted))
                self._read_at_ns = now
            return self._pids.get(place, ())

    async def behind(self, host: str, port: int) -> Behind:
        """The same with all that is known of those that listen."""
        return Behind(pids=await self.pids(host, port))

    def look(self, places: frozenset[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, ...]]:
        """One pass through /proc for all `places`. Blocking."""
        sockets = listeners(self._proc)
        inodes: dict[tuple[str, int], set[int]] = {}
        for host, port in places:
            here = _local_addresses(host)
            inodes[host, port] = {
                s.inode for s in sockets if s.port == port and here and (s.address.is_unspecified or s.address in here)
            }
        owners = self._owners(set().union(*inodes.values())) if any(inodes.values()) else {}
        children = self._children() if owners else {}
        return {
            place: tuple(sorted(_with_descendants({pid for i in wanted for pid in owners.get(i, ())}, children)))
            for place, wanted in inodes.items()
        }

    def _processes(self) -> Iterator[int]:
        try:
            names = [entry.name for entry in self._proc.iterdir()]
        except OSError:
            return
        yield from (int(name) for name in names if name.isdecimal())

    def _owners(self, inodes: set[int]) -> dict[int, set[int]]:
        """Socket inode -> processes that hold it open (several after a fork)."""
        links = {f"socket:[{inode}]": inode for inode in inodes}
        found: dict[int, set[int]] = {}
        for pid in self._processes():
            try:
                with os.scandir(self._proc / str(pid) / "fd") as entries:
                    for entry in entries:
                        inode = links.get(_link(entry.path))
                        if inode is not None:
                            found.setdefault(inode, set()).add(pid)
            except OSError:
                continue  # gone, or not ours to look into
        return found

    def _children(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for pid in self._processes():
            try:
                stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
            if len(fields) > 1:
                found.setdefault(int(fields[1]), []).append(pid)
        return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115  # a Path for each open file of the machine would double the cost
    except OSError:
        return ""  # the file was closed meanwhile


def _with_descendants(pids: set[int], children: dict[int, list[int]]) -> set[int]:
    found, left = set(pids), list(pids)
    while left:
        for child in children.get(left.pop(), ()):
            if child not in found:
                found.add(child)
                left.append(child)
    return found


def _local_addresses(host: str) -> set[Address]:
    """Addresses of `host` that are this machine's own; a process list of another machine would be wrong. May block."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    addresses = {ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos}
    return {address for address in addresses if address.is_loopback or _is_own(address)}


def _is_own(address: Address) -> bool:
    """Only an address of this machine can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
