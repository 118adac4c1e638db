"""A host and a port in, the processes behind it out: whose they are, since when, and which engine they say to be.

Works without any right for sockets; their owners are only seen for processes whose open files we may read (our own
user's, or all of them as root or with CAP_SYS_PTRACE). Without, an engine whose command line names that port is taken
for its owner. What may not be seen is left out.
"""

import ipaddress
import socket
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from msgspec import Struct

from agent.collect.discovery.processes.engines import server_with
from agent.collect.discovery.processes.networks import Network
from agent.collect.discovery.processes.table import ProcessTable
from agent.core.discovery.sockets import Address, Listener
from agent.core.workloads import Workload
from agent.engines.contract import Recognised

REFRESH_SECONDS = 30.0


class Behind(Struct, frozen=True, kw_only=True):
    """What is behind a port of this machine; empty where the processes cannot be seen, or are another machine's."""

    pids: tuple[int, ...] = ()  # those that listen there, and their descendants, ascending
    started_at_ns: int | None = None  # Unix ns: when the first of those that listen was started
    workload: Workload | None = None  # the pod, container or job of those that listen
    kind: str = ""  # engine whose command line it is, '' for none
    recognised: Recognised | None = None


class PortOwners:
    """Processes behind ports. One instance serves all scrapers; it shares its table of processes with discovery.

    A table that is older than `refresh_seconds` is read anew, and so it is for a place not asked for before.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        refresh_seconds: float = REFRESH_SECONDS,
        *,
        table: ProcessTable | None = None,
    ) -> None:
        self._table = table or ProcessTable(proc)
        self._refresh_seconds = refresh_seconds
        self._known: set[tuple[str, int]] = set()

    async def pids(self, host: str, port: int) -> tuple[int, ...]:
        """Processes that listen on `host`:`port` and their descendants, ascending; empty when `host` is elsewhere."""
        return (await self.behind(host, port)).pids

    async def behind(self, host: str, port: int) -> Behind:
        """The same with all that is known of those that listen."""
        place = (host, port)
        age = self._refresh_seconds if place in self._known else 0.0
        self._known.add(place)
        return await self._table.ask(partial(behind, host=host, port=port), age)


def behind(table: ProcessTable, host: str, port: int) -> Behind:
    """Who listens on `host`:`port`, in our network or in that of a container of this machine. Blocks."""
    addresses = resolve(host)
    for network in _networks(table):
        listeners = _listeners(table, network, addresses, port)
        if listeners:
            owners = _owners(table, network, listeners)
            return _behind(table, owners) if owners else Behind()
    return _loading(table, addresses, port)


def _loading(table: ProcessTable, addresses: set[Address], port: int) -> Behind:
    """The only server whose port that will be, and that does not listen yet."""
    found = []
    for row in table.rows.values():
        network = table.networks.of(row.pid) if row.engine is not None else None
        if row.engine is None or row.recognised is None or row.recognised.part != "server" or network is None:
            continue
        ports = row.engine.default_ports if row.recognised.port is None else (row.recognised.port,)
        if port in ports and _places(table, network, addresses):
            found.append(row)
    outermost = [row for row in found if not any(above in found for above in table.ancestors(row.pid))]
    return _behind(table, {outermost[0].pid}) if len(outermost) == 1 else Behind()


def _networks(table: ProcessTable) -> Iterable[Network]:
    """Ours first, then those of engines in containers."""
    own = table.networks.own
    found = {own.inode: own} if own is not None else {}
    for row in table.rows.values():
        network = table.networks.of(row.pid) if row.engine is not None else None
        if network is not None:
            found.setdefault(network.inode, network)
    return found.values()


def _places(table: ProcessTable, network: Network, addresses: set[Address]) -> set[Address]:
    """Those of `addresses` that lead into this network from here."""
    own = table.networks.own
    if own is not None and network.inode == own.inode:
        return {one for one in addresses if one.is_loopback or is_own(one)}
    shared = own.addresses if own is not None else ()
    return {one for one in addresses if one in network.addresses and one not in shared}


def _listeners(table: ProcessTable, network: Network, addresses: set[Address], port: int) -> list[Listener]:
    here = _places(table, network, addresses)
    return [
        one
        for one in network.listeners
        if one.port == port and here and (one.address.is_unspecified or one.address in here)
    ]


def _owners(table: ProcessTable, network: Network, listeners: list[Listener]) -> set[int]:
    inodes = {one.inode for one in listeners}
    engines = [row for row in table.rows.values() if row.engine is not None]
    # Engines first: looking through the open files of all processes takes long, and is only needed for strangers.
    holders = table.holders(inodes, table.with_descendants(row.pid for row in engines))
    if not holders:
        holders = table.holders(inodes, [row.pid for row in table.rows.values() if row.process.argv])
    found = {pid for pids in holders.values() for pid in pids}
    if found:
        return found
    port = listeners[0].port
    said = [
        row.pid
        for row in engines
        if row.files_closed
        and row.recognised is not None
        and row.engine is not None
        and row.recognised.part == "server"
        and (port == row.recognised.port if row.recognised.port is not None else port in row.engine.default_ports)
        and (table.networks.of(row.pid) or network).inode == network.inode
    ]
    return set(said) if len(said) == 1 else set()


def _behind(table: ProcessTable, owners: set[int]) -> Behind:
    details = table.details(owners)
    starts = {pid: one.started_at_ns for pid, one in details.items()}
    first = min(owners, key=lambda pid: (starts.get(pid, 0), pid))
    server = server_with(table, first)
    return Behind(
        pids=tuple(sorted({*table.with_descendants(owners), *(server.pids if server is not None else ())})),
        started_at_ns=starts.get(first),
        workload=details[first].place if first in details else None,
        kind=server.engine.kind if server is not None else "",
        recognised=server.recognised if server is not None else None,
    )


def resolve(host: str) -> set[Address]:
    """The addresses of a host; none when it has none. May block."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos}


def is_own(address: Address) -> bool:
    """Only an address of this machine can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
