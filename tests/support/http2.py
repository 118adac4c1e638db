"""Clients and engines that speak HTTP/2 frame by frame, with the plain h2 library, and cut their bytes as they like."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, ResponseReceived, StreamEnded, TrailersReceived
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes

from tests.support.upstream import WAIT_SECONDS, Wire, connect, upstream

E = TypeVar("E", bound=Event)
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    (":authority", "engine"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def framed(body: bytes) -> bytes:
    """A message of gRPC, not compressed."""
    return b"\0" + len(body).to_bytes(4) + body


class Peer:
    """One side of a connection. With `cuts` its bytes go out in pieces of random sizes."""

    def __init__(
        self, wire: Wire, *, client: bool, window: int = 65535, streams: int = 100, cuts: random.Random | None = None
    ) -> None:
        self.wire = wire
        self.cuts = cuts
        self.http2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.http2.local_settings.update(
            {SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        )
        self.http2.local_settings.acknowledge()
        self.http2.initiate_connection()
        self.seen: list[Event] = []
        self.reads = True  # acknowledges the DATA that it gets

    async def flush(self) -> None:
        """Send what h2 has to say."""
        data = self.http2.data_to_send()
        at = 0
        while at < len(data):
            size = len(data) if self.cuts is None else self.cuts.choice((1, 8, 9, 10, 1000, 20_000, 70_000, 70_000))
            await self.wire.send(data[at : at + size])
            at += size
            if self.cuts is not None and self.cuts.random() < 0.3:
                await anyio.lowlevel.checkpoint()

    async def read(self) -> list[Event]:
        """The events of what comes next; none at the end of the connection."""
        await self.flush()
        with anyio.fail_after(WAIT_SECONDS):
            data = await self.wire.reader.read(65536)
        events = self.http2.receive_data(data) if data else []
        for event in events:
            if isinstance(event, DataReceived) and self.reads and event.flow_controlled_length:
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.seen += events
        await self.flush()
        return events if data else [Event()]

    async def until(self, kind: type[E], stream_id: int | None = None) -> E:
        """Read until such an event has come."""
        while True:
            for event in self.seen:
                if isinstance(event, kind) and stream_id in (None, getattr(event, "stream_id", None)):
                    self.seen.remove(event)
                    return event
            if any(type(event) is Event for event in await self.read()):
                raise EOFError(f"the connection ended without {kind.__name__}; seen: {self.seen}")

    async def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send all of it as the windows open."""
        http2 = self.http2
        at = 0
        while at < len(data):
            room = min(http2.local_flow_control_window(stream_id), http2.max_outbound_frame_size, len(data) - at)
            if room == 0:
                if any(type(event) is Event for event in await self.read()):
                    raise EOFError("the connection ended")
                continue
            if self.cuts is not None:
                room = min(room, self.cuts.choice((1, 100, 5000, 16_384, 16_384)))
            http2.send_data(stream_id, data[at : at + room])
            at += room
            await self.flush()
        if end:
            http2.end_stream(stream_id)
            await self.flush()

    async def closed(self) -> None:
        """Read to the end of the connection."""
        with anyio.fail_after(WAIT_SECONDS):
            while data := await self.wire.reader.read(65536):
                self.seen += self.http2.receive_data(data)

    def data(self, stream_id: int) -> bytes:
        """The DATA of a stream that has come."""
        return b"".join(
            event.data for event in self.seen if isinstance(event, DataReceived) and event.stream_id == stream_id
        )


@asynccontextmanager
async def client(port: int, **how: Any) -> AsyncIterator[Peer]:
    """A client's connection."""
    async with connect(port) as wire:
        peer = Peer(wire, client=True, **how)
        await peer.flush()
        yield peer


def engine(script: Callable[[Peer], Awaitable[None]], **how: Any) -> Any:
    """An engine that runs `script` on every connection; see `tests.support.upstream.upstream`."""

    async def play(wire: Wire) -> None:
        peer = Peer(wire, client=False, **how)
        await peer.flush()
        try:
            await script(peer)
        except (EOFError, StreamClosedError):
            pass  # the sidecar has closed the connection, or broken the call off
        await peer.flush()

    return upstream(play)


async def answer_all(peer: Peer, body: bytes = framed(b"fine")) -> None:
    """A script: every call gets `body` and ends well."""
    while True:
        request = await peer.until(RequestReceived)
        await peer.until(StreamEnded, request.stream_id)
        peer.http2.send_headers(request.stream_id, ANSWER)
        await peer.send_data(request.stream_id, body)
        peer.http2.send_headers(request.stream_id, OK, end_stream=True)
        await peer.flush()


async def call(peer: Peer, stream_id: int = 1, body: bytes = framed(b"hello"), fields: list = CALL) -> dict:
    """A whole call; returns its trailers."""
    peer.http2.send_headers(stream_id, fields)
    await peer.send_data(stream_id, body, end=True)
    return await ended(peer, stream_id)


async def ended(peer: Peer, stream_id: int) -> dict:
    """The last fields of an answer."""
    await peer.until(StreamEnded, stream_id)
    found = [e for e in peer.seen if isinstance(e, TrailersReceived | ResponseReceived) and e.stream_id == stream_id]
    return dict(found[-1].headers)
