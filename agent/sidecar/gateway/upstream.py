"""Connections to the engine: response bytes → the exchange that waits for them; unused ones are kept for a while."""

import asyncio
from typing import TYPE_CHECKING, cast

import anyio
import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from agent.clock import NS, BillClock
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import Address
from agent.sidecar.sockets.dialling import Dialler
from agent.sidecar.wire import MAX_HEAD_BYTES, ResponseHead

if TYPE_CHECKING:
    from agent.sidecar.exchange import Exchange

log = structlog.get_logger()

HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024


class UpstreamConnection(asyncio.Protocol):
    """One connection to the engine, at most one exchange at a time.

    The parser only says where the body and the message end; what the client gets are the engine's own bytes.
    """

    def __init__(self, pool: "UpstreamPool") -> None:
        self.pool = pool
        self.exchange: Exchange | None = None
        self.idle_since_ns = 0
        self.used = False
        self.tunnel = False
        self.closed = False
        self._reading = True
        self._last_head: ResponseHead | None = None  # engines say the same head again and again
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # called by the parser
        self._parser = HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._raw = b""
        self._offset = 0  # end of the last head in _raw
        self._head: ResponseHead | None = None
        self._in_head = True
        self._done = False
        self._overrun = False
        self._keep = False
        self._to_head_request = False
        self._quiet_bytes = 0  # since the last byte of a body: framing, trailers

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.pool.forget(self)
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.upstream_lost(str(exc) if exc else "the engine closed the connection")

    def eof_received(self) -> bool:
        exchange = self.exchange
        if exchange is None:
            return False
        if exchange.tunnel is not None:
            exchange.tunnel.engine_ended()
            return True
        if self._head is not None and self._head.until_close and not self._in_head:
            self._finish(exchange, self.pool.clock.now_ns(), keep=False)
        return False

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.client.hold_engine(True)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.client.hold_engine(False)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes that nobody asked for: this connection cannot be trusted any more
            self.close()
            return
        if self.tunnel:
            exchange.client.write(data)
            return
        now_ns = self.pool.clock.now_ns()
        in_head = self._in_head
        if in_head:
            self._raw = self._raw + data if self._raw else data
            exchange.first_byte()
        tail: bytes | None = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            tail = data[upgrade.args[0] :]
        except HttpParserError as error:
            exchange.upstream_broken(f"the engine's answer is not HTTP/1.1: {error}")
            return
        if self._overrun or (self._to_head_request and self._parts):
            exchange.upstream_broken("the engine sent more than one answer to one request")
            return
        if not in_head:
            exchange.response_bytes(data, self._parts)
        elif not self._answer_head(exchange, tail, now_ns):
            return
        if self._parts:
            self._quiet_bytes = 0
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            exchange.response_body(body, now_ns)
        elif not self._done:
            self._quiet_bytes += len(data)
            if self._quiet_bytes > MAX_HEAD_BYTES:
                exchange.upstream_broken(f"more than {MAX_HEAD_BYTES} bytes of framing without a body's byte")
                return
        if self._done:
            self._finish(exchange, now_ns, keep=self._keep)

    def _answer_head(self, exchange: "Exchange", tail: bytes | None, now_ns: int) -> bool:
        """Pass on the head that has just become whole; False when there is nothing more to do for now."""
        head = self._head
        if head is None:
            if len(self._raw) - self._offset > MAX_HEAD_BYTES:
                exchange.upstream_broken(f"the head of the engine's answer is longer than {MAX_HEAD_BYTES} bytes")
            return False
        self._in_head = False
        if tail is not None:
            self.tunnel = True
            self._raw = b""
            exchange.open_tunnel(head, tail)
            return False
        if head.fault:
            exchange.upstream_broken(f"the engine's answer is ambiguous: {head.fault}")
            return False
        rest = self._raw[self._offset :]
        self._raw = b""
        exchange.response_head(head, rest, self._parts, now_ns)
        return True

    # the parser's side

    def on_message_begin(self) -> None:
        if self._done:
            self._overrun = True

    def on_headers_complete(self) -> None:
        if self._done:
            return
        status = self._parser.get_status_code()
        start = self._offset
        self._offset = self._raw.index(b"\r\n\r\n", start) + 4
        raw = self._raw[start : self._offset]
        if status < 200 and status != 101:
            if self.exchange is not None:
                self.exchange.interim_response(raw)
            return
        last = self._last_head
        if last is None or last.raw != raw or self._to_head_request:
            last = ResponseHead.read(raw, status, to_head_request=self._to_head_request)
            self._last_head = None if self._to_head_request else last
        self._head = last
        self._keep = self._parser.should_keep_alive() and not self._head.until_close
        if self._to_head_request:
            self._done = True

    def on_message_complete(self) -> None:
        if self._head is not None:
            self._done = True

    # the exchange's side

    def start(self, exchange: "Exchange") -> None:
        """Serve this exchange from now on."""
        self.exchange = exchange
        self._to_head_request = exchange.is_head
        if exchange.client.write_paused:
            self.hold_reading(True)

    def hold_reading(self, hold: bool) -> None:
        """Stop or go on reading from the engine."""
        if hold == self._reading and not self.closed:
            self._reading = not hold
            (self.transport.pause_reading if hold else self.transport.resume_reading)()

    def close(self) -> None:
        """Close at once, whatever is in flight."""
        self.exchange = None
        self.closed = True
        self.pool.forget(self)
        self.transport.abort()

    def _finish(self, exchange: "Exchange", now_ns: int, *, keep: bool) -> None:
        keep = keep and exchange.request_complete and not self.transport.is_closing()
        if self._to_head_request:
            self._parser = HttpResponseParser(self)  # it still waits for a body that a HEAD request does not get
        self._reset()
        self.exchange = None
        self.used = True
        if not self._reading:
            self.hold_reading(False)
        if keep:
            self.pool.give(self, now_ns)
        else:
            self.close()
        exchange.response_complete(now_ns)


