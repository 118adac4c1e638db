"""Stands before every path of the admin address: who is it, may they, not too often, not too large, not too long."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.clock import boot_ns
from agent.core.ports import TryLater
from agent.doors.hosts import host_allowed, own_names
from agent.doors.identity import Denied, Identity, Scope
from agent.doors.keeper import CHALLENGES, Doorkeeper
from agent.doors.limits import RateLimiter, source_key
from agent.doors.settings import AuthSettings, LimitSettings
from agent.doors.tls import certificate_names

log = structlog.get_logger()

CALLER: web.RequestKey[Identity] = web.RequestKey("caller", Identity)
MAX_BODY_BYTES = 1 << 20
MEDIA_TYPE = "application/problem+json"

NEEDS: Mapping[str, Scope | None] = {
    "/livez": None,
    "/readyz": None,
    "/metrics": "metrics",
    "/admin/v1/dlq/replay": "admin",
    "/admin/v1/dlq/discard": "admin",
}
"""Each path and the scope it asks for; None: open to everybody."""

COMPLAINTS_PER_SECOND = 1 / 60  # a refused caller is named in the log so often, whatever it sends

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """Ends a request with an answer in the form of RFC 9457."""

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        body = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        return web.Response(
            body=msgspec.json.encode(body), status=self.status, headers=self.headers, content_type=MEDIA_TYPE
        )


class QuietAboutClients(logging.Filter):
    """Drops what aiohttp logs of requests that are no HTTP: it quotes their headers, secrets too."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class Gate:
    """The middleware of one listener. Raises `ConfigError` for files of credentials that cannot be read."""

    def __init__(self, auth: AuthSettings, limits: LimitSettings, *, loopback: bool) -> None:
        self._keeper = Doorkeeper(auth, key="sidecar.admin_auth", loopback=loopback)
        self._loopback = loopback
        self._limits = limits
        self._requests = RateLimiter(limits.requests_per_second, limits.burst)
        self._failures = RateLimiter(limits.failures_per_minute / 60, limits.failures_burst)
        self._complaints = RateLimiter(COMPLAINTS_PER_SECOND, 1)
        self.max_body_bytes = min(limits.max_body_bytes, MAX_BODY_BYTES)
        self.connections: Callable[[], int] = lambda: 0

    @property
    def errors(self) -> Sequence[str]:
        """Files of credentials that cannot be used as they are now."""
        return self._keeper.errors

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every answer that is not the handler's own is a problem that tells nothing of the inside."""
        try:
            return await self._pass(request, handler)
        except Problem as problem:
            return problem.response()
        except TryLater as error:
            return Problem(503, "Not possible now", f"{error.reason}.", {"Retry-After": "1"}).response()
        except web.HTTPException as error:
            return Problem(error.status, error.reason, f"{request.method} {request.path}: {error.reason}.").response()

    async def _pass(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        source = source_key(request.remote or "")
        if self.connections() > self._limits.max_connections:
            raise Problem(503, "Too many connections", "Ask again later.", {"Connection": "close"})
        _not_yet(self._requests.admit(source, boot_ns()))
        scope = NEEDS.get(request.path)
        if scope is not None or request.path not in NEEDS:
            request[CALLER] = self._identify(request, source)
            if scope is not None and not request[CALLER].allows(scope):
                raise Problem(403, "Not allowed", f"{request[CALLER].name} lacks the scope {scope}.")
            self._not_from_elsewhere(request)
        with anyio.move_on_after(self._limits.request_timeout_seconds):
            return await handler(request)
        raise Problem(503, "Took too long", f"No answer within {self._limits.request_timeout_seconds:g} s.")

    def _not_from_elsewhere(self, request: web.Request) -> None:
        """Where being on this machine is all it takes, a browser must not be lent to a page of another name."""
        by_place = self._loopback and request[CALLER].kind == "anonymous"
        if by_place and not host_allowed(request.headers.get("host", ""), own_names()):
            raise Problem(421, "Unknown host name", "Ask by IP address, as localhost, or by this machine's own name.")

    def _identify(self, request: web.Request, source: str) -> Identity:
        names: tuple[str, ...] = ()
        if request.transport is not None:
            names = certificate_names(request.transport.get_extra_info("peercert"))
        given = request.headers.getall("authorization", [])
        authorization = given[0] if given else None
        if authorization is not None:
            _not_yet(self._failures.wait(source, boot_ns()))
        try:
            if len(given) > 1:
                raise Denied(401, "more than one Authorization header was sent")
            return self._keeper.identify(authorization, names)
        except Denied as denied:
            if self._complaints.admit(source, boot_ns()) is None:
                log.warning("caller_refused", source=source, status=denied.status, reason=denied.reason)
            if authorization is not None:
                self._failures.admit(source, boot_ns())
            challenge = {"WWW-Authenticate": ", ".join(CHALLENGES)} if denied.status == 401 else {}
            title = "Credentials needed" if denied.status == 401 else "Not allowed"
            raise Problem(denied.status, title, f"{denied.reason}.", challenge) from None


def _not_yet(wait_seconds: float | None) -> None:
    if wait_seconds is not None:
        after = str(max(1, math.ceil(wait_seconds)))
        raise Problem(429, "Too many requests", f"Ask again in {after} s.", {"Retry-After": after})
