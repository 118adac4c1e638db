"""Clients' connections: bytes → exchanges, one forwarded at a time for each connection; answers' bytes → clients."""

import asyncio
import math
import re
import socket
import struct
from collections import deque
from typing import cast

import anyio
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from agent.clock import NS
from agent.sidecar.asks import Caller
from agent.sidecar.crowd.crowd import Crowd, Pace, source_of
from agent.sidecar.crowd.turning_away import TurningAway
from agent.sidecar.exchange import Exchange
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.upstream import HIGH_WATER_BYTES, LOW_WATER_BYTES
from agent.sidecar.grpc.door import GrpcDoor
from agent.sidecar.plans import Plan, is_recorded
from agent.sidecar.tenancy.hops import REPEATED
from agent.sidecar.tenancy.settings import UNIX
from agent.sidecar.tenancy.tenancy import UNCHANGED
from agent.sidecar.wire import (
    MAX_HEAD_BYTES,
    Cut,
    EngineHead,
    RequestHead,
    cut_request,
    origin_form,
    problem,
    tokens,
    trailer_lines,
)

LINGER_NS = 5 * NS
_HTTP_LINE = re.compile(rb"[^\r\n]* HTTP/1\.[01]\r\n")  # the parser takes RTSP and ICE too
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, for no time at all
FRESH_NS = NS // 2  # while draining, for the first request of a connection
MOST_PLANS = 1024
MOST_PLAN_BYTES = 4096  # of a head that is remembered: the plans must not take much memory, whoever comes

# Why reading from a client is on hold.
_CONNECTING, _ENGINE_FULL, _WAITING, _UPGRADING = 1, 2, 4, 8


class Listener:
    """All clients' connections of one listening address. `scheme`: what clients speak, http or https."""

    def __init__(self, forwarder: Forwarder, crowd: Crowd, grpc: GrpcDoor, scheme: bytes = b"http") -> None:
        self.forwarder = forwarder
        self.grpc = grpc
        self.crowd = crowd
        self.scheme = scheme
        self.turning_away = TurningAway()
        self.limits_rate = forwarder.settings.limits.requests_per_second is not None
        self.half_close = forwarder.settings.tolerate_half_close
        self.plans: dict[tuple[str, bytes, bytes], Plan] = {}  # by client address and head
        self.connections: set[ClientConnection] = set()
        self.empty = anyio.Event()  # set when, while draining, the last connection is gone

    def sweep(self) -> None:
        """Close connections that have been idle, or stuck in a head, for too long."""
        now_ns = self.forwarder.clock.now_ns()
        oldest_ns = now_ns - (FRESH_NS if self.forwarder.draining else self.crowd.idle_ns)
        for connection in list(self.connections):
            connection.close_if_idle(oldest_ns, now_ns)
        self.grpc.sweep()

    def drain(self) -> None:
        """Close idle connections; those with a request close after its answer."""
        self.forwarder.draining = True
        now_ns = self.forwarder.clock.now_ns()
        for connection in list(self.connections):
            if not connection.fresh:  # the first request of a fresh one may be on its way
                connection.close_if_idle(1 << 63, now_ns)
        self.grpc.drain()
        self.note_empty()

    def plan(self, head: RequestHead, peer: str, *, keep_alive: bool, upgrade: bool, http10: bool) -> Plan:
        """What is to be done with requests of this head from this address."""
        tenancy = self.forwarder.tenancy
        version = tenancy.version
        caller = tenancy.identify(head.joined(tenancy.headers, REPEATED), peer, self.forwarder.clock.now_ns())
        rewrite = tenancy.rewrite(caller) if isinstance(caller, Caller) else UNCHANGED
        dropped = set(rewrite.drop)
        if not upgrade and is_recorded(head.method, head.path) and self.forwarder.may_hold(head.path):
            dropped.add(b"expect")  # it is answered here
            if self.forwarder.asks_for_usage:
                dropped.add(b"accept-encoding")  # of a compressed answer nothing can be taken out again
        added = b"".join(line + b"\r\n" for line in rewrite.add)

        def make_head(host: bytes, rewrite_host: bool) -> EngineHead:
            return head.for_engine(
                peer=None if peer == UNIX else peer,
                scheme=self.scheme,
                upgrade=upgrade,
                host=host,
                rewrite_host=rewrite_host,
                dropped=dropped,
                added=added,
            )

        return Plan(head, make_head, caller, version, peer=peer, keep_alive=keep_alive, upgrade=upgrade, http10=http10)

    def remember(self, key: tuple[str, bytes, bytes], plan: Plan) -> None:
        """Keep a plan for the next request with its head."""
        if len(self.plans) >= MOST_PLANS:
            self.plans.clear()
        self.plans[key] = plan

    def note_empty(self) -> None:
        """Tell who waits for the end, if this is it."""
        if self.forwarder.draining and not self.connections and not self.grpc.connections:
            self.empty.set()

    def cut_all(self) -> None:
        """Close every connection, whatever is in flight."""
        self.turning_away.cut_all()
        self.grpc.cut_all()
        for connection in list(self.connections):
            connection.cut(abruptly=True)


