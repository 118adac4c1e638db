"""The sidecar's own state → /metrics, /livez and /readyz on the admin address; dead letters back on request."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.clock import unix_ns
from agent.core.catalogue import BY_NAME
from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError
from agent.delivery.numbers import queue_samples, stream_samples
from agent.doors.audit import AuditLog
from agent.doors.numbers import door_samples
from agent.doors.settings import is_loopback, require_credentials
from agent.doors.tls import ServerTls
from agent.settings import split_address
from agent.sidecar.forward import Forwarder
from agent.sidecar.gate import CALLER, Gate, Problem, QuietAboutClients
from agent.sidecar.server import Listener
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.shipping import Shipping

PREFIX = "engineroom_sidecar_"
AUDIT_FILE = "audit.jsonl"
QUIET = QuietAboutClients()


@dataclass(slots=True)
class Parts:
    """What is reported on."""

    forwarder: Forwarder
    listener: Listener
    shipping: Shipping
    listening: Callable[[], bool]


class SidecarCollector(Collector):
    """Reads the counters that the request path keeps as plain integers, and the numbers of spool and delivery."""

    def __init__(self, parts: Parts, doors: Callable[[], Iterable[Sample]]) -> None:
        self._parts = parts
        self._doors = doors

    def collect(self) -> Iterable[Metric]:
        parts = self._parts
        pool, tally, queue = parts.forwarder.pool, parts.forwarder.tally, parts.shipping.queue
        yield _gauge("requests_in_flight", "Requests being forwarded now.", len(parts.forwarder.active))
        yield _gauge("client_connections", "Open connections of clients.", len(parts.listener.connections))
        yield _gauge("upstream_idle_connections", "Unused open connections to the engine.", pool.idle)
        yield _gauge("upstream_up", "1 unless the last connection failed.", float(not parts.forwarder.upstream_error))
        yield _counter("forwarded", "Requests of every kind that were forwarded.", tally.forwarded)
        yield _counter("upstream_connects", "Connections made to the engine.", tally.connects)
        yield _counter("upstream_retries", "Requests sent again because a kept connection had died.", tally.retries)
        yield _counter(
            "observation_failures", "Failures to observe a request that was forwarded.", tally.observation_failures
        )
        outcomes = CounterMetricFamily(PREFIX + "requests", "Recorded requests.", labels=["outcome"])
        for outcome in ("ok", "error", "timeout", "client_abort", "rejected"):
            outcomes.add_metric([outcome], tally.outcomes.get(outcome, 0))
        yield outcomes
        yield _counter("events", "Record events that were made.", queue.sequence)
        dropped = CounterMetricFamily(PREFIX + "events_dropped", "Events lost for want of room.", labels=["event"])
        for kind, count in queue.dropped.items():
            dropped.add_metric([kind], count)
        yield dropped
        yield from _families([*_delivery(parts.shipping), *self._doors()])


def _delivery(shipping: Shipping) -> Iterable[Sample]:
    yield from queue_samples("", shipping.records.name, shipping.delivery.state())
    for state in shipping.spool.states():
        yield from stream_samples("", state, unix_ns())


def _families(samples: Iterable[Sample]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for key, value in samples:
        described = BY_NAME[key.name]
        name = key.name.removesuffix("_total") if described.type == "counter" else key.name
        family = families.setdefault(name, Metric(name, described.help, described.type))
        family.add_sample(key.name, dict(key.labels), value)
    return families.values()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


class WhichLetters(msgspec.Struct, forbid_unknown_fields=True):
    """Body of the admin routes: some letters by their numbers, or all of them."""

    numbers: tuple[int, ...] = ()
    all: bool = False


class _Routes:
    def __init__(self, parts: Parts, audit: AuditLog, doors: Callable[[], Iterable[Sample]]) -> None:
        self._parts = parts
        self._audit = audit
        self._registry = CollectorRegistry()
        self._registry.register(SidecarCollector(parts, doors))
        ProcessCollector(registry=self._registry)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Ready means listening: an engine that is down is told, but clients shall get its 502."""
        parts = self._parts
        ready = parts.listening() and not parts.forwarder.draining
        delivery, records = parts.shipping.delivery.state(), parts.shipping.records.state()
        agent = {
            None: "not asked yet",
            True: "reachable",
            False: f"{'paused' if delivery.paused else 'not reachable'} ({delivery.reason}); records wait",
        }[delivery.ok]
        lines = (
            "ready" if ready else "not ready: " + ("draining" if parts.forwarder.draining else "not listening"),
            f"upstream: {parts.forwarder.upstream_error or 'no failure seen'}",
            f"agent: {agent}",
            f"records waiting: {records.waiting + records.pending}",
            f"spool: {records.blocked or 'ok'}",
        )
        return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503)

    async def replay(self, request: web.Request) -> web.Response:
        which = await _which(request)
        target = "all" if which.all else ",".join(map(str, which.numbers))
        async with self._audit.performing(request[CALLER], request.remote or "", "dlq replay", target):
            done = await self._parts.shipping.replay(None if which.all else which.numbers)
        return web.json_response({"replayed": done})

    async def discard(self, request: web.Request) -> web.Response:
        which = await _which(request)
        target = "all" if which.all else ",".join(map(str, which.numbers))
        async with self._audit.performing(request[CALLER], request.remote or "", "dlq discard", target):
            done = await self._parts.shipping.discard(None if which.all else which.numbers)
        return web.json_response({"discarded": done})


