"""Stands before every path of port 9440: who is it, may they, not too often, not too large, not too long."""

import math
from collections.abc import Sequence

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.access import CALLER, Need, admit, need_of
from agent.api.doors import Doors
from agent.api.problems import Problem, in_the_form_of
from agent.doors.identity import Denied, Identity
from agent.doors.keeper import CHALLENGES
from agent.doors.limits import source_key

log = structlog.get_logger()

CERTIFICATE_NAMES = "engineroom.certificate_names"
"""Where `agent.api.protocol` leaves the names of the client's verified certificate in the ASGI scope."""


class Gate:
    """ASGI middleware. What it lets through has its `Identity` in the scope, under `CALLER`.

    A path that does not exist is answered like one that does: 401 without credentials, 404 with any.
    """

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app = app
        self.doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither websockets nor lifespan events are served here
        try:
            need = self._enter(scope)
            receive = _bounded(scope, receive, min(need.body_bytes, self.doors.limits.max_body_bytes))
        except Problem as problem:
            await _refuse(scope, receive, send, problem)
            return
        await self._pass(scope, receive, send, need)

    def _enter(self, scope: Scope) -> Need:
        """What the path needs, once the caller was found to have it. Raises `Problem`."""
        source = source_key(scope["client"][0]) if scope.get("client") else ""
        wait = self.doors.requests.admit(source, self.doors.boot_ns())
        if wait is not None:
            raise _too_many("Too many requests came from your address.", wait)
        need = need_of(scope["path"])
        if need is not None and need.is_open:
            return need
        caller = self._identify(scope, source)
        if need is None:
            detail = f"{scope['method']} {scope['path']}: Not Found"
            raise Problem(404, "Not Found", detail, "See /docs for the paths of this agent.")
        try:
            admit(need, caller)
        except Denied as denied:
            self._complain(source, denied)
            raise Problem(403, "Not allowed", f"{denied.reason}.", "Ask whoever runs this agent.") from denied
        scope[CALLER] = caller
        return need

    def _identify(self, scope: Scope, source: str) -> Identity:
        """Who it is. Guessing is slow: after too many wrong credentials from one source, its next are not looked at."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        names: Sequence[str] = scope.get(CERTIFICATE_NAMES, ())
        doors = self.doors
        if given:
            wait = doors.failures.wait(source, doors.boot_ns())
            if wait is not None:
                raise _too_many("Too many wrong credentials came from your address.", wait)
        try:
            if len(given) > 1:
                raise Denied(401, "more than one Authorization header was sent")
            return doors.identify(given[0].decode("latin-1") if given else None, names)
        except Denied as denied:
            if given:
                doors.failures.admit(source, doors.boot_ns())
                self._complain(source, denied)
            title = "Credentials needed" if denied.status == 401 else "Not allowed"
            remedy = "Send a token as `Authorization: Bearer ...`, or as the password of HTTP basic authentication."
            raise Problem(denied.status, title, f"{denied.reason}.", remedy) from denied

    def _complain(self, source: str, denied: Denied) -> None:
        if self.doors.complaints.admit(source, self.doors.boot_ns()) is None:
            log.warning("caller_refused", source=source, status=denied.status, reason=denied.reason)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, need: Need) -> None:
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if not need.is_open and not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"cache-control", b"no-store")]
            await send(message)

        with anyio.move_on_after(self.doors.limits.request_timeout_seconds) as deadline:
            await self.app(scope, receive, send_on)
        if deadline.cancelled_caught and not started:
            limit = f"{self.doors.limits.request_timeout_seconds:g} s"
            problem = Problem(503, "Took too long", f"The answer was not ready within {limit}.", "Ask for less.")
            await _refuse(scope, receive, send, problem)


def _too_many(detail: str, wait_seconds: float) -> Problem:
    seconds = max(1, math.ceil(wait_seconds))
    return Problem(429, "Too many requests", detail, f"Ask again in {seconds} s.", {"Retry-After": str(seconds)})


def _bounded(scope: Scope, receive: Receive, most_bytes: int) -> Receive:
    """`receive`, with an end to what it gives. Raises `Problem` when the announced length is too much already."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" not in headers:
        if int(headers.get(b"content-length", b"0")) > most_bytes:
            raise _too_large(most_bytes)
        return receive  # the parser gives no more than was announced
    came = 0

    async def counted() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most_bytes:
            raise _too_large(most_bytes)
        return message

    return counted


def _too_large(most_bytes: int) -> Problem:
    return Problem(413, "Body too large", f"This path takes at most {most_bytes} bytes.", "Send less at once.")


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    response = in_the_form_of(scope["path"], problem)
    if problem.status == 401:
        # One line for each: browsers read only the first challenge of a line.
        for challenge in CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
    response.headers["Cache-Control"] = "no-store"
    await response(scope, receive, send)
