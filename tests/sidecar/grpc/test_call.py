"""One call, frame by frame: resets, engines that fail, callers who are refused, quotas."""

from types import SimpleNamespace

import anyio
import pytest
from h2.errors import ErrorCodes
from h2.events import (
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from agent.core.requests import Usage
from agent.sidecar.asks import Ask, Caller, Refusal
from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.http2 import ANSWER, CALL, OK, Peer, answer_all, call, client, ended, engine, framed
from tests.support.upstream import until


async def test_a_reset_of_the_engine_passes_with_its_code() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        peer.http2.send_headers(request.stream_id, ANSWER)
        await peer.send_data(request.stream_id, framed(b"half"))
        peer.http2.reset_stream(request.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        await peer.flush()
        await peer.closed()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"x"), end=True)
        assert (await peer.until(StreamReset, 1)).error_code == ErrorCodes.ENHANCE_YOUR_CALM
        record = await proxy.record()
    assert (record.outcome, record.grpc_status, record.response_messages) == ("error", 8, 1)


async def test_a_cancelled_call_is_cancelled_at_the_engine() -> None:
    codes = []

    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        codes.append((await peer.until(StreamReset, request.stream_id)).error_code)

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        peer.http2.send_headers(1, CALL)
        await peer.flush()
        await until(lambda: server.connections == 1)
        await until(lambda: all(one.link is not None for one in proxy.forwarder.active))
        peer.http2.reset_stream(1, ErrorCodes.CANCEL)
        await peer.flush()
        await until(lambda: bool(codes))
        record = await proxy.record()
    assert codes == [ErrorCodes.CANCEL]
    assert (record.outcome, record.grpc_status) == ("client_abort", 1)


@pytest.mark.parametrize("how", ["goaway", "refused"])
async def test_a_call_that_the_engine_did_not_look_at_is_made_again(how: str) -> None:
    async def script(peer: Peer) -> None:
        if server.connections > 1:
            await answer_all(peer)
        request = await peer.until(RequestReceived)
        await peer.until(StreamEnded, request.stream_id)
        if how == "goaway":
            peer.http2.close_connection(last_stream_id=0)
        else:
            peer.http2.reset_stream(request.stream_id, ErrorCodes.REFUSED_STREAM)
            await peer.flush()
            await answer_all(peer)
        await peer.flush()
        await peer.closed()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        assert (await call(peer))["grpc-status"] == "0"
        record = await proxy.record()
        assert proxy.forwarder.tally.retries == 1
    assert (record.outcome, record.request_messages) == ("ok", 1)


async def test_an_engine_that_dies_amid_an_answer() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        peer.http2.send_headers(request.stream_id, ANSWER)
        await peer.send_data(request.stream_id, framed(b"whole") + framed(b"cut")[:6])
        peer.wire.reset()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        last = await call(peer)
        record = await proxy.record()
    assert last["grpc-status"] == "14"
    assert "broke%20off" in last["grpc-message"] or "broke off" in last["grpc-message"]
    assert (record.outcome, record.grpc_status, record.response_messages) == ("error", 14, 1)


async def test_an_answer_that_is_not_grpc_passes_and_is_an_error() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        peer.http2.send_headers(request.stream_id, [(":status", "503"), ("content-type", "text/plain")])
        await peer.send_data(request.stream_id, b"busy", end=True)
        await peer.closed()

    async with engine(script) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        last = await call(peer)
        record = await proxy.record()
    assert last[":status"] == "503"
    assert peer.data(1) == b"busy"
    assert (record.outcome, record.grpc_status) == ("error", 14)


@pytest.mark.parametrize(("status", "code"), [(401, "16"), (403, "7"), (429, "8"), (402, "8")])
async def test_callers_who_are_refused(status: int, code: str) -> None:
    seen = []

    def identify(fields: object, peer: str, _now_ns: int) -> Refusal:
        seen.append((fields, peer))
        return Refusal(status, "no", "not you, 100 %", 1.5)

    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, services={"identify": identify}) as proxy,
        client(proxy.port) as peer,
    ):
        last = await call(peer, fields=[*CALL, ("authorization", "Bearer x")])
        record = await proxy.record()
        assert server.connections == 0
    assert (last["grpc-status"], last["grpc-message"]) == (code, "not you, 100 %25")
    assert last["grpc-retry-pushback-ms"] == "1500"
    assert seen[0][0][b"authorization"] == b"Bearer x"
    assert seen[0][1] == "127.0.0.1"
    assert (record.outcome, record.grpc_status, record.tenant) == ("rejected", int(code), None)


