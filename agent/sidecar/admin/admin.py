"""The sidecar's own state → /metrics, /livez and /readyz on the admin address; dead letters back on request."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.clock import unix_ns
from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.samples import Sample
from agent.core.requests import Outcome
from agent.delivery.numbers import queue_samples, stream_samples
from agent.doors.numbers import door_samples
from agent.sidecar.admin.families import families
from agent.sidecar.admin.site import Change, Site, change_of, serve_site
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.balance import balance_samples
from agent.sidecar.records.histograms import Histograms
from agent.sidecar.records.lost import inflight_samples
from agent.sidecar.records.shipping import Shipping
from agent.sidecar.server import Listener
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.workers.metrics import MergedPages
from agent.sidecar.workers.orphans import Orphans
from agent.sidecar.workers.workers import NO_ENGINE

PREFIX = "engineroom_sidecar_"
REACH_SECONDS = 0.8  # a kubelet gives a probe one second unless it is told otherwise


@dataclass(slots=True)
class Parts:
    """What is reported on."""

    forwarder: Forwarder
    listener: Listener
    shipping: Shipping
    orphans: Orphans
    histograms: Histograms
    listening: Callable[[], bool]


class SidecarCollector(Collector):
    """Reads the counters that the request path keeps as plain integers, and the numbers of all other parts."""

    def __init__(self, parts: Parts, doors: Callable[[], Iterable[Sample]]) -> None:
        self._parts = parts
        self._doors = doors

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        own = families(
            [
                *_path(parts),
                *parts.histograms.samples(),
                *inflight_samples(parts.shipping.inflight),
                *parts.forwarder.tenancy.samples(""),
                *parts.forwarder.quotas.numbers(),
                *parts.listener.crowd.numbers(()),
                *balance_samples("", parts.forwarder.upstreams.balance),
                *_delivery(parts.shipping),
                *self._doors(),
                *door_samples("", "sidecar.tenancy", parts.forwarder.tenancy.errors, None),
            ]
        )
        yield from MergedPages().families([*own, *parts.orphans.families()])


def _path(parts: Parts) -> Iterable[Sample]:
    forwarder, tally, queue = parts.forwarder, parts.forwarder.tally, parts.shipping.queue
    for name, value in (
        ("requests_in_flight", len(forwarder.active) + parts.listener.grpc.active),
        ("client_connections", len(parts.listener.connections) + parts.listener.grpc.connections),
        ("upstream_idle_connections", forwarder.upstreams.idle),
        ("upstream_up", not forwarder.upstreams.error),
        ("forwarded_total", tally.forwarded),
        ("upstream_connects_total", tally.connects),
        ("upstream_retries_total", tally.retries),
        ("observation_failures_total", tally.observation_failures),
        ("events_total", queue.sequence),
    ):
        yield from gauge(PREFIX + name, float(value), ())
    outcomes = {outcome: tally.outcomes.get(outcome, 0) for outcome in get_args(Outcome)}
    yield from labelled(PREFIX + "requests_total", outcomes, "outcome", ())
    yield from labelled(PREFIX + "events_dropped_total", queue.dropped, "event", ())


def _delivery(shipping: Shipping) -> Iterable[Sample]:
    yield from queue_samples("", shipping.records.name, shipping.delivery.state())
    for state in shipping.spool.states():
        yield from stream_samples("", state, unix_ns())


async def _ready(parts: Parts) -> tuple[bool, Iterable[str]]:
    """Ready means that requests are taken, and an engine is there to answer them."""
    why = ""
    if parts.forwarder.draining:
        why = "draining"
    elif not parts.listening():
        why = "not listening"
    elif not await parts.forwarder.upstreams.any_reachable(REACH_SECONDS):
        why = NO_ENGINE
    delivery, records = parts.shipping.delivery.state(), parts.shipping.records.state()
    agent = {
        None: "not asked yet",
        True: "reachable",
        False: f"{'paused' if delivery.paused else 'not reachable'} ({delivery.reason}); records wait",
    }[delivery.ok]
    errors = (parts.forwarder.upstreams.error, parts.listener.grpc.error)
    return not why, (
        f"not ready: {why}" if why else "ready",
        f"upstream: {'; '.join(error for error in errors if error) or 'no failure seen'}",
        f"agent: {agent}",
        f"records waiting: {records.waiting + records.pending}",
        f"spool: {records.blocked or 'ok'}",
        *parts.orphans.told(),
        *(f"credentials: {error}" for error in parts.forwarder.tenancy.errors),
    )


@asynccontextmanager
async def serve_admin(settings: SidecarSettings, parts: Parts) -> AsyncIterator[int]:
    """The admin address for the length of the body; gives the real port. Raises `ConfigError`."""
    folder = parts.shipping.spool.folder

    def letters() -> Mapping[str, Change]:
        return {folder.name: change_of(parts.shipping), **parts.orphans.letters()}

    def site(doors: Callable[[], Iterable[Sample]]) -> Site:
        registry = CollectorRegistry()
        registry.register(SidecarCollector(parts, doors))
        ProcessCollector(registry=registry)
        return Site(registry, lambda: _ready(parts), letters, own=folder.name)

    async with serve_site(settings, folder, site) as port:
        yield port
