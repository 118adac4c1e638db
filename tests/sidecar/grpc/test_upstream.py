"""Connections to the engine, frame by frame: engines that are no engines, that close, that take few calls."""

import pytest
from h2.errors import ErrorCodes
from h2.events import StreamReset

from agent.clock import NS
from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.http2 import CALL, Peer, answer_all, call, client, ended, engine, framed
from tests.support.upstream import Wire, until, upstream


async def test_an_engine_that_speaks_something_else() -> None:
    async def script(peer: Peer) -> None:
        peer.http2.clear_outbound_data_buffer()
        await peer.wire.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await peer.wire.until_closed()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        last = await call(peer)
        record = await proxy.record()
    assert last["grpc-status"] == "14"
    assert (record.outcome, record.grpc_status) == ("error", 14)


GOAWAY = b"\0\0\x08\x07" + bytes(13)  # no stream is served


@pytest.mark.parametrize("last_words", [b"", GOAWAY])
async def test_an_engine_that_closes_every_connection_is_not_asked_for_ever(last_words: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.wire.send(last_words)

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"a"), end=True)
        if last_words:  # the client may safely try again
            assert (await peer.until(StreamReset, 1)).error_code == ErrorCodes.REFUSED_STREAM
        else:
            assert (await ended(peer, 1))["grpc-status"] == "14"
        record = await proxy.record()
        assert server.connections <= 3
    assert (record.outcome, record.grpc_status) == ("error", 14)


async def test_an_engine_that_takes_no_call_holds_it_until_its_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.closed()

    async with (
        engine(script, streams=0) as server,
        grpc_sidecar(server.url, request_timeout_seconds=0.3) as proxy,
        client(proxy.port) as peer,
    ):
        assert (await call(peer))["grpc-status"] == "4"
        assert server.connections == 1
        assert (await proxy.record()).outcome == "timeout"


async def test_connections_are_shared_and_closed_when_nobody_needs_them() -> None:
    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, settings={"upstream_idle_seconds": 0.2}) as proxy,
        client(proxy.port) as peer,
        client(proxy.port) as other,
    ):
        for stream_id in (1, 3):
            assert (await call(peer, stream_id))["grpc-status"] == "0"
            assert (await call(other, stream_id))["grpc-status"] == "0"
        assert (server.connections, proxy.forwarder.tally.connects) == (1, 1)
        await until(lambda: proxy.forwarder.pool.size == 0)
        assert (await call(peer, 5))["grpc-status"] == "0"
        assert server.connections == 2


async def test_an_engine_that_never_says_a_word() -> None:
    async def mute(wire: Wire) -> None:
        await wire.until_closed()

    async with upstream(mute) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL, end_stream=True)
        await peer.flush()
        await until(lambda: server.connections == 1 and len(proxy.forwarder.active) == 1)
        now_ns = proxy.forwarder.clock.now_ns()
        await until(lambda: bool(proxy.forwarder.pool._opening))
        proxy.forwarder.pool.sweep(now_ns + 5 * NS)
        assert proxy.forwarder.active
        proxy.forwarder.pool.sweep(now_ns + 11 * NS)
        assert (await ended(peer, 1))["grpc-status"] == "14"
        assert "ended the connection at once" in str((await proxy.record()).error)


async def test_who_leaves_while_a_connection_is_made_is_not_waited_for() -> None:
    async def mute(wire: Wire) -> None:
        await wire.until_closed()

    async with upstream(mute) as server, grpc_sidecar(server.url) as proxy:
        async with client(proxy.port) as peer:
            peer.http2.send_headers(1, CALL, end_stream=True)
            await peer.flush()
            await until(lambda: len(proxy.forwarder.active) == 1)
        record = await proxy.record()
        assert record.outcome == "client_abort"
        assert not proxy.forwarder.pool._waiting
