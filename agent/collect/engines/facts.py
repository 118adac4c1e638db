"""A target in, what is known of its processes out: which live, since when, in which workload and group.

Of an engine that discovery found, the target says it; of one that was configured, whoever listens on its port does.
"""

from pathlib import Path

from msgspec import Struct

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.engines.alive import Processes
from agent.collect.engines.ports_of import Behind, PortOwners
from agent.collect.engines.targets import EngineTarget
from agent.core.readings import EngineRole
from agent.core.workloads import Workload
from agent.engines.contract import Recognised

LOOK_SECONDS = 10.0  # so often it is looked who listens: a scrape at each 5 s need not do it each time


class Facts(Struct, frozen=True, kw_only=True):
    """`pids` are alive. `started_at_ns`: Unix ns, of the process that answers; None: not visible."""

    pids: tuple[int, ...] = ()
    started_at_ns: int | None = None
    workload: Workload | None = None
    part: str = "server"
    group: str = ""
    nodes: int | None = None
    node_rank: int | None = None
    role: EngineRole | None = None


class EngineFacts:
    """The facts of one engine, kept while they hold."""

    def __init__(self, owners: PortOwners, proc: Path = Path("/proc")) -> None:
        self._owners = owners
        self._proc = proc
        self._behind = Behind()
        self._looked_ns = 0
        self._look_again = True
        self._processes = Processes((), proc)

    async def of(self, target: EngineTarget, *, answers: bool) -> Facts:
        """What is known now. While the engine answers, what was named lives; otherwise each process is looked for."""
        found = Behind(pids=target.pids, started_at_ns=target.started_at_ns, workload=target.workload)
        # What discovery found by its processes and gives none works for another engine: its child.
        if target.url and not target.pids and target.found_by != "process":
            if answers or not self._behind.pids:  # before its first answer: it may be loading its model
                await self._look_behind(target)
            self._look_again = not answers
            found = self._behind  # those that listened may still be there when nobody listens any more
        if found.pids != self._processes.pids:
            self._processes = Processes(found.pids, self._proc)
        pids = found.pids if answers else self._processes.alive()
        said = found.recognised or Recognised()
        return Facts(
            pids=pids,
            started_at_ns=self._started(found.started_at_ns) if pids else None,
            workload=target.workload or found.workload,
            part=target.part,
            group=target.group or said.group or "",
            nodes=target.nodes if target.nodes is not None else said.nodes,
            node_rank=target.node_rank if target.node_rank is not None else said.node_rank,
            role=target.role or said.role,
        )

    async def kind(self, target: EngineTarget) -> str:
        """The engine whose command line is behind a configured address; '' for none, or one elsewhere."""
        await self._look_behind(target)
        return self._behind.kind

    async def _look_behind(self, target: EngineTarget) -> None:
        now = boot_ns()
        if self._look_again or now - self._looked_ns >= LOOK_SECONDS * NS:
            self._behind = await self._owners.behind(target.host, target.port)
            self._looked_ns, self._look_again = now, False

    def _started(self, told: int | None) -> int | None:
        if told is not None:
            return told
        started = self._processes.started_boot_ns
        return None if started is None else started + unix_ns() - boot_ns()
