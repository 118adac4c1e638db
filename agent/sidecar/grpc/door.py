"""Where HTTP/2 comes in: gRPC's part of the sidecar, made when the first client speaks it; most never load it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.sidecar.grpc.forwarder import GrpcForwarder

log = structlog.get_logger()

PREFACE = b"PRI * HTTP/2.0\r\n"


class GrpcDoor:
    """`make` is called once, if at all."""

    def __init__(self, make: "Callable[[], GrpcForwarder]") -> None:
        self._make = make
        self.forwarder: GrpcForwarder | None = None
        self._fault = ""  # why there is none
        self._draining = False

    @property
    def connections(self) -> int:
        """Open connections of clients."""
        return 0 if self.forwarder is None else len(self.forwarder.connections)

    @property
    def active(self) -> int:
        """Calls under way."""
        return 0 if self.forwarder is None else len(self.forwarder.active)

    @property
    def error(self) -> str:
        """Why the engine could not be reached for gRPC; empty when it could, or was not asked."""
        return self._fault if self.forwarder is None else self.forwarder.upstream_error

    def take(self, transport: asyncio.Transport, first: bytes, left: Callable[[], None]) -> None:
        """Serve this connection, which began with `first`; `left` is called when it has ended.

        Where the settings do not allow it, the connection is closed, and with the next one it is tried again.
        """
        from agent.sidecar.grpc.connection import GrpcConnection

        if self.forwarder is None:
            try:
                self.forwarder = self._make()
            except ConfigError as error:
                if self._fault != str(error):
                    self._fault = str(error)
                    log.error("grpc_not_served", setting=error.key, reason=error.expected)
                transport.close()  # whose protocol is still the one that called us, and is told
                return
        connection = GrpcConnection(self.forwarder, left)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.data_received(first)
        if self._draining:
            self.drain()

    def sweep(self) -> None:
        """Called every quarter of a second: deadlines, progress, connections idle for too long."""
        if self.forwarder is not None:
            self.forwarder.sweep()

    def drain(self) -> None:
        """No more calls from now on; each client's connection closes after its last one."""
        self._draining = True
        if self.forwarder is not None:
            self.forwarder.drain()

    def shut_down(self, reason: str) -> None:
        """Wait no longer: every call that is left ends with UNAVAILABLE."""
        if self.forwarder is not None:
            self.forwarder.shut_down(reason)

    def cut_all(self) -> None:
        """Close every client's connection, whatever is in flight."""
        if self.forwarder is not None:
            self.forwarder.cut_all()

    def close(self) -> None:
        """Close the connections to the engine, as the last thing."""
        if self.forwarder is not None:
            self.forwarder.close()
