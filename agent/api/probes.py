"""Liveness, readiness and startup from the health of our own cycles; never asks NVML, an engine or any backend.

`serve_probes` answers on a port of its own through a bare asyncio protocol, without FastAPI or uvicorn; the same
answers stand on the API's port (`agent.api.probe_routes`). It asks nobody who they are, so that it has bounds on
everything they may take: connections, rate, heads, time, and answers that they do not read.
"""

import asyncio
from http import HTTPStatus
from typing import Literal, cast

import httptools
import msgspec
import structlog

from agent.clock import boot_ns
from agent.core.ports import ConfigError
from agent.doors.limits import RateLimiter, source_key
from agent.lifecycle import Health

log = structlog.get_logger()

ProbeName = Literal["livez", "readyz", "startupz"]
PATHS: dict[str, ProbeName] = {"/livez": "livez", "/readyz": "readyz", "/startupz": "startupz"}
MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 16 << 10
IDLE_SECONDS = 15.0
REQUESTS_PER_SECOND = 100.0  # of one address; a kubelet sends three in ten seconds
REQUESTS_AT_ONCE = 200

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Check(msgspec.Struct, frozen=True):
    """One line of a probe's answer."""

    name: str
    ok: bool
    reason: str = ""


def check(probe: ProbeName, health: Health) -> list[Check]:
    """The checks of a probe; it fails when one of them does."""
    essential = {name: cycle for name, cycle in health.cycles.items() if cycle.essential}
    if probe == "livez":
        stalled = health.stalled()
        return [
            Check(name, name not in stalled, f"no run has ended for {stalled[name]:.0f} s" if name in stalled else "")
            for name in essential
        ] or [Check("process", True)]
    checks = []
    for name, cycle in essential.items():
        waiting = f"has not succeeded yet{': ' + cycle.error if cycle.error else ''}"
        checks.append(Check(name, cycle.successes > 0, "" if cycle.successes else waiting))
    if not checks:
        checks.append(Check("cycles", False, "none has started yet"))
    if probe == "readyz" and health.draining:
        checks.append(Check("draining", False, "the agent is stopping"))
    return checks


def probe_answer(probe: ProbeName, health: Health, *, as_json: bool) -> tuple[int, str, bytes]:
    """(HTTP status, media type, body). Text has a line ``ok name`` or ``fail name: reason`` per check."""
    checks = check(probe, health)
    ok = all(c.ok for c in checks)
    status = 200 if ok else 503
    if as_json:
        return status, JSON, msgspec.json.encode({"status": "ok" if ok else "fail", "checks": checks})
    lines = [f"ok {c.name}" if c.ok else f"fail {c.name}: {_one_line(c.reason)}" for c in checks]
    return status, TEXT, ("\n".join(lines) + "\n").encode()


def _one_line(text: str) -> str:
    return " ".join(text.split())


async def serve_probes(
    health: Health, host: str, port: int, *, key: str = "api.probes_listen", started: asyncio.Event | None = None
) -> None:
    """Answer probes on their own port until cancelled. Raises `ConfigError` about `key` when the port cannot be had."""
    loop = asyncio.get_running_loop()
    connections: dict[_Connection, None] = {}
    rate = RateLimiter(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)
    try:
        server = await loop.create_server(lambda: _Connection(health, connections, rate), host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(key, f"cannot listen on {host}:{port} ({reason}); choose a free port") from error
    log.info("probes_listening", host=host, port=server.sockets[0].getsockname()[1])
    if started is not None:
        started.set()
    try:
        async with server:
            await server.serve_forever()
    finally:
        for connection in tuple(connections):
            connection.close()


class _Connection(asyncio.Protocol):
    """One kubelet or curl. Keeps the connection open between requests for `IDLE_SECONDS`."""

    transport: asyncio.Transport

    def __init__(self, health: Health, connections: "dict[_Connection, None]", rate: RateLimiter) -> None:
        self.health = health
        self.connections = connections  # oldest first
        self.rate = rate
        self.source = ""
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.accept = b""
        self.head_bytes = 0
        self.timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self.transport.close()

    def cut(self) -> None:
        self.connections.pop(self, None)
        self.transport.abort()

    def pause_writing(self) -> None:
        self.transport.pause_reading()  # who does not read answers may not ask for more of them

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        peer = self.transport.get_extra_info("peername")
        self.source = source_key(str(peer[0])) if peer else ""
        if len(self.connections) >= MAX_CONNECTIONS:
            # The newcomer stays: else whoever holds all of them open would make liveness fail, and with it the agent.
            next(iter(self.connections)).cut()
        self.connections[self] = None
        self._wait()

    def connection_lost(self, _error: Exception | None) -> None:
        self.connections.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._write(400, TEXT, b"upgrades are not served here\n", keep=False)
        except httptools.HttpParserError:
            self._write(400, TEXT, b"this is not an HTTP request\n", keep=False)
        if self.head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self.url, self.accept = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"accept":
            self.accept = value

    def on_message_complete(self) -> None:
        if self.transport.is_closing():
            return  # what else came in the same piece
        keep = self.parser.should_keep_alive()
        method = self.parser.get_method()
        probe = PATHS.get(self.url.partition(b"?")[0].decode("latin-1"))
        if self.rate.admit(self.source, boot_ns()) is not None:
            self._write(429, TEXT, b"too many requests\n", keep=False)
        elif probe is None:
            self._write(404, TEXT, b"paths: /livez /readyz /startupz\n", keep=keep)
        elif method not in (b"GET", b"HEAD"):
            self._write(405, TEXT, b"ask with GET\n", keep=False)
        else:
            status, kind, body = probe_answer(probe, self.health, as_json=JSON.encode() in self.accept)
            self._write(status, kind, body, keep=keep, with_body=method == b"GET")
        self.head_bytes = 0
        self._wait()

    def _write(self, status: int, kind: str, body: bytes, *, keep: bool, with_body: bool = True) -> None:
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\n"
            f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        self.transport.write(head.encode() + (body if with_body else b""))
        if not keep:
            self.transport.close()

    def _wait(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.cut)
