"""uvicorn's HTTP protocol with an end to everything a client may take: connections, heads, bodies, time.

A connection is always in one of three states, each with its longest time: a head is coming, a request is being
answered, or nothing happens. One timer watches; when it rings, the connection is cut without a word.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from agent.api.gate import CERTIFICATE_NAMES
from agent.api.problems import MEDIA_TYPE
from agent.doors.limits import source_key
from agent.doors.settings import LimitSettings
from agent.doors.tls import certificate_names

MAX_HEAD_BYTES = 32 << 10  # a service account token is 1 to 2 KiB
UNREAD_BYTES = 1 << 20
LINGER_SECONDS = 1.0  # beyond the time that the gate allows: it answers by itself before the connection is cut


@dataclass(slots=True)
class Bounds:
    """What all connections of one listener may take together; `by_source` counts those that are open."""

    limits: LimitSettings
    by_source: Counter[str] = field(default_factory=Counter)

    @property
    def per_source(self) -> int:
        """One address cannot take every connection; a sidecar or a browser needs a handful."""
        return max(1, self.limits.max_connections // 2)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.bounds = bounds
        self.limits = bounds.limits
        self.source: str | None = None  # set while it is counted
        self.certificate: Mapping[str, Any] | None = None
        self.watchdog: asyncio.TimerHandle | None = None
        self.in_head = True
        self.head_bytes = 0
        self.body_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        source = source_key(self.client[0]) if self.client else ""
        bounds = self.bounds
        if len(self.connections) > self.limits.max_connections or bounds.by_source[source] >= bounds.per_source:
            self.transport.abort()
            return
        bounds.by_source[source] += 1
        self.source = source
        self.certificate = self.transport.get_extra_info("peercert")
        self._watch(self.limits.head_timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.watchdog is not None:
            self.watchdog.cancel()
            self.watchdog = None
        if self.source is not None:
            self.bounds.by_source[self.source] -= 1
            if not self.bounds.by_source[self.source]:
                del self.bounds.by_source[self.source]
            self.source = None
        super().connection_lost(exc)

    def _watch(self, seconds: float) -> None:
        if self.watchdog is not None:
            self.watchdog.cancel()
        self.watchdog = self.loop.call_later(seconds, self._cut)

    def _cut(self) -> None:
        self.transport.abort()

    # Bytes

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # refused already; what else was on its way is of no interest
        self._unset_keepalive_if_required()
        if self.in_head:
            self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is answered as if it had not asked for one
        except httptools.HttpParserError:
            self._refuse()
            return
        if self.in_head and self.head_bytes > MAX_HEAD_BYTES:
            self._refuse()

    def _refuse(self) -> None:
        """Said outside of any handler: there is no request that one could hand over."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if not self.in_head or (cycle is not None and not cycle.response_complete):
            self.transport.abort()  # it has an answer, or one is on its way: a second one must not get into it
            return
        status, detail = 400, "This is not an HTTP request."
        if self.head_bytes > MAX_HEAD_BYTES:
            status, detail = 431, f"The head of the request is longer than {MAX_HEAD_BYTES} bytes."
        title = "Bad Request" if status == 400 else "Request Header Fields Too Large"
        body = msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "detail": detail})
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    # The parser's events

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.certificate:
            # For each request: it may have expired since the connection was made.
            cast("dict[str, Any]", self.scope)[CERTIFICATE_NAMES] = certificate_names(self.certificate)
        self.body_bytes = 0
        self._watch(self.limits.head_timeout_seconds)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:  # it came in one piece
            self.head_bytes = size
            raise ValueError("the head is too long")  # the parser makes an HttpParserError of it
        self.in_head = False
        self._watch(self.limits.request_timeout_seconds + LINGER_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # Every path has a bound of its own and says so; this one is for what still comes after such an answer.
        self.body_bytes += len(body)
        if self.body_bytes > self.limits.max_body_bytes + UNREAD_BYTES:
            raise ValueError("more than anybody asked for")  # the parser makes an HttpParserError of it
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_head, self.head_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A client that does not read its answer, or goes on sending a body nobody wants, is cut off at last.
        self._watch(self.limits.request_timeout_seconds)