async def test_what_the_engine_gets_instead_of_credentials() -> None:
    heads = []

    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        heads.append(dict(request.headers))
        peer.http2.send_headers(request.stream_id, [*ANSWER, *OK], end_stream=True)
        await peer.flush()
        await peer.closed()

    services = {
        "identify": lambda *_: Caller("team-a", "key"),
        "rewrite": lambda _: SimpleNamespace(drop=frozenset((b"authorization",)), add=(b"authorization: Bearer own",)),
    }
    async with (
        engine(script) as server,
        grpc_sidecar(server.url, services=services) as proxy,
        client(proxy.port) as peer,
    ):
        await call(peer, fields=[*CALL, ("authorization", "Bearer theirs"), ("x-forwarded-for", "9.9.9.9")])
        record = await proxy.record()
    assert heads[0]["authorization"] == "Bearer own"
    assert heads[0]["x-forwarded-for"] == "9.9.9.9, 127.0.0.1"
    assert heads[0]["te"] == "trailers"
    assert (record.tenant, record.tenant_source) == ("team-a", "key")


class Quotas:
    """Says what it was told to say, and notes what it was asked and what came of it."""

    active = decides = True

    def __init__(self, first: object, later: object = None) -> None:
        self.first, self.later = first, later
        self.asked: list[Ask] = []
        self.done_with: list[Usage | None] = []
        self.free = anyio.Event()

    def admit(self, ask: Ask, _now_ns: int) -> object:
        self.asked.append(ask)
        return self if self.first == "ticket" else self.first

    async def wait(self, _ask: Ask) -> object:
        await self.free.wait()
        return self if self.later == "ticket" else self.later

    def header_lines(self, _now_ns: int) -> bytes:
        return b"X-Quota-Left: 7\r\nx-quota-warning: rule=r; of=8: soon\r\n"

    def done(self, usage: Usage, _now_ns: int) -> None:
        self.done_with.append(usage)

    def withdraw(self, _now_ns: int) -> None:
        self.done_with.append(None)


async def test_a_call_with_a_ticket_gives_it_back() -> None:
    quotas = Quotas("ticket")
    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, services={"quotas": quotas}) as proxy,
        client(proxy.port) as peer,
    ):
        priority = ("x-engineroom-priority", "high")
        assert (await call(peer, body=framed(b"\x0a\x03llm"), fields=[*CALL, priority]))["grpc-status"] == "0"
        head = next(dict(e.headers) for e in peer.seen if isinstance(e, ResponseReceived))
        record = await proxy.record()
    (ask,) = quotas.asked
    assert (ask.id, ask.model, ask.path) == (record.id, "llm", "/inference.GRPCInferenceService/ModelInfer")
    assert ask.priority == "high"
    assert (head["x-quota-left"], head["x-quota-warning"]) == ("7", "rule=r; of=8: soon")
    assert quotas.done_with == [Usage()]


async def test_a_ticket_of_a_call_that_found_no_engine_is_withdrawn() -> None:
    quotas = Quotas("ticket")
    async with grpc_sidecar("http://127.0.0.1:9", services={"quotas": quotas}) as proxy, client(proxy.port) as peer:
        assert (await call(peer))["grpc-status"] == "14"
    assert quotas.done_with == [None]


async def test_a_call_that_waits_for_room() -> None:
    quotas = Quotas(None, "ticket")
    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, services={"quotas": quotas}) as proxy,
        client(proxy.port) as peer,
    ):
        peer.http2.send_headers(1, CALL)
        await peer.send_data(1, framed(b"\x0a\x03llm"), end=True)
        await until(lambda: bool(quotas.asked))
        assert server.connections == 0
        quotas.free.set()
        assert (await ended(peer, 1))["grpc-status"] == "0"
        record = await proxy.record()
    assert record.queued_ns is not None
    assert record.queued_ns > 0


async def test_a_call_without_room_is_refused_and_one_that_left_gives_nothing_back() -> None:
    quotas = Quotas(Refusal(429, "tokens", "too many tokens", 2.0))
    async with engine(answer_all) as server, grpc_sidecar(server.url, services={"quotas": quotas}) as proxy:
        async with client(proxy.port) as peer:
            assert (await call(peer))["grpc-status"] == "8"
            quotas.first = None
            peer.http2.send_headers(3, CALL)
            await peer.send_data(3, framed(b"\x0a\x03llm"), end=True)
            await until(lambda: len(quotas.asked) == 2)
            peer.http2.reset_stream(3, ErrorCodes.CANCEL)
            await peer.flush()
            await until(lambda: len(proxy.records) == 2)
        assert server.connections == 0
    assert [record.outcome for record in proxy.records] == ["rejected", "client_abort"]
    assert quotas.done_with == []