async def _which(request: web.Request) -> WhichLetters:
    if request.content_type != "application/json":
        # Also keeps web pages of other origins out: a browser sends this type only after asking, and gets no answer.
        raise Problem(415, "Wrong content type", "Send application/json.")
    try:
        which = msgspec.json.decode(await request.read(), type=WhichLetters)
    except msgspec.DecodeError as error:
        raise Problem(400, "Unreadable body", f'{error}. Send {{"numbers": [1, 2]}} or {{"all": true}}.') from None
    if which.all == bool(which.numbers):
        raise Problem(400, "Which letters?", 'Send either {"numbers": [1, 2]} or {"all": true}.')
    return which


@asynccontextmanager
async def serve_admin(settings: SidecarSettings, parts: Parts) -> AsyncIterator[int]:
    """The admin address for the length of the body; gives the real port. Raises `ConfigError`."""
    require_credentials(
        "sidecar", settings.admin_listen, settings.admin_auth, settings.admin_tls, listen_key="admin_listen"
    )
    host, port = split_address(settings.admin_listen)
    tls = ServerTls(settings.admin_tls, key="sidecar.admin_tls") if settings.admin_tls.enabled else None
    gate = Gate(settings.admin_auth, settings.admin_limits, loopback=is_loopback(settings.admin_listen))
    app = web.Application(middlewares=[gate.middleware], client_max_size=gate.max_body_bytes)
    audit = AuditLog(parts.shipping.spool.folder / AUDIT_FILE)
    routes = _Routes(parts, audit, lambda: door_samples("", "sidecar.admin", gate.errors, tls))
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/livez", routes.livez)
    app.router.add_get("/readyz", routes.readyz)
    app.router.add_post("/admin/v1/dlq/replay", routes.replay)
    app.router.add_post("/admin/v1/dlq/discard", routes.discard)
    # The time for a head and for the next request on a connection is one setting of aiohttp's.
    patience = settings.admin_limits.head_timeout_seconds
    logger = logging.getLogger("engineroom.sidecar.admin")
    logger.addFilter(QUIET)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=patience, logger=logger)
    await runner.setup()
    try:
        gate.connections = lambda: len(runner.server.connections) if runner.server else 0
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls.context if tls else None).start()
        except OSError as error:
            expected = f"cannot listen on {settings.admin_listen}: {error.strerror or error}; choose a free address"
            raise ConfigError("sidecar.admin_listen", expected) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
