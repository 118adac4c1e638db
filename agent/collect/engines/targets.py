"""Which engine to watch, and how: what the config says, or what discovery found."""

from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from agent.collect.engines.settings import EngineSettings
from agent.core.readings import EngineRole, FoundBy
from agent.core.workloads import Workload


class EngineTarget(Struct, frozen=True, kw_only=True):
    """One engine to watch. Without `url` nobody can be asked: it is a worker, or out of reach as `unreachable` says."""

    url: str = ""
    metrics_url: str = ""  # whole address of the metrics page, where it is not at the engine's usual place
    name: str = ""  # empty: host:port
    kind: str = "auto"  # or a key of agent.engines.registry.BY_KIND
    gpus: tuple[str, ...] = ()
    interval_seconds: float = 5.0
    timeout_seconds: float = 4.0
    token_file: Path | None = None
    found_by: FoundBy = "config"
    pids: tuple[int, ...] = ()  # its processes, where discovery found it by them; the server first
    started_at_ns: int | None = None  # Unix ns: when the first of them was started; None: looked up
    workload: Workload | None = None
    part: str = "server"  # or worker
    group: str = ""
    nodes: int | None = None
    node_rank: int | None = None
    role: EngineRole | None = None
    service: str = ""
    model: str = ""
    unreachable: str = ""  # why nobody can be asked although it is a server, and what to do
    listens: bool = True  # False: its process runs, and accepts no connections (yet)

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> "EngineTarget":
        return cls(
            url=settings.url,
            metrics_url=settings.metrics_url,
            name=settings.name or "",
            kind=settings.kind,
            gpus=settings.gpus,
            interval_seconds=settings.interval_seconds,
            timeout_seconds=settings.timeout_seconds,
            token_file=settings.token_file,
            service=settings.service,
        )

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def is_local(self) -> bool:
        """Whether its address is this machine's loopback, by its spelling."""
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    @property
    def instance(self) -> str:
        """host:port, as in Prometheus' label of this name."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def engine(self) -> str:
        """The name under which the engine is shown."""
        return self.name or self.instance
