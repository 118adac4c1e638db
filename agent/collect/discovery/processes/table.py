"""/proc in, every process of this machine out, with the engines among them recognised.

One table serves discovery and `PortOwners`. A look costs one listing of /proc; a process is read when it is new, and
again while it is young, when it belongs to an engine, and now and then: servers set titles and launchers call exec.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from agent.clock import NS, boot_ns
from agent.collect.discovery.processes.networks import Networks
from agent.collect.discovery.processes.rows import Environment, Row, find_sockets, read_process, read_stat
from agent.collect.workloads.proc import Processes
from agent.core.attribution.users import SeenProcess
from agent.engines.contract import EngineFile
from agent.engines.registry import ENGINES

_T = TypeVar("_T")

YOUNG_SECONDS = 300.0
_LOOKS_BETWEEN = 20  # looks until an old process that is no engine's is read again
_KERNEL_THREADS = "kthreadd"


class ProcessTable:
    """The processes in `proc`. `ask` is for tasks; all else blocks, and is for the functions that `ask` is given."""

    def __init__(self, proc: Path = Path("/proc"), engines: Sequence[EngineFile] = ENGINES) -> None:
        self.proc = proc
        self.rows: dict[int, Row] = {}
        self.children: dict[int, list[int]] = {}
        self.networks = Networks(proc)
        self.hidden = 0  # processes whose folder is listed but closed to us
        self.engines = engines
        self._details = Processes(proc)
        self._lock = anyio.Lock()
        self._looked_at_ns: int | None = None
        self._looks = 0
        self._strangers: set[tuple[str, tuple[str, ...]]] = set()  # command lines of no engine, in this look
        self._ticks = os.sysconf("SC_CLK_TCK")

    async def ask(self, question: Callable[["ProcessTable"], _T], max_age_seconds: float = 0.0) -> _T:
        """`question(self)` on a thread, with a table that is at most so old. One question at a time."""
        async with self._lock:
            return await anyio.to_thread.run_sync(self._answer, question, max_age_seconds)

    def _answer(self, question: Callable[["ProcessTable"], _T], max_age_seconds: float) -> _T:
        now = boot_ns()
        if self._looked_at_ns is None or now - self._looked_at_ns >= max_age_seconds * NS:
            self.look()
            self._looked_at_ns = now
        return question(self)

    def look(self) -> None:
        """One pass through /proc."""
        self._looks += 1
        self.hidden = 0
        self.networks = Networks(self.proc)
        self._strangers = set()
        young = (boot_ns() / NS - YOUNG_SECONDS) * self._ticks
        before, self.rows = self.rows, {}
        for pid, inode in self._listed():
            known = before.get(pid)
            if known is not None and known.inode == inode and not self._may_have_changed(known, young):
                self.rows[pid] = known
            else:
                self._read(pid, inode, known)
        self._refresh_parents()
        self.children = {}
        for row in self.rows.values():
            self.children.setdefault(row.parent, []).append(row.pid)

    def with_descendants(self, pids: Iterable[int]) -> tuple[int, ...]:
        """The processes and all that descend from them, ascending."""
        found = {pid for pid in pids if pid in self.rows}
        left = list(found)
        while left:
            new = [child for child in self.children.get(left.pop(), ()) if child not in found]
            found.update(new)
            left += new
        return tuple(sorted(found))

    def ancestors(self, pid: int) -> list[Row]:
        """The rows above a process, nearest first."""
        found: list[Row] = []
        row = self.rows.get(pid)
        while row is not None and (row := self.rows.get(row.parent)) is not None and row not in found:
            found.append(row)
        return found

    def holders(self, inodes: set[int], pids: Iterable[int]) -> dict[int, set[int]]:
        """Socket inode -> those of the processes that hold it open (several after a fork)."""
        found: dict[int, set[int]] = {}
        for pid in pids:
            row = self.rows.get(pid)
            for inode in find_sockets(self.proc, row, inodes) if row is not None else ():
                found.setdefault(inode, set()).add(pid)
        return found

    def details(self, pids: Iterable[int]) -> dict[int, SeenProcess]:
        """Start and place of processes. A start stays what it was first found to be, whatever clocks do."""
        found = self._details.look(pids)
        for pid, seen in found.items():
            row = self.rows.get(pid)
            if row is not None and seen.started_at_ns is not None:
                row.started_at_ns = row.started_at_ns or seen.started_at_ns
                found[pid] = replace(seen, started_at_ns=row.started_at_ns)
        return found

    def are_the_hosts(self) -> bool:
        """Whether these are all processes of the machine, not of a container alone."""
        return self._details.are_the_hosts()

    def _listed(self) -> list[tuple[int, int]]:
        try:
            with os.scandir(self.proc) as entries:
                return [(int(entry.name), entry.inode()) for entry in entries if entry.name.isdecimal()]
        except OSError:
            return []

    def _may_have_changed(self, row: Row, young_ticks: float) -> bool:
        return row.engine is not None or row.start_ticks > young_ticks or (self._looks + row.pid) % _LOOKS_BETWEEN == 0

    def _read(self, pid: int, inode: int, known: Row | None) -> None:
        stat = read_stat(self.proc, pid)
        if stat is None:
            folder = f"{self.proc}/{pid}"
            self.hidden += os.access(folder, os.F_OK) and not os.access(f"{folder}/stat", os.R_OK)
            return
        thread = self._is_kernel_thread(pid, stat.parent, stat.name)
        same = known if known is not None and known.start_ticks == stat.start_ticks else None
        if thread and same is not None:
            self.rows[pid] = same
            return
        process = read_process(self.proc, pid, stat.name)
        row = same or Row(pid=pid, inode=inode, parent=stat.parent, start_ticks=stat.start_ticks, process=process)
        changed = same is None or (same.process.name, same.process.argv) != (process.name, process.argv)
        row.inode, row.parent = inode, stat.parent
        if changed:
            row.process = process
            row.engine = row.recognised = None
            row.files_closed = False
            if not thread:
                self._recognise(row)
        self.rows[pid] = row

    def _recognise(self, row: Row) -> None:
        process = row.process
        line = (process.name, process.argv)
        if line in self._strangers:
            return
        for engine in self.engines:
            recognised = engine.recognise(process)
            if recognised is not None:
                row.engine, row.recognised = engine, recognised
                return
        if isinstance(process.environ, Environment) and not process.environ.was_read:
            self._strangers.add(line)  # nothing but the command line told so: hundreds of workers may have the same

    def _is_kernel_thread(self, pid: int, parent: int, name: str) -> bool:
        if pid == 2:
            return name == _KERNEL_THREADS
        above = self.rows.get(2) if parent == 2 else None
        return above is not None and above.process.name == _KERNEL_THREADS

    def _refresh_parents(self) -> None:
        """A process whose parent ended has another one now; a later process of that number is not its parent."""
        for row in self.rows.values():
            parent = self.rows.get(row.parent)
            if row.parent > 0 and (parent is None or parent.start_ticks > row.start_ticks):
                stat = read_stat(self.proc, row.pid)
                if stat is not None:
                    row.parent = stat.parent
