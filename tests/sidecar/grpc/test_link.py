"""Bytes of calls from one connection to another: as they were sent, and no more than the receiver takes."""

import hashlib
import random

import anyio
import pytest
from h2.events import (
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)

from agent.sidecar.grpc.link import Flow
from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.http2 import ANSWER, CALL, OK, Peer, call, client, ended, engine, framed
from tests.support.upstream import until


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_arrive_as_they_were_sent_whatever_the_pieces(seed: int) -> None:
    chance = random.Random(seed)
    sizes = (0, 1, 4, 5, 100, 16_384, 70_000)
    asked = [b"".join(framed(chance.randbytes(chance.choice(sizes))) for _ in range(3)) for _ in range(4)]
    answers = [b"".join(framed(chance.randbytes(chance.choice(sizes))) for _ in range(3)) for _ in range(4)]
    got: dict[str, bytes] = {}

    async def script(peer: Peer) -> None:
        for _ in range(4):
            request = await peer.until(RequestReceived)
            number = dict(request.headers)["x-number"]
            await peer.until(StreamEnded, request.stream_id)
            got[number] = peer.data(request.stream_id)
            peer.http2.send_headers(request.stream_id, ANSWER)
            await peer.send_data(request.stream_id, answers[int(number)])
            peer.http2.send_headers(request.stream_id, OK, end_stream=True)
            await peer.flush()
        await peer.closed()

    window = chance.choice((1000, 65535, 1 << 20))
    async with (
        engine(script, cuts=random.Random(seed + 100), window=chance.choice((2000, 65535))) as server,
        grpc_sidecar(server.url) as proxy,
        client(proxy.port, cuts=chance, window=window) as peer,
    ):
        for number in range(4):
            peer.http2.send_headers(2 * number + 1, [*CALL, ("x-number", str(number))])
        for number in range(4):
            await peer.send_data(2 * number + 1, asked[number], end=True)
        for number in range(4):
            assert (await ended(peer, 2 * number + 1))["grpc-status"] == "0"
        for number in range(4):
            assert hashlib.sha256(peer.data(2 * number + 1)).digest() == hashlib.sha256(answers[number]).digest()
        await until(lambda: len(proxy.records) == 4)
        assert not proxy.slots.taken
    assert {int(number): body for number, body in got.items()} == dict(enumerate(asked))
    by_size = sorted((len(a), len(b)) for a, b in zip(asked, answers, strict=True))
    assert sorted((record.request_bytes, record.response_bytes) for record in proxy.records) == by_size
    assert {(r.request_messages, r.response_messages, r.outcome) for r in proxy.records} == {(3, 3, "ok")}


async def test_a_client_that_does_not_read_stops_the_engine() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        request = await peer.until(RequestReceived)
        peer.http2.send_headers(request.stream_id, ANSWER)
        await peer.flush()
        while sent < 64 << 20:
            await peer.send_data(request.stream_id, bytes(16384))
            sent += 16384

    async with (
        engine(script) as server,
        grpc_sidecar(server.url, request_timeout_seconds=1.0) as proxy,
        client(proxy.port) as peer,
    ):
        peer.reads = False
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"x"), end=True)
        await peer.until(ResponseReceived, 1)
        record = await proxy.record()
    assert sent <= proxy.forwarder.services.settings.stream_window_bytes + 65535 + 16384
    assert record.outcome == "timeout"


async def test_an_engine_that_does_not_read_stops_the_client_but_not_its_other_calls() -> None:
    async def script(peer: Peer) -> None:
        peer.reads = False
        first = await peer.until(RequestReceived)
        while True:
            request = await peer.until(RequestReceived)
            assert request.stream_id != first.stream_id
            await peer.until(StreamEnded, request.stream_id)
            peer.http2.send_headers(request.stream_id, [*ANSWER, *OK], end_stream=True)
            await peer.flush()

    async with engine(script, window=20_000) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        taken = 0
        with anyio.move_on_after(0.5):
            while taken < 64 << 20:
                await peer.send_data(1, bytes(10_000))
                taken += 10_000
        assert taken <= proxy.forwarder.services.settings.stream_window_bytes + 20_000
        assert (await call(peer, 3))["grpc-status"] == "0"


class Taker:
    """A connection that takes `room` bytes, and notes what it is told."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.flows: dict[int, Flow] = {}
        self.lost = self.write_paused = False
        self.sent: list[tuple[bytes, bool]] = []
        self.returned = 0
        self.http2 = self

    def send(self, _stream_id: int, data: bytes | memoryview, *, end: bool) -> int:
        size = min(self.room, len(data))
        self.room -= size
        if size or end:
            self.sent.append((bytes(data[:size]), end and size == len(data)))
        return size

    def taken(self, _stream_id: int, size: int) -> None:
        self.returned += size

    def touch(self) -> None: ...


def flow(sink: Taker, source: Taker) -> Flow:
    made = Flow(source, 1)  # type: ignore[arg-type]
    made.to(sink, 3)  # type: ignore[arg-type]
    return made


def test_a_sender_goes_on_only_as_its_bytes_are_taken() -> None:
    sink, source = Taker(room=4), Taker()
    ours = flow(sink, source)
    ours.feed(b"abcdef", 6, end=False)
    assert (sink.sent, source.returned) == ([(b"abcd", False)], 4)
    ours.feed(b"gh", 2, end=True)
    sink.room = 100
    ours.push()
    assert sink.sent[1:] == [(b"ef", False), (b"gh", True)]
    assert (ours.done, ours.ended) == (True, True)


def test_padding_is_given_back_at_once() -> None:
    sink, source = Taker(room=0), Taker()
    flow(sink, source).feed(b"abc", 103, end=False)
    assert (sink.sent, source.returned) == ([], 100)


def test_nothing_is_written_while_the_receiver_does_not_read() -> None:
    sink, source = Taker(), Taker()
    sink.write_paused = True
    ours = flow(sink, source)
    ours.feed(b"abc", 3, end=True)
    assert (sink.sent, source.returned) == ([], 0)
    sink.write_paused = False
    ours.push()
    assert sink.sent == [(b"abc", True)]


def test_what_was_sent_can_be_sent_again_elsewhere() -> None:
    first, second, source = Taker(), Taker(), Taker()
    ours = flow(first, source)
    ours.feed(b"abc", 3, end=True)
    assert ours.done
    ours.again([b"abc"])
    assert (ours.done, first.flows) == (False, {})
    ours.to(second, 5)  # type: ignore[arg-type]
    assert second.sent == [(b"abc", True)]


def test_an_end_is_told_once_and_bytes_after_it_are_dropped() -> None:
    sink, source = Taker(), Taker()
    ends: list[int] = []
    ours = flow(sink, source)
    ours.on_done = lambda: ends.append(1)
    ours.feed(b"", 0, end=True)
    ours.feed(b"late", 4, end=False)
    assert (sink.sent, ends) == ([(b"", True)], [1])
