"""Runs uvicorn as one task of ours: it listens, serves until cancelled, and stops within a deadline."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import structlog
import uvicorn

from agent.api.protocol import BoundedProtocol, Bounds
from agent.core.ports import ConfigError
from agent.doors.settings import LimitSettings
from agent.doors.tls import ServerTls

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

STOP_SECONDS = 2
BACKLOG = 512


class _Server(uvicorn.Server):
    """uvicorn without signal handlers (`agent.lifecycle` owns the signals), with our bounds and our TLS."""

    def __init__(self, config: uvicorn.Config, limits: LimitSettings, tls: ServerTls | None) -> None:
        super().__init__(config)
        self.bounds = Bounds(limits)
        self.tls = tls

    @contextmanager
    def capture_signals(self) -> "Iterator[None]":
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept. uvicorn's own would wait a minute for each TLS handshake."""

        def connection() -> BoundedProtocol:
            return BoundedProtocol(self.config, self.server_state, self.lifespan.state, bounds=self.bounds)

        loop = asyncio.get_running_loop()
        context = self.tls.context if self.tls else None
        timeout = self.bounds.limits.head_timeout_seconds if context else None
        self.servers = [
            await loop.create_server(
                connection, sock=bound, ssl=context, ssl_handshake_timeout=timeout, backlog=BACKLOG
            )
            for bound in sockets or ()
        ]
        self.started = True


def listen(host: str, port: int, key: str = "api.listen") -> socket.socket:
    """A listening TCP socket. Raises `ConfigError` about `key`, the setting to change, when the port cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            key, f"cannot listen on {host!r}: {error.strerror or error}; give an address of this host"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        taken = f"{host}:{port}: {error.strerror or error}"
        raise ConfigError(key, f"cannot listen on {taken}; stop what uses the port or choose another") from error
    return bound


async def serve(
    app: Callable[..., Any],
    host: str,
    port: int,
    *,
    key: str = "api.listen",
    bound: socket.socket | None = None,
    on_listening: Callable[[str, int], None] | None = None,
    limits: LimitSettings | None = None,
    tls: ServerTls | None = None,
) -> None:
    """Serve `app` until cancelled; then finish running requests for at most `STOP_SECONDS`.

    With `bound`, an already listening socket is used and closed. `on_listening` gets the real host and port.
    """
    bound = bound or listen(host, port, key)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        ws="none",
    )
    server = _Server(config, limits or LimitSettings(), tls)
    address = bound.getsockname()
    log.info("api_listening", host=address[0], port=address[1], tls=tls is not None)
    if on_listening is not None:
        on_listening(address[0], address[1])
    try:
        async with anyio.create_task_group() as group:
            # uvicorn must see its own stop flag rather than a cancellation: that is how it closes connections in order.
            with anyio.CancelScope(shield=True) as shield:
                group.start_soon(_stop_when_cancelled, server, shield)
                await server.serve(sockets=[bound])
            group.cancel_scope.cancel()
    finally:
        bound.close()


async def _stop_when_cancelled(server: _Server, shield: anyio.CancelScope) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        server.should_exit = True
        # A request that ignores its deadline must not hold the process.
        shield.deadline = anyio.current_time() + STOP_SECONDS + 1
