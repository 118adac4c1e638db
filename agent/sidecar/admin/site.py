"""The admin address of a sidecar or of the parent of several: doors, metrics, probes, dead letters of folders."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError
from agent.doors.audit import AuditLog
from agent.doors.numbers import door_samples
from agent.doors.settings import require_credentials
from agent.doors.tls import ServerTls
from agent.sidecar.admin.gate import CALLER, Gate, Problem, QuietAboutClients
from agent.sidecar.records.shipping import Shipping
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import parse_listen

AUDIT_FILE = "audit.jsonl"
QUIET = QuietAboutClients()
EXAMPLE = 'Send {"numbers": [1, 2]}, with "folder": "worker-0" where there are several, or {"all": true}.'

Action = Literal["replay", "discard"]
Change = Callable[[Action, Collection[int] | None], Awaitable[int]]
"""What to do with which letters of one folder (None: all) → how many it was done with. Raises `NotDone`."""


class NotDone(Exception):
    """A folder's letters could not be replayed or discarded; the text says why."""


def change_of(ship: Shipping) -> Change:
    """The letters of a spool that this process has open."""

    async def change(action: Action, numbers: Collection[int] | None) -> int:
        return await (ship.replay(numbers) if action == "replay" else ship.discard(numbers))

    return change


@dataclass(slots=True)
class Site:
    """What there is to tell and to change. `own`: the folder that numbers without a folder are of; None: none is."""

    registry: CollectorRegistry
    ready: Callable[[], Awaitable[tuple[bool, Iterable[str]]]]
    letters: Callable[[], Mapping[str, Change]]
    own: str | None
    look: Callable[[], Awaitable[None]] | None = None  # before the metrics are collected


class WhichLetters(msgspec.Struct, forbid_unknown_fields=True):
    """Body of the routes for dead letters: some by their numbers, or all. Each folder numbers its own."""

    numbers: tuple[int, ...] = ()
    all: bool = False
    folder: str | None = None


class _Routes:
    def __init__(self, site: Site, audit: AuditLog) -> None:
        self._site = site
        self._audit = audit

    async def metrics(self, _: web.Request) -> web.Response:
        if self._site.look is not None:
            await self._site.look()
        return web.Response(body=generate_latest(self._site.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        ready, lines = await self._site.ready()
        return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503)

    async def replay(self, request: web.Request) -> web.Response:
        return await self._change(request, "replay", "replayed")

    async def discard(self, request: web.Request) -> web.Response:
        return await self._change(request, "discard", "discarded")

    async def _change(self, request: web.Request, action: Action, done: str) -> web.Response:
        which = await _which(request)
        there_are = self._site.letters()
        folder = self._site.own if which.folder is None and not which.all else which.folder
        if which.numbers and folder is None:
            raise Problem(400, "Which folder?", f"Each worker numbers its own letters. {EXAMPLE}")
        chosen = {name: change for name, change in there_are.items() if folder in (None, name)}
        if not chosen:
            known = ", ".join(there_are)
            raise Problem(404, "Unknown folder", f"There is no folder {folder!r} here; there are {known}.")
        results: dict[str, int | str] = {}

        async def one(name: str, change: Change) -> None:
            try:
                results[name] = await change(action, None if which.all else which.numbers)
            except NotDone as reason:
                results[name] = str(reason)

        target = "all" if which.all else ",".join(map(str, which.numbers))
        if len(there_are) > 1 or which.folder is not None:
            target = f"{folder or 'every folder'}: {target}"
        async with (
            self._audit.performing(request[CALLER], request.remote or "", f"dlq {action}", target),
            anyio.create_task_group() as group,
        ):
            for name, change in chosen.items():
                group.start_soon(one, name, change)
        total = sum(number for number in results.values() if isinstance(number, int))
        failed = {name: reason for name, reason in results.items() if not isinstance(reason, int)}
        if failed and not total:
            told = "; ".join(f"{name}: {reason}" for name, reason in sorted(failed.items()))
            raise Problem(503, "Not possible now", told, {"Retry-After": "1"})
        return web.json_response({done: total, "folders": dict(sorted(results.items()))})


async def _which(request: web.Request) -> WhichLetters:
    if request.content_type != "application/json":
        # Also keeps web pages of other origins out: a browser sends this type only after asking, and gets no answer.
        raise Problem(415, "Wrong content type", "Send application/json.")
    try:
        which = msgspec.json.decode(await request.read(), type=WhichLetters)
    except msgspec.DecodeError as error:
        raise Problem(400, "Unreadable body", f"{error}. {EXAMPLE}") from None
    if which.all == bool(which.numbers):
        raise Problem(400, "Which letters?", f"Either numbers or all. {EXAMPLE}")
    return which


@asynccontextmanager
async def serve_site(
    settings: SidecarSettings, folder: Path, site: Callable[[Callable[[], Iterable[Sample]]], Site]
) -> AsyncIterator[int]:
    """The admin address for the length of the body; gives the real port, 0 for a unix socket.

    `folder` is for the audit log; `site` gets the numbers of the doors. Raises `ConfigError`.
    """
    place = parse_listen(settings.admin_listen)
    if place.path is None:
        require_credentials(
            "sidecar", settings.admin_listen, settings.admin_auth, settings.admin_tls, listen_key="admin_listen"
        )
    tls = ServerTls(settings.admin_tls, key="sidecar.admin_tls") if settings.admin_tls.enabled else None
    gate = Gate(settings.admin_auth, settings.admin_limits, loopback=place.is_local)
    routes = _Routes(site(lambda: door_samples("", "sidecar.admin", gate.errors, tls)), AuditLog(folder / AUDIT_FILE))
    app = web.Application(middlewares=[gate.middleware], client_max_size=gate.max_body_bytes)
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
            if place.path is not None:
                await web.UnixSite(runner, place.path).start()
            else:
                context = tls.context if tls else None
                await web.TCPSite(runner, place.host, place.port, ssl_context=context).start()
        except OSError as error:
            expected = f"cannot listen on {settings.admin_listen}: {error.strerror or error}; choose a free address"
            raise ConfigError("sidecar.admin_listen", expected) from error
        yield 0 if place.path is not None else int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
