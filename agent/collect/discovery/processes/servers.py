"""The process tree of an engine in, its servers out: which of its processes is asked, and at which of its ports.

The port must be the engine's: with open files shown to us it is one that its processes hold; without, the one of the
command line, or the engine's default, if somebody listens there in its network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.collect.discovery.processes.networks import Network
from agent.collect.discovery.processes.rows import Row
from agent.collect.discovery.processes.table import ProcessTable
from agent.core.discovery.sockets import Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that answers, or will; `listeners` are those of its one port, none while it does not listen."""

    row: Row
    pids: tuple[int, ...]  # the process first, then those that belong to it
    port: int | None
    listeners: tuple[Listener, ...] = ()
    held: tuple[Listener, ...] = ()  # those of all its ports, as far as they are shown
    network: Network | None = None  # None: not shown to us
    inside: Row | None = None  # the server of another kind that started it for itself
    other_ports: tuple[int, ...] = ()  # it listens on several others, and nobody says which one answers HTTP


def servers(table: ProcessTable, row: Row, inside: Row | None = None) -> Iterator[Server]:
    """The servers at and below a recognised server, the outermost ones that listen."""
    same, foreign = nearest_servers(table, row)
    mine = table.with_descendants([row.pid])
    foreigners = set(table.with_descendants(one.pid for one in foreign))
    found = _listening(table, row, [pid for pid in mine if pid not in foreigners], mine, inside)
    below = [] if found.listeners else [one for other in same for one in servers(table, other, inside)]
    below = [one for one in below if one.listeners]
    if not below:
        yield found
    else:
        taken = {pid for one in below for pid in one.pids}
        rest = tuple(pid for pid in mine if pid not in taken)  # what works for them all is shown with the first
        for at, one in enumerate(below):
            pids = (*one.pids, *rest) if at == 0 else one.pids
            yield replace(one, pids=pids, inside=inside)
    for other in foreign:
        yield from servers(table, other, row)


def nearest_servers(table: ProcessTable, row: Row) -> tuple[list[Row], list[Row]]:
    """Recognised servers below with no other one between: those of the same kind, those of others."""
    same: list[Row] = []
    foreign: list[Row] = []
    left = list(table.children.get(row.pid, ()))
    seen = {row.pid}
    while left:
        pid = left.pop()
        below = table.rows.get(pid)
        if below is None or pid in seen:
            continue
        seen.add(pid)
        if below.engine is not None and below.recognised is not None and below.recognised.part == "server":
            (same if below.engine is row.engine else foreign).append(below)
        else:
            left += table.children.get(pid, ())
    return sorted(same, key=lambda one: one.pid), sorted(foreign, key=lambda one: one.pid)


def _listening(table: ProcessTable, row: Row, pids: list[int], all_pids: tuple[int, ...], inside: Row | None) -> Server:
    assert row.engine is not None
    assert row.recognised is not None
    first = (row.pid, *(pid for pid in all_pids if pid != row.pid))
    expected = (row.recognised.port,) if row.recognised.port is not None else row.engine.default_ports
    network = table.networks.of(row.pid)
    if network is None:
        return Server(row=row, pids=first, port=expected[0] if expected else None, inside=inside)
    port, others = _port(table, row, pids, network, expected)
    held = tuple(_held(table, row, pids, network))
    listeners = tuple(one for one in held if one.port == port)
    if port is None and expected and not others:
        port = expected[0]
    return Server(
        row=row,
        pids=first,
        port=port,
        listeners=listeners,
        held=listeners if row.files_closed else held,
        network=network,
        inside=inside,
        other_ports=others,
    )


def _port(
    table: ProcessTable, row: Row, pids: list[int], network: Network, expected: tuple[int, ...]
) -> tuple[int | None, tuple[int, ...]]:
    """The port that is asked; or None, and those of which it could be any."""
    held = {one.port for one in _held(table, row, pids, network)}
    found = next((port for port in expected if port in held), None)
    assert row.recognised is not None
    if found is not None or row.files_closed or row.recognised.port is not None:
        return found, ()
    own = sorted({one.port for one in _held(table, row, [row.pid], network)})
    return (own[0], ()) if len(own) == 1 else (None, tuple(own))


def _held(table: ProcessTable, row: Row, pids: list[int], network: Network) -> list[Listener]:
    """Listening sockets that belong to the processes; all of the network's where open files are closed to us."""
    holders = table.holders({one.inode for one in network.listeners}, pids)
    if row.files_closed:
        return list(network.listeners)
    return [one for one in network.listeners if one.inode in holders]
