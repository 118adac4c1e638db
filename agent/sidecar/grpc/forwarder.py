"""What all gRPC connections and calls of this process share: the pool, who is active, sweeping, draining, the end."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from agent.clock import NS, BillClock
from agent.sidecar.grpc.services import GrpcServices
from agent.sidecar.grpc.status import UNAVAILABLE
from agent.sidecar.grpc.upstream import GrpcPool
from agent.sidecar.records.record import Tally

if TYPE_CHECKING:
    from agent.sidecar.grpc.call import Call
    from agent.sidecar.grpc.connection import GrpcConnection
    from agent.sidecar.grpc.link import Link

log = structlog.get_logger()


class GrpcForwarder:
    """One for a process."""

    def __init__(self, services: GrpcServices) -> None:
        self.services = services
        self.pool = GrpcPool(self)
        self.connections: set[GrpcConnection] = set()
        self.active: set[Call] = set()
        self.touched: list[Link] = []
        self.draining = False
        self.upstream_error = ""  # why the last connection failed; empty when it did not
        self.blind = False

    @property
    def clock(self) -> BillClock:
        return self.services.clock

    @property
    def tally(self) -> Tally:
        return self.services.recorder.tally

    def flush(self) -> None:
        """Send what the last step has left to be sent, on every connection."""
        touched = self.touched
        while touched:
            touched.pop().flush()

    def start(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run beside everything else."""
        group = self.services.group
        if group is None:
            raise RuntimeError("GrpcServices.group must be set before the first client comes")
        group.start_soon(task)

    def sweep(self) -> None:
        """Called every quarter of a second: deadlines, progress, connections idle for too long."""
        now_ns = self.clock.now_ns()
        for call in list(self.active):
            call.check(now_ns)
        oldest_ns = now_ns - int(self.services.times.client_idle_seconds * NS)
        for connection in list(self.connections):
            connection.close_if_idle(oldest_ns, now_ns)
        self.pool.sweep(now_ns)
        self.flush()

    def drain(self) -> None:
        """No more calls from now on; each client's connection closes after its last one."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        self.flush()

    def shut_down(self, reason: str) -> None:
        """Wait no longer: every call that is left ends with UNAVAILABLE."""
        for call in list(self.active):
            call.answer(UNAVAILABLE, reason, "error")
        self.flush()

    def cut_all(self) -> None:
        """Close every client's connection, whatever is in flight."""
        for connection in list(self.connections):
            connection.cut(abruptly=True)

    def close(self) -> None:
        """Close the connections to the engine, as the last thing."""
        self.pool.close()

    def connection_gone(self, connection: "GrpcConnection") -> None:
        """A client's connection has ended."""
        self.connections.discard(connection)
        connection.left()

    def upstream_state(self, error: str) -> None:
        """Note whether the engine could be reached; said once per change."""
        if error and not self.upstream_error:
            log.warning("grpc_upstream_unreachable", upstream=self.services.authority, reason=error)
        elif self.upstream_error and not error:
            log.info("grpc_upstream_reachable", upstream=self.services.authority)
        self.upstream_error = error

    def observation_failed(self, error: Exception) -> None:
        """Metering failed for one call, which goes on without it."""
        self.tally.observation_failures += 1
        if not self.blind:
            self.blind = True
            log.error("observation_failed", reason=f"{type(error).__name__}: {error}", exc_info=error)
