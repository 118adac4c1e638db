"""What a look through /proc could see in, a `Feature` for each right that finding engines needs out."""

from agent.collect.discovery.processes.rows import Row
from agent.collect.discovery.processes.table import ProcessTable
from agent.core.workloads import Feature

_NAME_IT = "name the engine's address under engines.targets"


def process_features(table: ProcessTable) -> tuple[Feature, ...]:
    """Whether all processes are seen, and whether their sockets are."""
    unseen = _unseen(table)
    closed = sorted(row.pid for row in table.rows.values() if row.engine is not None and row.files_closed)
    ports = ""
    if closed:
        ports = (
            f"the ports of engines (processes {', '.join(map(str, closed))}) are taken from their command lines, as "
            f"their open files are closed to us: an engine at another port is not found there. Add the capability "
            f"SYS_PTRACE, or {_NAME_IT}"
        )
    return (
        Feature(name="engine_processes", enabled=not unseen, reason=unseen),
        Feature(name="engine_sockets", enabled=not closed, reason=ports),
    )


def _unseen(table: ProcessTable) -> str:
    if not table.rows:
        return f"no process is seen, so no engine is found: there is no /proc at {table.proc}"
    if table.hidden or 1 not in table.rows:
        return (
            "processes of other users are not seen, nor engines among them: /proc is mounted with hidepid. Run as "
            f"root, or in the group that its option gid names, or {_NAME_IT}"
        )
    if not table.are_the_hosts():
        return (
            "only the processes of this container are seen, and engines in others are not found by them: set "
            f"hostPID: true (in Docker --pid=host), or {_NAME_IT}"
        )
    return ""


def stranger_words(row: Row) -> str:
    """Why a process on a GPU is not asked anything."""
    return f"{row.process.name} uses a GPU and is no engine we know: it is not asked anything. If it is one, {_NAME_IT}"