class ClientConnection(asyncio.Protocol):
    """One client's connection. Requests that are pipelined wait, at most one read's worth, until it is their turn."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.forwarder = listener.forwarder
        self.fresh = True  # no request has come yet
        self.pace = Pace(listener.crowd.pacing)
        self.write_paused = False
        self._active: Exchange | None = None  # being answered
        self._incoming: Exchange | None = None  # whose body is being read
        self._queue: deque[Exchange] = deque()
        self._holds = 0
        self._broken = False  # no further request can be read from this connection
        self._tunnel = False
        self._early = b""  # bytes after a request for another protocol, until the engine has answered it
        self._upgrading = False
        self._refeed = b""
        self._head_bytes = 0
        self._in_head = True
        self._skip_message_end = False
        self._linger_until_ns: int | None = None
        self._now_ns = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._trailers: list[tuple[bytes, bytes]] = []
        self._quiet_bytes = 0  # since the last byte of a body: framing, trailers
        self._had_body = False  # in the piece that is being read
        self._between = True  # the parser has seen whole requests only
        self._cut: Cut | None = None  # of the request that the parser is fed from its first byte on
        self._parser = HttpRequestParser(self)

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) and peer else UNIX
        self._source = source_of(peer)
        self._active_at_ns = now_ns = self.forwarder.clock.now_ns()
        if self.listener.crowd.came(self._source, now_ns) is not None:
            self._broken = True
            self.listener.turning_away.turn_away(self.transport)
            return
        self.listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = True
        self._queue.clear()
        if self._active is not None and not self._active.finished:
            self._active.client_gone()
        self._active = self._incoming = None
        self.listener.crowd.left(self._source)
        self.listener.connections.discard(self)
        self.listener.note_empty()

    def eof_received(self) -> bool:
        active = self._active
        if active is not None and active.tunnel is not None:
            active.tunnel.client_ended()
            return True
        self._broken = True
        if active is not None and active.request_complete and self.listener.half_close:
            return True
        # At once: until the connection is closed, one turn of the loop later, an answer would be taken for delivered.
        self._queue.clear()
        if active is not None and not active.finished:
            active.client_gone()
        return False

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._active is not None and self._active.upstream is not None:
            self._active.upstream.hold_reading(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._active is not None and self._active.upstream is not None:
            self._active.upstream.hold_reading(False)

    def data_received(self, data: bytes) -> None:
        if self._tunnel:
            if self._active is not None and self._active.tunnel is not None:
                self._active.tunnel.from_client(data)
            return
        if self._upgrading:
            self._early += data
            self._hold(_UPGRADING, True)
            return
        if self._broken:
            return
        self._now_ns = self.forwarder.clock.now_ns()
        if self.fresh and data[:3] == b"PRI":
            self._speaks_http2(data)
            return
        if self._between:
            cut = self._cut = cut_request(data)
            if cut is not None and self._active is None:
                key, body_at, length, _ = cut
                plan = self.listener.plans.get((self._peer, *key))
                if (
                    plan is not None
                    and len(data) == body_at + length
                    and plan.holds(self.forwarder.tenancy.version, self._now_ns)
                ):
                    self.fresh = False
                    self._active = exchange = Exchange(self.forwarder, self, plan, self._now_ns)
                    exchange.begin_whole(data[body_at:], self._now_ns)
                    return
        if self._in_head:
            self.pace.head_began(self._now_ns)
            self._head_bytes += len(data)
        self._read(data)
        if self._active is not None:
            self._active.flush()

    def _speaks_http2(self, data: bytes) -> None:
        """This connection is gRPC's from now on."""
        listener, source = self.listener, self._source

        def left() -> None:
            listener.crowd.left(source)
            listener.note_empty()

        self._broken = True
        listener.connections.discard(self)
        listener.grpc.take(self.transport, data, left)

    def _read(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._refeed:
                again, self._refeed = self._refeed + rest, b""
                self._parser = HttpRequestParser(self)
                self._read(again)
            elif self._upgrading:
                self._early = rest
        except HttpParserError as error:
            self._reject(400, "Bad request", f"this is not a request in HTTP/1.1: {error}")
        else:
            if not self._in_head and not self._broken:
                self._quiet_bytes = 0 if self._had_body else self._quiet_bytes + len(data)
                self._had_body = False
                if self._quiet_bytes > MAX_HEAD_BYTES:
                    self.listener.crowd.refuse("head_size", self._source, self._now_ns)
                    self._skip_message_end = True
                    self._reject(431, "Trailers too large", f"more than {MAX_HEAD_BYTES} bytes of framing at once")
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
                self.listener.crowd.refuse("head_size", self._source, self._now_ns)
                self._reject(431, "Head too large", f"the request's head is longer than {MAX_HEAD_BYTES} bytes")

    def _reject(self, status: int, title: str, detail: str, wait_seconds: float | None = None) -> None:
        """Nothing more can be read from this client; what is in flight is still answered if it is whole."""
        self._broken = True
        self.pace.done()
        incoming, self._incoming = self._incoming, None
        if incoming is not None and not incoming.request_complete:
            if incoming in self._queue:
                self._queue.remove(incoming)
            elif not incoming.finished:
                incoming.reject(status, title, detail)
            self.transport.close()
        elif self._active is None:
            added = b"connection: close\r\n"
            if wait_seconds is not None:
                added += b"retry-after: %d\r\n" % math.ceil(wait_seconds)
            self.write(problem(status, title, detail, head_only=False, added=added))
            self.transport.close()

    # the parser's side

    def on_message_begin(self) -> None:
        self.fresh = False
        self._between = False
        self._headers = []
        self._trailers = []
        self._target = b""
        self._in_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._headers.append((name, value))
            return
        self._trailers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._broken:  # what follows a request that was refused, in the same piece
            self._skip_message_end = True
            return
        parser = self._parser
        method = parser.get_method()
        upgrade = parser.should_upgrade()
        target = origin_form(self._target, self._headers)
        head = RequestHead(method, target, self._headers)
        if method == b"CONNECT":
            self._skip_message_end = True
            self._reject(501, "Not a proxy", "this is the address of an engine: CONNECT is not served")
            return
        if self._is_faulty(head):
            return
        if upgrade and head.has_body:
            # The parser takes everything after this head for another protocol. A request with a body is read again
            # without its wish to upgrade, which a server is free to pass over (RFC 9110 section 7.8).
            self._refeed = self._without_upgrade(head)
            self._skip_message_end = True
            return
        if head.has_body:
            self.pace.body_began(self._now_ns)
            if head.length > self.listener.crowd.max_body_bytes:
                self._body_too_large()
                return
        else:
            self.pace.done()
        if self._too_many():
            return
        plan = self.listener.plan(
            head,
            self._peer,
            keep_alive=parser.should_keep_alive(),
            upgrade=upgrade,
            http10=parser.get_http_version() == "1.0",
        )
        self._remember(plan)
        exchange = Exchange(self.forwarder, self, plan, self._now_ns)
        self._incoming = exchange
        self._upgrading = upgrade
        if self._active is None:
            self._active = exchange
            exchange.begin(head.length, self._now_ns)
        else:
            self._queue.append(exchange)
            self._hold(_WAITING, True)

    def on_body(self, data: bytes) -> None:
        self._had_body = True
        if self.pace.body(len(data)) > self.listener.crowd.max_body_bytes and self._incoming is not None:
            self._body_too_large()
        if self._incoming is not None:
            self._incoming.request_body(data)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._between = True
        self._quiet_bytes = 0
        self.pace.done()
        if self._skip_message_end:
            self._skip_message_end = False
            return
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        incoming.request_ended(trailer_lines(self._trailers) if self._trailers else b"")
        if incoming.finished:
            self._advance(self._now_ns)
        elif incoming is self._active:
            incoming.flush()

    def _is_faulty(self, head: RequestHead) -> bool:
        """Refuse what another server could read differently, and what is too long."""
        fault, version = head.fault(), self._parser.get_http_version()
        if self._cut is not None and not _HTTP_LINE.match(self._cut.key[0]):
            version = "?"
        if version not in ("1.1", "1.0"):
            answer = 505, "Version not supported", "only HTTP/1.1 and gRPC over HTTP/2 are spoken here"
        elif head.size() > MAX_HEAD_BYTES:
            self.listener.crowd.refuse("head_size", self._source, self._now_ns)
            answer = 431, "Head too large", f"the request's head is longer than {MAX_HEAD_BYTES} bytes"
        elif fault:
            answer = 400, "Bad request", f"this request is ambiguous: {fault}"
        else:
            return False
        self._skip_message_end = True
        self._reject(*answer)
        return True

    def _body_too_large(self) -> None:
        most = self.listener.crowd.max_body_bytes
        self.listener.crowd.refuse("body_size", self._source, self._now_ns)
        self._skip_message_end = True
        self._reject(413, "Body too large", f"the request's body is longer than {most} bytes (limits.max_body_bytes)")

    def _too_many(self) -> bool:
        """Whether this client has sent more requests than it may, at once or in a while."""
        crowd = self.listener.crowd
        if len(self._queue) >= crowd.max_pipelined:
            crowd.refuse("pipelined", self._source, self._now_ns)
            self._skip_message_end = True
            self._reject(429, "Too many requests", f"more than {crowd.max_pipelined} requests wait on one connection")
            return True
        wait_seconds = crowd.request(self._source, self._now_ns) if self.listener.limits_rate else None
        if wait_seconds is None:
            return False
        self._skip_message_end = True
        self._reject(429, "Too many requests", f"this address sends too many; wait {wait_seconds:.1f} s", wait_seconds)
        return True

    def _without_upgrade(self, head: RequestHead) -> bytes:
        dropped = (b"connection", b"upgrade", b"http2-settings")
        lines = [b"%b: %b" % (n, v) for n, v in self._headers if n.lower() not in dropped]
        if b"close" in tokens(head.fields.get(b"connection", b"")):
            lines.append(b"connection: close")
        version = self._parser.get_http_version().encode()
        return b"\r\n".join((b"%b %b HTTP/%b" % (head.method, self._target, version), *lines, b"\r\n"))

    def _remember(self, plan: Plan) -> None:
        """The next request with this very head, but for the digits of its length, need not be parsed."""
        cut, self._cut = self._cut, None
        if cut is None or not plan.repeats or cut.body_at > MOST_PLAN_BYTES:
            return
        if plan.head.fields.get(b"content-length", b"") == cut.says:
            self.listener.remember((self._peer, *cut.key), plan)

    # the exchange's side

    def write(self, data: bytes) -> None:
        """Bytes for the client."""
        self.transport.write(data)

    def write_eof(self) -> None:
        """No more bytes for the client."""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def hold_engine(self, hold: bool) -> None:
        """The engine takes no more for now."""
        self._hold(_ENGINE_FULL, hold)

    def hold_connecting(self, hold: bool) -> None:
        """Enough of a body has gathered while the connection to the engine is made."""
        self._hold(_CONNECTING, hold)

    def exchange_finished(self, exchange: Exchange, now_ns: int) -> None:
        """The answer is written. The rest of a request that was answered early is read and thrown away."""
        if self._holds:
            self._hold(_CONNECTING | _ENGINE_FULL | _UPGRADING, False)
        if exchange is not self._active:
            return
        if exchange.request_complete:
            self._advance(now_ns)
        else:
            self._linger_until_ns = now_ns + LINGER_NS

    def cut(self, *, abruptly: bool) -> None:
        """End the connection; abruptly: without what is still to be written, so that the client sees an error."""
        if abruptly:
            # Without this an orderly end is sent, which is what the end of such a body looks like.
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.close()

    def start_tunnel(self) -> bytes:
        """The engine has switched protocols: returns what the client sent early."""
        self._tunnel = True
        self._upgrading = False
        self._hold(_UPGRADING, False)
        early, self._early = self._early, b""
        return early

    def not_upgraded(self) -> None:
        """The engine has answered in HTTP: what the client sent after the request is another request."""
        self._upgrading = False
        early, self._early = self._early, b""
        self._hold(_UPGRADING, False)
        if early:
            self.data_received(early)

    def _advance(self, now_ns: int) -> None:
        """The active exchange is over and its request was read to the end: the next one's turn."""
        done = self._active
        self._active = None
        self._linger_until_ns = None
        self._active_at_ns = now_ns
        last = self._broken or self.forwarder.draining  # an answer begun before the drain did not say `close`
        if done is not None and (done.close_after or (last and not self._queue)):
            self.transport.close()
        elif self._queue:
            following = self._queue.popleft()
            self._active = following
            following.begin(following.plan.head.length, now_ns)
            following.flush()
            if not self._queue:
                self._hold(_WAITING, False)

    def _hold(self, reason: int, hold: bool) -> None:
        before = self._holds
        self._holds = before | reason if hold else before & ~reason
        if bool(before) != bool(self._holds) and not self.transport.is_closing():
            (self.pace.held if self._holds else self.pace.resumed)(self.forwarder.clock.now_ns())
            (self.transport.pause_reading if self._holds else self.transport.resume_reading)()

    # the listener's side

    def close_if_idle(self, oldest_ns: int, now_ns: int) -> None:
        """Close when there is no request in flight since `oldest_ns`, or when the client is too slow with its own."""
        slow = self.pace.slow(now_ns)
        if slow is not None:
            self.listener.crowd.refuse(slow, self._source, now_ns)
            self._now_ns = now_ns
            self._reject(408, "Too slow", "the request did not come fast enough (limits of the sidecar)")
            return
        if self._linger_until_ns is not None:
            if now_ns >= self._linger_until_ns:
                self.transport.close()
        elif self._active is None and self._active_at_ns <= oldest_ns:
            self.transport.close()
