"""A discovery that keeps what it says."""

from agent.collect.discovery.discovery import Discovery
from agent.collect.discovery.kubernetes.client import PodList
from agent.collect.discovery.processes.table import ProcessTable
from agent.collect.engines.targets import EngineTarget


class DiscoveryWatch:
    """Keeps what a discovery says. `calls`: names as they were called, `-` before those that are gone."""

    def __init__(self, table: ProcessTable | None = None, pods: PodList | None = None, **options: float) -> None:
        self.targets: dict[str, EngineTarget] = {}
        self.calls: list[str] = []
        self.taken: list[str] = []
        self.on_gpus: list[int] = []
        self.discovery = Discovery(
            table=table or ProcessTable(),
            pods=pods,
            on_found=self._found,
            on_gone=self._gone,
            taken=lambda: self.taken,
            gpu_pids=lambda: self.on_gpus,
            skip_ports=(9440,),
            **options,
        )

    def _found(self, target: EngineTarget) -> None:
        self.calls.append(target.engine)
        self.targets[target.engine] = target

    def _gone(self, name: str) -> None:
        self.calls.append(f"-{name}")
        del self.targets[name]

    def of(self, pid: int) -> EngineTarget:
        (found,) = [one for one in self.targets.values() if one.pids[:1] == (pid,)]
        return found
