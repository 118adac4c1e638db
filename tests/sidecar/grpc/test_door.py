"""gRPC and HTTP/1.1 at the same port of the real sidecar: who comes in by which way, and how the ways close."""

import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import anyio
import grpc
import pytest
import tritonclient.grpc.aio as async_tritonclient
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from agent.core.ports import ConfigError
from agent.sidecar.grpc.door import PREFACE, GrpcDoor
from tests.support.http2 import client
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.triton import echo, in_thread, streamed, text_input, token, triton
from tests.support.upstream import WAIT_SECONDS, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","messages":[]}'


async def value(proxy: Proxy, name: str) -> float:
    """A number of /metrics without labels."""
    url = f"http://127.0.0.1:{proxy.admin_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        families = text_string_to_metric_families(await response.text())
    return next(sample.value for each in families for sample in each.samples if sample.name == name)


async def test_both_ways_at_once_and_what_is_counted() -> None:
    """A stream of tokens is open while requests in HTTP/1.1 and calls come to the same port."""
    go_on = threading.Event()

    def stream(_requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield token("llm", "a", final=False)
        go_on.wait(WAIT_SECONDS)
        yield token("llm", "b", final=True)

    with triton(stream=stream) as engine:
        async with upstream(repeat(whole(b"{}"))) as other, sidecar(other.url, grpc={"upstream": engine.url}) as proxy:
            assert await value(proxy, "engineroom_sidecar_connections") == 0
            address = f"127.0.0.1:{proxy.port}"
            async with async_tritonclient.InferenceServerClient(address) as triton_client:

                async def requests() -> Any:
                    yield {"model_name": "llm", "inputs": [text_input("hi")]}

                answers = triton_client.stream_infer(requests())
                first, error = await anext(answers)
                assert error is None
                async with connect(proxy.port) as http:
                    for _ in range(3):
                        await http.send(post(CHAT))
                        assert (await http.answer()).status == 200
                    made = await triton_client.infer("m", [text_input("x")])
                    assert await value(proxy, "engineroom_sidecar_connections") == 2
                    assert await value(proxy, "engineroom_sidecar_client_connections") == 2
                    assert await value(proxy, "engineroom_sidecar_requests_in_flight") == 1
                go_on.set()
                second, error = await anext(answers)
                assert error is None
                assert [more async for more in answers] == []
                del answers  # it holds the connection
            await until(lambda: len(records(proxy)) == 5)
            await until(lambda: proxy.listener.crowd.connections == 0)
            assert await value(proxy, "engineroom_sidecar_connections") == 0
            assert await value(proxy, "engineroom_sidecar_client_connections") == 0
    assert [each.as_numpy("text_output")[0] for each in (first, second)] == [b"a", b"b"]
    assert made.as_numpy("text_input")[0] == b"x"
    seen = {(each.model, each.outcome, each.grpc_status, each.status) for each in records(proxy)}
    assert seen == {("tiny", "ok", None, 200), ("m", "ok", 0, 200), ("llm", "ok", 0, 200)}
    (tokens,) = (each for each in records(proxy) if each.model == "llm")
    assert (tokens.usage.output_tokens, tokens.request_messages, tokens.response_messages) == (2, 1, 2)


async def test_a_stream_and_an_error_as_the_receiver_gets_them() -> None:
    def infer(_request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.INTERNAL, "out of memory")

    with triton(infer) as engine:
        async with sidecar("http://127.0.0.1:9", grpc={"upstream": engine.url}) as proxy:
            address = f"127.0.0.1:{proxy.port}"
            found = await in_thread(address, lambda client: streamed(client, "llm", 4))
            with pytest.raises(InferenceServerException, match="out of memory"):
                await in_thread(address, lambda client: client.infer("m", [text_input("x")]))
            await until(lambda: len(records(proxy)) == 2)
    assert [bool(result.get_response().outputs) for result in found] == [True] * 3 + [False]
    by_model = {each.model: each for each in records(proxy)}
    stream, failed = by_model["llm"], by_model["m"]
    assert (stream.outcome, stream.grpc_status, stream.response_messages) == ("ok", 0, 4)
    assert (stream.usage.output_tokens, stream.usage.source, stream.streamed) == (3, "counted", True)
    assert stream.first_token_at_ns is not None
    assert (failed.outcome, failed.grpc_status, failed.error) == ("error", 13, "out of memory")
    assert {each.upstream for each in (stream, failed)} == {f"127.0.0.1:{engine.port}"}


async def test_a_cancelled_stream_is_an_abort_with_its_tokens() -> None:
    begun = threading.Event()

    def stream(_requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield token("llm", "t", final=False)
        begun.set()
        while context.is_active():
            threading.Event().wait(0.01)

    def talk(client: Any) -> None:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("llm", [text_input("hi")])
        begun.wait(WAIT_SECONDS)
        client.stop_stream(cancel_requests=True)

    with triton(stream=stream) as engine:
        async with sidecar(engine.url) as proxy:  # without an address of its own, gRPC goes to the engine as well
            await in_thread(f"127.0.0.1:{proxy.port}", talk)
            seen = await record(proxy)
            assert engine.cancelled.wait(WAIT_SECONDS)
    assert (seen.outcome, seen.grpc_status, seen.usage.output_tokens) == ("client_abort", 1, 1)


async def test_a_door_that_drains_lets_nobody_begin() -> None:
    with triton() as engine:
        async with sidecar(engine.url) as proxy:
            proxy.listener.grpc.drain()
            async with client(proxy.port) as peer:
                last = await peer.until(ConnectionTerminated)
                assert (last.error_code, last.last_stream_id) == (ErrorCodes.NO_ERROR, 0)
                await peer.closed()
            await until(lambda: proxy.listener.crowd.connections == 0)


async def test_what_is_not_finished_by_the_deadline_is_told_so() -> None:
    begun, free = threading.Event(), threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        begun.set()
        free.wait(WAIT_SECONDS)
        return echo(request, context)

    with triton(infer) as engine:
        async with anyio.create_task_group() as group, sidecar(engine.url, drain_seconds=0.1) as proxy:
            address = f"127.0.0.1:{proxy.port}"

            async def ask() -> None:
                with pytest.raises(InferenceServerException, match=r"drain_seconds \(0\.1 s\)") as caught:
                    await in_thread(address, lambda client: client.infer("m", [text_input("x")]))
                assert caught.value.status() == "StatusCode.UNAVAILABLE"

            group.start_soon(ask)
            await until(begun.is_set)
        free.set()
    seen = records(proxy)
    assert [(each.outcome, each.grpc_status) for each in seen] == [("error", 14)]


def test_nothing_is_loaded_before_somebody_comes() -> None:
    made = []
    door = GrpcDoor(lambda: made.append(1))  # type: ignore[arg-type,return-value]
    door.sweep()
    door.drain()
    door.shut_down("the end")
    door.cut_all()
    door.close()
    assert (door.connections, door.active, door.error, made) == (0, 0, "", [])
    assert PREFACE == b"PRI * HTTP/2.0\r\n"


async def test_settings_that_cannot_be_used_close_the_connection_and_are_told() -> None:
    async with sidecar("http://127.0.0.1:9", dial={"tls": {}}, grpc={"upstream": "https://engine"}) as proxy:
        fault = ConfigError("sidecar.dial.tls.ca_file", "a file that can be read")

        def make() -> Any:
            raise fault

        proxy.listener.grpc = GrpcDoor(make)
        for _ in range(2):
            async with client(proxy.port) as peer:
                await peer.wire.until_closed()
        await until(lambda: proxy.listener.crowd.connections == 0)
        assert proxy.listener.grpc.error == str(fault)
        url = f"http://127.0.0.1:{proxy.admin_port}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert "sidecar.dial.tls.ca_file" in await response.text()
