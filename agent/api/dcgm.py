"""The port that stands in for dcgm-exporter: ``/metrics`` for whom its doors let in, ``/health`` for everybody.

What is on the page is written elsewhere (exporters/dcgm.py); here it is only served. ``/health`` says 503 while there
is no fresh reading of any GPU: it is about the data, not about the process, so it must not restart the agent.
"""

from collections.abc import Callable

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.api.dcgm_settings import DcgmSettings
from agent.api.doors import Doors
from agent.api.gate import Gate
from agent.api.problems import Problem
from agent.api.scrape import TEXT
from agent.api.security import OwnHostOnly
from agent.doors.keeper import Doorkeeper
from agent.doors.limits import RateLimiter, source_key
from agent.doors.settings import is_loopback

KEY = "exporters.dcgm"
_NO_STORE = {"Cache-Control": "no-store"}
_WORTH_COMPRESSING_BYTES = 1400
_GZIP_LEVEL = 4


def dcgm_doors(settings: DcgmSettings) -> Doors:
    """The doors of `exporters.dcgm.listen`. Raises `ConfigError` for files of credentials that cannot be read."""
    limits = settings.limits
    keeper = Doorkeeper(settings.auth, key=f"{KEY}.auth", loopback=is_loopback(settings.listen))
    return Doors(
        identify=keeper.identify,
        limits=limits,
        requests=RateLimiter(limits.requests_per_second, limits.burst),
        failures=RateLimiter(limits.failures_per_minute / 60, limits.failures_burst),
        errors=lambda: keeper.errors,
    )


def build_dcgm(
    render: Callable[[], bytes], health: Callable[[], tuple[bool, str]], doors: Doors, hosts: frozenset[str]
) -> ASGIApp:
    """The application for port 9400. `hosts`: names, besides IP addresses, under which it may be asked for."""
    page = GZipMiddleware(_page(render), minimum_size=_WORTH_COMPRESSING_BYTES, compresslevel=_GZIP_LEVEL)
    return OwnHostOnly(_before(health, doors, Gate(page, doors)), hosts)


def _page(render: Callable[[], bytes]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        if scope["path"] != "/metrics":
            response = Problem(
                404, "Not Found", f"{scope['path']}: Not Found", "Here are /metrics and /health."
            ).response()
        elif scope["method"] not in ("GET", "HEAD"):
            response = _ask_with_get()
        else:
            response = Response(render(), headers=_NO_STORE, media_type=TEXT)
        await response(scope, receive, send)

    return answer


def _before(health: Callable[[], tuple[bool, str]], doors: Doors, gate: ASGIApp) -> ASGIApp:
    """``/health`` asks nobody who they are; everything else goes to the gate."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/health":
            await gate(scope, receive, send)
            return
        source = source_key(scope["client"][0]) if scope.get("client") else ""
        if doors.requests.admit(source, doors.boot_ns()) is not None:
            response: Response = PlainTextResponse("too many requests\n", 429, _NO_STORE)
        elif scope["method"] not in ("GET", "HEAD"):
            response = _ask_with_get()
        else:
            good, lines = health()
            response = PlainTextResponse(lines, 200 if good else 503, _NO_STORE)
        await response(scope, receive, send)

    return answer


def _ask_with_get() -> Response:
    return Problem(
        405, "Method Not Allowed", "This path is read only.", "Ask with GET.", {"Allow": "GET, HEAD"}
    ).response()
