"""Settings → a running sidecar: listener, pulses, shipper and admin, and their orderly end."""

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from agent.clock import BillClock
from agent.core.ports import ConfigError
from agent.doors.tls import ServerTls
from agent.lifecycle import Health, every, rest_from_collecting, until_signal
from agent.sidecar.admin.admin import Parts, serve_admin
from agent.sidecar.crowd.crowd import Crowd
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.checks import Checks, checks_wanted
from agent.sidecar.gateway.upstreams import Upstreams
from agent.sidecar.grpc.door import GrpcDoor
from agent.sidecar.records.histograms import Histograms
from agent.sidecar.records.record import Recorder, Tally
from agent.sidecar.records.shipping import Shipping, shipping
from agent.sidecar.server import ClientConnection, Listener
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import parse_listen
from agent.sidecar.sockets.alpn import offering
from agent.sidecar.sockets.listening import Listening, open_listening
from agent.sidecar.tenancy.tenancy import Tenancy
from agent.sidecar.workers.orphans import Orphans, orphan_folders
from agent.sidecar.workers.workers import end_with_parent, worker_settings

if TYPE_CHECKING:
    from agent.sidecar.grpc.forwarder import GrpcForwarder

log = structlog.get_logger()

SWEEP_SECONDS = 0.25
FIRST_LEASE_SECONDS = 1.0  # a sidecar that has not heard its quotas yet would let everything pass
LAST_WORDS_SECONDS = 0.5  # for the answers to requests that are cut at the end


@dataclass(slots=True)
class RunningSidecar:
    """A sidecar that serves; the ports are the real ones where the settings said 0."""

    port: int
    admin_port: int
    forwarder: Forwarder
    listener: Listener
    shipping: Shipping
    orphans: Orphans


async def serve_one_of_several(settings: SidecarSettings, index: int) -> None:
    """A worker: as `serve`, until the parent that holds its standard input says so or is gone."""
    async with anyio.create_task_group() as group:
        group.start_soon(end_with_parent)
        await serve(worker_settings(settings, index, settings.workers))
        group.cancel_scope.cancel()


async def serve(settings: SidecarSettings, listening: Listening | None = None) -> None:
    """Run until SIGTERM, SIGINT or cancellation, then let requests in flight finish and ship the rest.

    `listening`: the address for clients, where the caller has opened it already.
    Raises `ConfigError` when an address cannot be listened on, or the spool cannot be used.
    """
    health = Health()
    stop = anyio.Event()

    async def wait(*, task_status: TaskStatus[None]) -> None:
        await until_signal(health, task_status=task_status)
        stop.set()

    async with anyio.create_task_group() as group:
        await group.start(wait)  # before anybody is told that we are here: a signal then must not just kill us
        async with running(settings, health, listening):
            await stop.wait()


@asynccontextmanager
async def running(
    settings: SidecarSettings, health: Health, listening: Listening | None = None
) -> AsyncIterator[RunningSidecar]:
    """The whole sidecar for the length of the body. However the body ends, the sidecar ends in order.

    Raises `ConfigError` when an address cannot be listened on, or the spool cannot be used.
    """
    stop = anyio.Event()
    try:
        async with anyio.create_task_group() as outer:
            sidecar = await outer.start(_work, settings, health, stop, listening)
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
    settings: SidecarSettings,
    health: Health,
    stop: anyio.Event,
    opened: Listening | None,
    *,
    task_status: TaskStatus[RunningSidecar],
) -> None:
    """Everything that runs until `stop` and then ends in order; a cancellation from outside does not reach in here."""
    with anyio.CancelScope(shield=True):
        async with (
            shipping(settings) as ship,
            _open(settings, ship, opened) as (sidecar, listening),
            anyio.create_task_group() as group,
        ):
            sidecar.forwarder.group = group
            await _begin(settings, sidecar, group, health)
            with anyio.move_on_after(FIRST_LEASE_SECONDS):
                await sidecar.forwarder.quotas.heard.wait()
            await listening.start()
            engines = [pool.name for pool in sidecar.forwarder.upstreams.pools]
            log.info("sidecar_listening", listen=listening.shown, upstream=", ".join(engines), name=settings.shown_name)
            task_status.started(sidecar)
            rest_from_collecting()
            await stop.wait()
            await _drain(settings, listening, sidecar)
            await ship.drain(settings.ship_drain_seconds)
            if waiting := ship.records.state().waiting:
                log.info("records_left_in_spool", records=waiting, folder=str(ship.spool.folder))
            group.cancel_scope.cancel()


