"""Settings → a running sidecar: listener, pulses, shipper and admin, and their orderly end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import structlog
from aiohttp import web
from anyio.abc import TaskStatus

from agent.clock import BillClock, unix_ns
from agent.core.ports import ConfigError
from agent.lifecycle import Health, every, until_signal
from agent.settings import split_address
from agent.sidecar.admin import Parts, admin_app
from agent.sidecar.forward import Forwarder
from agent.sidecar.record import Recorder, Tally
from agent.sidecar.server import ClientConnection, Listener
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.ship import EventQueue, Shipper
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
    queue: EventQueue
    shipper: Shipper


async def serve(settings: SidecarSettings) -> None:
    """Run until SIGTERM, SIGINT or cancellation, then let requests in flight finish and ship the rest.

    Raises `ConfigError` when an address cannot be listened on.
    """
    health = Health()
    async with running(settings, health):
        await until_signal(health)


@asynccontextmanager
async def running(settings: SidecarSettings, health: Health) -> AsyncIterator[RunningSidecar]:
    """The whole sidecar for the length of the body. However the body ends, the sidecar ends in order.

    Raises `ConfigError` when an address cannot be listened on.
    """
    clock = BillClock.from_now()
    queue = EventQueue(settings.max_pending_events)
    shipper = Shipper(queue, settings, epoch=unix_ns())
    pool = UpstreamPool(settings, clock)
    forwarder = Forwarder(settings, clock, pool, Recorder(queue.put, pool.authority, Tally()))
    listener = Listener(forwarder)
    server = await _listen(settings, listener)
    parts = Parts(forwarder, listener, queue, shipper, server.is_serving)
    try:
        runner, admin_port = await _start_admin(settings, parts)
    except ConfigError:
        server.close()
        raise
    port = int(server.sockets[0].getsockname()[1])
    sidecar = RunningSidecar(port, admin_port, forwarder, listener, queue, shipper)
    stop = anyio.Event()
    try:
        async with anyio.create_task_group() as outer:
            await outer.start(_work, settings, health, sidecar, server, stop)
            try:
                yield sidecar
            finally:
                stop.set()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


async def _work(
    settings: SidecarSettings,
    health: Health,
    sidecar: RunningSidecar,
    server: asyncio.Server,
    stop: anyio.Event,
    *,
    task_status: TaskStatus[None],
) -> None:
    """Everything that runs until `stop` and then ends in order; a cancellation from outside does not reach in here."""

    async def sweep() -> None:
        sidecar.forwarder.sweep()
        sidecar.listener.sweep()

    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as group:
            sidecar.forwarder.group = group
            group.start_soon(partial(every, "sidecar_sweep", SWEEP_SECONDS, sweep, health))
            shipped = anyio.Event()
            group.start_soon(_ship, sidecar.shipper, shipped)
            await server.start_serving()
            log.info("sidecar_listening", listen=settings.listen, upstream=settings.upstream, name=settings.shown_name)
            task_status.started()
            await stop.wait()
            await _drain(settings, server, sidecar)
            sidecar.shipper.drain()
            with anyio.move_on_after(settings.ship_drain_seconds):
                await shipped.wait()
            if sidecar.queue:
                log.error("record_events_lost", events=len(sidecar.queue), reason="the agent did not take them in time")
            group.cancel_scope.cancel()


async def _ship(shipper: Shipper, shipped: anyio.Event) -> None:
    await shipper.run()
    shipped.set()


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


async def _start_admin(settings: SidecarSettings, parts: Parts) -> tuple[web.AppRunner, int]:
    host, port = split_address(settings.admin_listen)
    runner = web.AppRunner(admin_app(parts), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        expected = f"cannot listen on {settings.admin_listen}: {error.strerror or error}; choose a free address"
        raise ConfigError("sidecar.admin_listen", expected) from error
    return runner, int(runner.addresses[0][1])
