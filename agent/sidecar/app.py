"""Settings → a running sidecar: listener, pulses, shipper and admin, and their orderly end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import structlog
from anyio.abc import TaskStatus

from agent.clock import BillClock
from agent.core.ports import ConfigError
from agent.lifecycle import Health, every, until_signal
from agent.settings import split_address
from agent.sidecar.admin import Parts, serve_admin
from agent.sidecar.forward import Forwarder
from agent.sidecar.record import Recorder, Tally
from agent.sidecar.server import ClientConnection, Listener
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.shipping import Shipping, shipping
from agent.sidecar.upstream import UpstreamPool

log = structlog.get_logger()

SWEEP_SECONDS = 0.25
BACKLOG = 1024
LAST_WORDS_SECONDS = 0.5  # for the answers to requests that are cut at the end


@dataclass(slots=True)
class RunningSidecar:
    """A sidecar that serves; the ports are the real ones where the settings said 0."""

    port: int
    admin_port: int
    forwarder: Forwarder
    listener: Listener
    shipping: Shipping


async def serve(settings: SidecarSettings) -> None:
    """Run until SIGTERM, SIGINT or cancellation, then let requests in flight finish and ship the rest.

    Raises `ConfigError` when an address cannot be listened on, or the spool cannot be used.
    """
    health = Health()
    async with running(settings, health):
        await until_signal(health)


@asynccontextmanager
async def running(settings: SidecarSettings, health: Health) -> AsyncIterator[RunningSidecar]:
    """The whole sidecar for the length of the body. However the body ends, the sidecar ends in order.

    Raises `ConfigError` when an address cannot be listened on, or the spool cannot be used.
    """
    stop = anyio.Event()
    try:
        async with anyio.create_task_group() as outer:
            sidecar = await outer.start(_work, settings, health, stop)
            try:
                yield sidecar
            finally:
                stop.set()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, ConfigError):
            raise error from None
        raise


async def _work(
    settings: SidecarSettings, health: Health, stop: anyio.Event, *, task_status: TaskStatus[RunningSidecar]
) -> None:
    """Everything that runs until `stop` and then ends in order; a cancellation from outside does not reach in here."""
    with anyio.CancelScope(shield=True):
        async with (
            shipping(settings) as ship,
            _open(settings, ship) as (sidecar, server),
            anyio.create_task_group() as group,
        ):
            sidecar.forwarder.group = group

            async def sweep() -> None:
                sidecar.forwarder.sweep()
                sidecar.listener.sweep()

            group.start_soon(partial(every, "sidecar_sweep", SWEEP_SECONDS, sweep, health))
            group.start_soon(ship.run, health)
            await server.start_serving()
            log.info("sidecar_listening", listen=settings.listen, upstream=settings.upstream, name=settings.shown_name)
            task_status.started(sidecar)
            await stop.wait()
            await _drain(settings, server, sidecar)
            await ship.drain(settings.ship_drain_seconds)
            if waiting := ship.records.state().waiting:
                log.info("records_left_in_spool", records=waiting, folder=str(ship.spool.folder))
            group.cancel_scope.cancel()


@asynccontextmanager
async def _open(settings: SidecarSettings, ship: Shipping) -> AsyncIterator[tuple[RunningSidecar, asyncio.Server]]:
    """Both listeners, and what stands behind them. The first one does not serve yet."""
    clock = BillClock.from_now()
    pool = UpstreamPool(settings, clock)
    forwarder = Forwarder(settings, clock, pool, Recorder(ship.queue.put, Tally()))
    listener = Listener(forwarder)
    server = await _listen(settings, listener)
    try:
        port = int(server.sockets[0].getsockname()[1])
        parts = Parts(forwarder, listener, ship, server.is_serving)
        async with serve_admin(settings, parts) as admin_port:
            yield RunningSidecar(port, admin_port, forwarder, listener, ship), server
    finally:
        server.close()


async def _drain(settings: SidecarSettings, server: asyncio.Server, sidecar: RunningSidecar) -> None:
    """Take no more clients, let the requests in flight end, cut what is left at the deadline."""
    server.close()
    sidecar.listener.drain()
    with anyio.move_on_after(settings.drain_seconds):
        await sidecar.listener.empty.wait()
    if sidecar.forwarder.active:
        log.warning("requests_cut", requests=len(sidecar.forwarder.active), after_seconds=settings.drain_seconds)
        for exchange in list(sidecar.forwarder.active):
            exchange.shut_down()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await sidecar.listener.empty.wait()
    sidecar.listener.cut_all()
    await sidecar.listener.empty.wait()
    sidecar.forwarder.pool.close()


async def _listen(settings: SidecarSettings, listener: Listener) -> asyncio.Server:
    host, port = split_address(settings.listen)
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(
            lambda: ClientConnection(listener), host, port, backlog=BACKLOG, start_serving=False
        )
    except OSError as error:
        expected = f"cannot listen on {settings.listen}: {error.strerror or error}; choose a free address"
        raise ConfigError("sidecar.listen", expected) from error
