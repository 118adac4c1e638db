"""Keeps other web sites out: only host names that are ours are answered; browsers are told to load nothing else.

A page on the web can make a browser ask ``http://evil.example:9440`` after pointing that name at 127.0.0.1 (DNS
rebinding). Its Host header gives it away.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.problems import Problem
from agent.doors.hosts import host_allowed

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# It holds for every port of the host, also for those that speak plain HTTP: so it lasts a day, not a year.
_SECURE_HEADERS = [*_HEADERS, (b"strict-transport-security", b"max-age=86400")]


class OwnHostOnly:
    """ASGI middleware: refuses foreign Host headers with 421, adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        added = _SECURE_HEADERS if scope["scheme"] == "https" else _HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if host_allowed(host, self.names):
            await self.app(scope, receive, send_with_headers)
            return
        problem = Problem(
            421,
            "Unknown host name",
            f"This agent does not answer for the host name {host!r}.",
            "Ask by IP address or as localhost, or add the name to api.allowed_hosts in engineroom.yaml.",
        )
        await problem.response()(scope, receive, send_with_headers)
