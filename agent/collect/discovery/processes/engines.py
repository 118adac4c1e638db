"""The process table in, the engines that run on this machine out: servers, and workers of servers elsewhere.

Blocks, short: sockets and cgroups of recognised processes are read, of all others nothing but their command line.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace as replace_server

from msgspec import Struct
from msgspec.structs import replace

from agent.collect.discovery.processes.reach import Reach, places, reach
from agent.collect.discovery.processes.rows import Row
from agent.collect.discovery.processes.servers import Server, nearest_servers, servers
from agent.collect.discovery.processes.table import ProcessTable
from agent.core.attribution.users import SeenProcess
from agent.core.workloads import Workload
from agent.engines.arguments import option
from agent.engines.contract import EngineFile, Recognised

_NOT_SHOWN = Reach(
    why="its network is not shown to us, so neither is the port it listens on: run the agent as root, or mount /proc "
    "without hidepid, or name the engine's address under engines.targets"
)


class FoundEngine(Struct, frozen=True, kw_only=True):
    """An engine, or the part of one, that runs here. `host` is '' where it cannot be asked, and `why` says why."""

    engine: EngineFile
    recognised: Recognised  # of its server, completed by its other processes
    pids: tuple[int, ...]  # the server, or the first of the workers, first
    started_at_ns: int | None = None
    workload: Workload | None = None
    port: int | None = None
    host: str = ""
    why: str = ""
    listens: bool = True  # a server: its process accepts connections
    shown: str = ""  # the address under which people know it, whether it answers there or not
    places: frozenset[str] = frozenset()  # every host:port at which somebody may have configured it
    shared_network: bool = True  # it lives in our network namespace, or we do not know
    inside: int | None = None  # pid of the server of another kind that started it for itself

    @property
    def part(self) -> str:
        return self.recognised.part


def engines_of(table: ProcessTable) -> list[FoundEngine]:
    """All of them, servers first."""
    roots = [row for row in table.rows.values() if row.engine is not None and not _inside_another(table, row)]
    roots.sort(key=lambda row: (row.start_ticks, row.pid))  # so that of two equal names the older one keeps its own
    started: list[Server] = []
    working: list[Row] = []
    for row in roots:
        if _part(row) == "server":
            started += servers(table, row)
        elif launched := _launched(table, row):
            started += launched
        else:
            working.append(row)
    details = table.details({one.row.pid for one in started} | {row.pid for row in working})
    found = [_server(table, one, details.get(one.row.pid)) for one in started]
    return _with_workers(found, [_worker(table, row, details.get(row.pid)) for row in working])


class ServerWith(Struct, frozen=True, kw_only=True):
    """The engine that a process belongs to, with the processes that are its own."""

    engine: EngineFile
    recognised: Recognised
    pids: tuple[int, ...]


def server_with(table: ProcessTable, pid: int) -> ServerWith | None:
    """The engine whose process, or whose front end or worker, `pid` is; None for nobody's.

    What listens is often a child of what was started: only that has the workers, and the whole command line.
    """
    lines = [row for row in (table.rows[pid], *table.ancestors(pid)) if row.engine is not None]
    if not lines:
        return None
    nearest, outermost = lines[0], lines[-1]
    found = servers(table, outermost) if _part(outermost) == "server" else _launched(table, outermost)
    server = next((one for one in found if pid in one.pids and one.row.engine is nearest.engine), None)
    row, pids = (server.row, server.pids) if server is not None else (nearest, table.with_descendants([nearest.pid]))
    assert row.engine is not None
    return ServerWith(engine=row.engine, recognised=_completed(table, row, pids), pids=pids)


def strangers(table: ProcessTable, pids: Iterable[int], found: Iterable[FoundEngine]) -> list[Row]:
    """Those of `pids` that belong to no engine: they are never asked anything."""
    known = {pid for one in found for pid in one.pids}
    return [table.rows[pid] for pid in sorted(set(pids) - known) if pid in table.rows]


def _part(row: Row) -> str:
    return row.recognised.part if row.recognised is not None else ""


def _launched(table: ProcessTable, row: Row) -> list[Server]:
    """The servers below a worker: it is their launcher then, and works for the first of its kind."""
    found = [server for rows in nearest_servers(table, row) for one in rows for server in servers(table, one)]
    taken = {pid for one in found for pid in one.pids}
    rest = tuple(pid for pid in table.with_descendants([row.pid]) if pid not in taken)
    first = next((at for at, one in enumerate(found) if one.row.engine is row.engine), None)
    if first is not None:
        found[first] = replace_server(found[first], pids=(*found[first].pids, *rest))
    return found


def _inside_another(table: ProcessTable, row: Row) -> bool:
    return any(above.engine is not None for above in table.ancestors(row.pid))


def _server(table: ProcessTable, server: Server, details: SeenProcess | None) -> FoundEngine:
    row = server.row
    assert row.engine is not None
    own, network = table.networks.own, server.network
    way = _NOT_SHOWN if network is None else reach(server.listeners, network, own)
    if row.files_closed and not server.listeners and network is not None:
        words = (
            f"nobody listens at port {server.port} in its network: it is loading its model, or has another port than "
            "its command line says, which is closed to us: add the capability SYS_PTRACE, or name its address under "
            "engines.targets"
        )
        way = Reach(why=words, shown=way.shown)
    if server.other_ports:
        ports = ", ".join(str(port) for port in server.other_ports)
        words = f"it listens on the ports {ports}: name the one that answers HTTP under engines.targets"
        way = Reach(why=words, shown=way.shown)
    return FoundEngine(
        engine=row.engine,
        recognised=_completed(table, row, server.pids),
        # What a server starts for itself works for it, whatever else can be asked about it.
        pids=() if server.inside is not None else server.pids,
        started_at_ns=details.started_at_ns if details else None,
        workload=details.place if details else None,
        port=server.port,
        host=way.host,
        why=way.why,
        listens=bool(server.listeners or server.other_ports or network is None),
        shown=way.shown,
        places=places(server.held, network, own) if network is not None else frozenset(),
        shared_network=network is None or own is None or network.inode == own.inode,
        inside=server.inside.pid if server.inside is not None else None,
    )


def _worker(table: ProcessTable, row: Row, details: SeenProcess | None) -> FoundEngine:
    assert row.engine is not None
    pids = table.with_descendants([row.pid])
    return FoundEngine(
        engine=row.engine,
        recognised=_completed(table, row, pids),
        pids=(row.pid, *(pid for pid in pids if pid != row.pid)),
        started_at_ns=details.started_at_ns if details else None,
        workload=details.place if details else None,
    )


def _completed(table: ProcessTable, row: Row, pids: Collection[int]) -> Recognised:
    """What the process says, and where it is silent those above it, then those below; a title says little."""
    assert row.recognised is not None
    above = table.ancestors(row.pid)
    others = [other for other in (*above, *(table.rows[pid] for pid in pids)) if other.engine is row.engine]
    said = row.recognised
    for other in others:
        if other.recognised is not None:
            said = _filled(said, other.recognised)
    if said.group is None and said.part == "worker":
        # Ray's workers have titles alone; the raylet that started them knows where their cluster meets.
        meeting = (option(other.process.argv, "--gcs-address") for other in above)
        said = replace(said, group=next((address for address in meeting if address), None))
    return said


def _filled(said: Recognised, other: Recognised) -> Recognised:
    return replace(
        said,
        group=said.group or other.group,
        nodes=said.nodes if said.nodes is not None else other.nodes,
        node_rank=said.node_rank if said.node_rank is not None else other.node_rank,
        role=said.role or other.role,
        model=said.model or other.model,
    )


def _with_workers(found: list[FoundEngine], working: list[FoundEngine]) -> list[FoundEngine]:
    """Workers go to the server of their container; those of servers elsewhere become one engine for each group."""
    result = list(found)
    left: dict[tuple[str, str], FoundEngine] = {}
    for worker in working:
        at = [i for i, server in enumerate(result) if _works_for(worker, server)]
        if len(at) == 1:
            server = result[at[0]]
            said = _filled(server.recognised, worker.recognised)
            result[at[0]] = replace(server, recognised=said, pids=(*server.pids, *worker.pids))
            continue
        key = (worker.engine.kind, worker.recognised.group or _place(worker.workload) or f"pid {worker.pids[0]}")
        first = left.get(key)
        if first is not None:
            said = _filled(first.recognised, worker.recognised)
            worker = replace(first, recognised=said, pids=(*first.pids, *worker.pids))
        left[key] = worker
    return [*result, *left.values()]


def _works_for(worker: FoundEngine, server: FoundEngine) -> bool:
    """Both are of one engine, run in one place, and do not say that they belong to different groups."""
    ours, theirs = worker.recognised.group, server.recognised.group
    return (
        server.engine is worker.engine
        and server.inside is None
        and bool(_place(worker.workload))
        and _place(worker.workload) == _place(server.workload)
        and (ours is None or theirs is None or ours == theirs)
    )


def _place(workload: Workload | None) -> str:
    if workload is None:
        return ""
    return workload.container_id or workload.pod_uid or workload.job