async def _begin(settings: SidecarSettings, sidecar: RunningSidecar, group: TaskGroup, health: Health) -> None:
    """Start the pulses."""
    forwarder, ship, upstreams = sidecar.forwarder, sidecar.shipping, sidecar.forwarder.upstreams

    async def sweep() -> None:
        ship.inflight.alive(forwarder.clock.now_ns())
        ship.inflight.release(ship.records.durable_through)
        forwarder.sweep()
        sidecar.listener.sweep()

    group.start_soon(partial(every, "sidecar_sweep", SWEEP_SECONDS, sweep, health))
    group.start_soon(ship.run, health)
    group.start_soon(forwarder.quotas.run, health)
    group.start_soon(sidecar.orphans.run)
    if checks_wanted(upstreams.balance):
        checks = Checks(upstreams.balance, upstreams.doors, upstreams.dialler)
        group.start_soon(partial(every, "engine_checks", settings.balance.check_interval_seconds, checks.step, health))


@asynccontextmanager
async def _open(
    settings: SidecarSettings, ship: Shipping, opened: Listening | None
) -> AsyncIterator[tuple[RunningSidecar, Listening]]:
    """Both listeners, and what stands behind them. The first one does not serve yet."""
    clock = BillClock.from_now()
    upstreams = Upstreams(settings, clock)
    histograms = Histograms()
    tally = Tally(outcomes={"lost_record": ship.lost})
    recorder = Recorder(ship.queue.put, tally, ship.inflight, histograms.observe, upstream=upstreams.name)
    forwarder = Forwarder(settings, clock, upstreams, recorder, _tenancy(settings), ship.quotas(clock.now_ns))
    tls = ServerTls(settings.tls, key="sidecar.tls") if settings.tls.enabled else None
    crowd = Crowd(settings.limits, raised_descriptors())
    listener = Listener(forwarder, crowd, GrpcDoor(lambda: _grpc(forwarder, crowd)), b"https" if tls else b"http")
    sockets = settings.sockets.model_copy(update={"reuse_port": settings.sockets.reuse_port or settings.workers > 1})
    listening = opened or open_listening(settings.listen, sockets)
    try:
        context = (
            None if tls is None else offering(tls.context, ("http/1.1", "h2"))
        )  # HTTP/2 is for gRPC, whose clients offer nothing else
        await listening.prepare(lambda: ClientConnection(listener), context)
        orphans = Orphans(settings, orphan_folders(settings, 1) if settings.workers == 1 else [])
        parts = Parts(forwarder, listener, ship, orphans, histograms, lambda: listening.is_serving)
        async with serve_admin(settings, parts) as admin_port:
            yield RunningSidecar(listening.port, admin_port, forwarder, listener, ship, orphans), listening
    finally:
        listening.close()


def _grpc(forwarder: Forwarder, crowd: Crowd) -> "GrpcForwarder":
    from agent.sidecar.grpc.parts import make_grpc

    return make_grpc(forwarder, crowd)


def _tenancy(settings: SidecarSettings) -> Tenancy:
    return Tenancy(
        settings.tenancy,
        key="sidecar.tenancy",
        loopback=parse_listen(settings.listen).is_local,
        tenant_header=settings.tenant_header,
        trust_tenant_header=settings.trust_tenant_header,
    )


def raised_descriptors() -> int:
    """Files that this process may have open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


async def _drain(settings: SidecarSettings, listening: Listening, sidecar: RunningSidecar) -> None:
    """Take no more clients, let the requests in flight end, cut what is left at the deadline."""
    listening.close()
    sidecar.listener.drain()
    with anyio.move_on_after(settings.drain_seconds):
        await sidecar.listener.empty.wait()
    if left := len(sidecar.forwarder.active) + sidecar.listener.grpc.active:
        log.warning("requests_cut", requests=left, after_seconds=settings.drain_seconds)
        for exchange in list(sidecar.forwarder.active):
            exchange.shut_down()
        sidecar.listener.grpc.shut_down(f"not finished within drain_seconds ({settings.drain_seconds:g} s)")
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await sidecar.listener.empty.wait()
    sidecar.listener.cut_all()
    await sidecar.listener.empty.wait()
    sidecar.forwarder.upstreams.close()
    sidecar.listener.grpc.close()
