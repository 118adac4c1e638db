"""What all requests of one process share: settings, clock, engines, records, tenants, quotas, and what runs now."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from anyio.abc import TaskGroup

from agent.clock import NS, BillClock
from agent.sidecar.gateway.upstreams import Upstreams
from agent.sidecar.quota.quotas import Quotas
from agent.sidecar.records.record import Recorder, Tally
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.tenancy.tenancy import Tenancy

if TYPE_CHECKING:
    from agent.sidecar.exchange import Exchange

log = structlog.get_logger()


@dataclass(slots=True)
class Forwarder:
    """Made once; `group` is set before the first client comes."""

    settings: SidecarSettings
    clock: BillClock
    upstreams: Upstreams
    recorder: Recorder
    tenancy: Tenancy
    quotas: Quotas
    group: TaskGroup = field(init=False)
    active: "set[Exchange]" = field(default_factory=set)
    draining: bool = False
    blind: bool = False
    timeout_ns: int = field(init=False)
    first_byte_ns: int | None = field(init=False)
    asks_for_usage: bool = field(init=False)

    def __post_init__(self) -> None:
        self.timeout_ns = int(self.settings.request_timeout_seconds * NS)
        first = self.settings.first_byte_timeout_seconds
        self.first_byte_ns = None if first is None else int(first * NS)
        self.asks_for_usage = self.settings.usage.ask != "never"

    @property
    def tally(self) -> Tally:
        return self.recorder.tally

    def may_hold(self, path: str) -> bool:
        """Whether requests on this path wait here until they are whole, before an engine gets their first byte."""
        if self.quotas.decides or self.upstreams.by_model:
            return True
        return self.asks_for_usage and path.endswith("/completions")

    def sweep(self) -> None:
        """Called every quarter of a second: deadlines, progress of streams, connections unused for too long."""
        now_ns = self.clock.now_ns()
        for exchange in list(self.active):
            exchange.check(now_ns)
        self.upstreams.sweep()

    def observation_failed(self, error: Exception) -> None:
        """Metering failed for one request, which goes on without it."""
        self.tally.observation_failures += 1
        if not self.blind:
            self.blind = True
            log.error("observation_failed", reason=f"{type(error).__name__}: {error}", exc_info=error)
