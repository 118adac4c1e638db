"""The sidecar's own state → /metrics, /livez and /readyz on the admin address."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.sidecar.forward import Forwarder
from agent.sidecar.server import Listener
from agent.sidecar.ship import EventQueue, Shipper

PREFIX = "engineroom_sidecar_"


@dataclass(slots=True)
class Parts:
    """What is reported on."""

    forwarder: Forwarder
    listener: Listener
    queue: EventQueue
    shipper: Shipper
    listening: Callable[[], bool]


class SidecarCollector(Collector):
    """Reads the counters that the request path keeps as plain integers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        parts = self._parts
        pool, tally, queue = parts.forwarder.pool, parts.forwarder.tally, parts.queue
        yield _gauge("requests_in_flight", "Requests being forwarded now.", len(parts.forwarder.active))
        yield _gauge("client_connections", "Open connections of clients.", len(parts.listener.connections))
        yield _gauge("upstream_idle_connections", "Unused open connections to the engine.", pool.idle)
        yield _gauge("upstream_up", "1 unless the last connection failed.", float(not parts.forwarder.upstream_error))
        yield _gauge("events_pending", "Record events that the agent has not accepted yet.", len(queue))
        yield _counter("forwarded", "Requests of every kind that were forwarded.", tally.forwarded)
        yield _counter("upstream_connects", "Connections made to the engine.", tally.connects)
        yield _counter("upstream_retries", "Requests sent again because a kept connection had died.", tally.retries)
        yield _counter("events_shipped", "Record events that the agent has accepted.", parts.shipper.shipped)
        yield _counter("ship_failures", "Batches that the agent did not accept.", parts.shipper.failures)
        yield _counter(
            "observation_failures", "Failures to observe a request that was forwarded.", tally.observation_failures
        )
        outcomes = CounterMetricFamily(PREFIX + "requests", "Recorded requests.", labels=["outcome"])
        for outcome in ("ok", "error", "timeout", "client_abort", "rejected"):
            outcomes.add_metric([outcome], tally.outcomes.get(outcome, 0))
        yield outcomes
        dropped = CounterMetricFamily(PREFIX + "events_dropped", "Events lost for want of room.", labels=["event"])
        for kind, count in queue.dropped.items():
            dropped.add_metric([kind], count)
        yield dropped


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def admin_app(parts: Parts) -> web.Application:
    """The admin routes. Ready means listening: an engine that is down is told, but clients shall get its 502."""
    registry = CollectorRegistry()
    registry.register(SidecarCollector(parts))
    ProcessCollector(registry=registry)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        ready = parts.listening() and not parts.forwarder.draining
        agent = {None: "not asked yet", True: "reachable", False: "not reachable; records wait"}[
            parts.shipper.reachable
        ]
        lines = (
            "ready" if ready else "not ready: " + ("draining" if parts.forwarder.draining else "not listening"),
            f"upstream: {parts.forwarder.upstream_error or 'no failure seen'}",
            f"agent: {agent}",
            f"events pending: {len(parts.queue)}",
        )
        return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return app