class UpstreamPool:
    """Open connections to one engine, the freshest unused one first."""

    def __init__(
        self, address: Address, dialler: Dialler, settings: SidecarSettings, clock: BillClock, host: bytes | None = None
    ) -> None:
        self.clock = clock
        self.address = address
        self.name = address.name  # of the engine in records
        self.authority = address.authority.encode()
        self.host = host  # what the engine gets in place of the client's Host; None: the client's
        self.error = ""  # why the last connection could not be made; empty when it could
        self._dialler = dialler
        self._idle: list[UpstreamConnection] = []
        self._most = settings.upstream_idle_connections
        self._idle_ns = int(settings.upstream_idle_seconds * NS)
        self.closing = False

    @property
    def idle(self) -> int:
        """Number of unused open connections."""
        return len(self._idle)

    def take(self, now_ns: int) -> UpstreamConnection | None:
        """An unused connection, or None when a new one is needed."""
        oldest_ns = now_ns - self._idle_ns
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_ns > oldest_ns and not connection.transport.is_closing():
                return connection
            connection.close()
        return None

    def give(self, connection: UpstreamConnection, now_ns: int) -> None:
        """Keep a connection for the next exchange."""
        if self.closing or len(self._idle) >= self._most:
            connection.close()
            return
        connection.idle_since_ns = now_ns
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises OSError, and TimeoutError after `dial.connect_timeout_seconds`."""
        loop = asyncio.get_running_loop()
        _, connection = await self._dialler.connect(loop, self.address, lambda: UpstreamConnection(self))
        return connection

    async def is_reachable(self, seconds: float) -> bool:
        """Whether the engine takes connections now. An unused open one says so; else one is made, and kept."""
        if self._idle:
            return True
        try:
            with anyio.fail_after(seconds):
                connection = await self.connect()
        except TimeoutError:
            self.reached(f"no connection to {self.name} within {seconds:g} s")
            return False
        except OSError as error:
            self.reached(f"no connection to {self.name}: {error.strerror or error}")
            return False
        self.reached("")
        self.give(connection, self.clock.now_ns())
        return True

    def reached(self, error: str) -> None:
        """Note whether the engine could be reached; said once per change."""
        if error and not self.error:
            log.warning("upstream_unreachable", upstream=self.name, reason=error)
        elif self.error and not error:
            log.info("upstream_reachable", upstream=self.name)
        self.error = error

    def sweep(self) -> None:
        """Close what has been unused for too long."""
        oldest_ns = self.clock.now_ns() - self._idle_ns
        for connection in [c for c in self._idle if c.idle_since_ns <= oldest_ns]:
            connection.close()

    def close(self) -> None:
        """Close every unused connection and keep none from now on."""
        self.closing = True
        for connection in list(self._idle):
            connection.close()
