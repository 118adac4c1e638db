"""Clients' connections, frame by frame: what is not gRPC, and clients that mean no good."""

import pytest
from h2.errors import ErrorCodes
from h2.events import StreamReset

from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.http2 import CALL, Peer, answer_all, call, client, ended, engine
from tests.support.upstream import until


async def test_http2_that_is_not_grpc_is_told_so() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "e")])
        last = await ended(peer, 1)
        assert last[":status"] == "415"
        assert b"HTTP/1.1" in peer.data(1)
        assert (await call(peer, 3))["grpc-status"] == "0"
        assert len(proxy.records) == 1


async def test_an_idle_connection_is_closed() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url, client_idle_seconds=0.2) as proxy:
        async with client(proxy.port) as peer:
            assert (await call(peer))["grpc-status"] == "0"
            await peer.closed()
        await until(lambda: not proxy.forwarder.connections)


async def test_more_streams_than_allowed() -> None:
    async def script(peer: Peer) -> None:
        await peer.closed()

    async with engine(script) as server, grpc_sidecar(server.url, settings={"max_streams": 4}) as proxy:
        async with client(proxy.port) as peer:
            for number in range(5):
                peer.http2.send_headers(2 * number + 1, CALL)  # before the settings were seen
            assert (await peer.until(StreamReset, 9)).error_code == ErrorCodes.REFUSED_STREAM
            assert len(proxy.forwarder.active) == 4
        await until(lambda: len(proxy.records) == 4)


@pytest.mark.parametrize("what", ["ping", "settings", "empty data", "priority"])
async def test_floods_are_cut(what: str) -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.flush()
        frames = {
            "ping": b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",
            "settings": b"\0\0\0\x04\0\0\0\0\0",
            "empty data": b"\0\0\0\0\0\0\0\0\1",
            "priority": b"\0\0\5\2\0\0\0\0\3" + b"\0\0\0\0\1",
        }[what]
        try:
            for _ in range(200):
                await peer.wire.send(frames * 200)
        except ConnectionError:
            pass
        await until(lambda: not proxy.forwarder.connections)
        await until(lambda: not proxy.forwarder.active)


async def test_rapid_resets_are_cut() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        try:
            for number in range(2000):
                peer.http2.send_headers(2 * number + 1, CALL)
                peer.http2.reset_stream(2 * number + 1, ErrorCodes.CANCEL)
                await peer.flush()
        except ConnectionError:
            pass
        await until(lambda: not proxy.forwarder.connections)
        assert 500 <= len(proxy.records) < 2000


async def test_headers_without_end_are_cut() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        await peer.wire.send(b"\0\0\1\1\0\0\0\0\1\x82")
        try:
            for _ in range(1000):
                await peer.wire.send(b"\0\x40\0\x09\0\0\0\0\1" + bytes(16384))
        except ConnectionError:
            pass
        await until(lambda: not proxy.forwarder.connections)
        assert proxy.events == []


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\0\0\0\0\0\1",  # a frame of 16 MiB is announced
        b"\0\0\1\1\4\0\0\0\2\x82",  # a stream that only a server may open
        b"\0\0\4\1\4\0\0\0\1\x82\x86\x84\x41",  # fields that end too early
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",  # a window that opens by nothing
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http2_ends_the_connection(data: bytes) -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        await peer.wire.send(data)
        await peer.wire.until_closed()
        await until(lambda: not proxy.forwarder.connections)
        assert proxy.events == []


@pytest.mark.parametrize(
    "field",
    [("Upper", "x"), ("connection", "close"), ("transfer-encoding", "chunked"), ("x", "a\r\nb"), (":path", "/")],
)
async def test_fields_that_could_smuggle_end_the_connection(field: tuple[str, str]) -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.config.validate_outbound_headers = False
        peer.http2.config.normalize_outbound_headers = False
        for stream_id in (1, 3):  # the second time the same block may be known
            peer.http2.send_headers(stream_id, [*CALL, field])
        await peer.flush()
        await peer.wire.until_closed()
        await until(lambda: not proxy.forwarder.connections)
        assert server.connections == 0
