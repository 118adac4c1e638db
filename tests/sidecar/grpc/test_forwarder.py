"""What all calls share: leaving in order, and that nothing is left behind."""

import anyio
import anyio.lowlevel
import pytest
from h2.events import (
    RequestReceived,
    StreamEnded,
)
from structlog.testing import capture_logs

from agent.clock import NS
from tests.support.grpc_sidecar import Slots, grpc_sidecar
from tests.support.http2 import ANSWER, CALL, OK, Peer, answer_all, call, client, ended, engine, framed
from tests.support.upstream import until


async def test_a_drain_lets_calls_finish_and_takes_those_under_way_to_us() -> None:
    free = anyio.Event()

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.until(RequestReceived)
            await peer.until(StreamEnded, request.stream_id)
            await free.wait()
            peer.http2.send_headers(request.stream_id, [*ANSWER, *OK], end_stream=True)
            await peer.flush()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"a"), end=True)
        await until(lambda: len(proxy.forwarder.active) == 1)
        proxy.forwarder.drain()
        peer.http2.send_headers(3, CALL)  # sent before the GOAWAY was seen
        await peer.send_data(3, framed(b"b"), end=True)
        await until(lambda: len(proxy.forwarder.active) == 2)
        free.set()
        await until(lambda: len(proxy.records) == 2)
        data = b""
        with anyio.fail_after(5):
            while piece := await peer.wire.reader.read(65536):
                data += piece
    assert data.count(b"\0\0\x08\x07\0\0\0\0\0") == 2  # two GOAWAYs: all may still come; none after 3
    assert b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x03\0\0\0\0" in data
    assert {record.outcome for record in proxy.records} == {"ok"}


async def test_what_is_left_at_the_end_is_told_so() -> None:
    async def script(peer: Peer) -> None:
        await peer.closed()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"a"), end=True)
        await until(lambda: len(proxy.forwarder.active) == 1)
        proxy.forwarder.shut_down("the sidecar ends")
        last = await ended(peer, 1)
        record = await proxy.record()
    assert (last["grpc-status"], last["grpc-message"]) == ("14", "the sidecar ends")
    assert record.outcome == "error"


async def test_many_calls_leave_nothing_behind() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        for number in range(500):
            assert (await call(peer, 2 * number + 1))["grpc-status"] == "0"
            peer.seen.clear()
        await until(lambda: len(proxy.records) == 500)
        (connection,) = proxy.forwarder.connections
        (link,) = proxy.forwarder.pool.links
        for each in (connection, link):
            assert not each.calls
            assert not each.flows
            assert not each.http2.streams
    assert proxy.records[0].ended_at_ns - proxy.records[0].started_at_ns < 10 * NS


async def test_a_bug_in_the_metering_costs_a_record_and_never_a_call() -> None:
    class Forgetful(Slots):
        def tell(self, slot: int, upstream: str, model: str | None) -> None:
            raise LookupError(slot)

    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        proxy.forwarder.services.recorder.slots = Forgetful()
        with capture_logs() as logs:
            for stream_id in (1, 3):
                assert (await call(peer, stream_id, framed(b"\x0a\x03llm")))["grpc-status"] == "0"
        assert proxy.forwarder.tally.observation_failures >= 2
    assert [each["event"] for each in logs].count("observation_failed") == 1  # said once


async def test_the_engines_state_is_said_once_per_change() -> None:
    async with grpc_sidecar("http://127.0.0.1:9") as proxy, client(proxy.port) as peer:
        with capture_logs() as logs:
            for stream_id in (1, 3):
                assert (await call(peer, stream_id))["grpc-status"] == "14"
            assert "127.0.0.1:9" in proxy.forwarder.upstream_error
            proxy.forwarder.upstream_state("")
            proxy.forwarder.upstream_state("")
    told = [each["event"] for each in logs if each["event"].startswith("grpc_upstream")]
    assert told == ["grpc_upstream_unreachable", "grpc_upstream_reachable"]


async def test_nothing_runs_before_there_is_a_group() -> None:
    async with grpc_sidecar("http://127.0.0.1:9") as proxy:
        proxy.forwarder.services.group = None
        with pytest.raises(RuntimeError, match="GrpcServices"):
            proxy.forwarder.start(anyio.lowlevel.checkpoint)
