"""Unmodified tritonclient through the sidecar's gRPC to a scripted Triton on grpcio."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import grpc
import numpy as np
import pytest
import tritonclient.grpc as tritonclient
import tritonclient.grpc.aio as async_tritonclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from agent.core.requests import RequestProgressed, RequestStarted, Usage
from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.triton import array_input, decoupled, echo, in_thread, mii_messages, text_input, token, triton
from tests.support.upstream import WAIT_SECONDS, until

INFER = "/inference.GRPCInferenceService/ModelInfer"


async def test_a_call_that_is_made_again_is_told_as_such() -> None:
    limit = tritonclient.InferInput("max_tokens", [1], "INT32")
    limit.set_data_from_numpy(np.array([9], np.int32))
    asked = [text_input("word" * 8), limit]
    with triton() as engine:
        async with grpc_sidecar(engine.url) as proxy:
            headers = {"x-envoy-attempt-count": "3"}
            await in_thread(proxy.address, lambda client: client.infer("m", asked, headers=headers))
            record = await proxy.record()
    assert (record.attempt, record.max_output_tokens, record.input_tokens_estimate) == (2, 9, 9)


async def test_a_unary_call_passes_and_is_recorded() -> None:
    with triton() as engine:
        async with grpc_sidecar(engine.url) as proxy:
            answer = await in_thread(
                proxy.address, lambda client: client.infer("m", [text_input("hé")], request_id="7")
            )
            record = await proxy.record()
    assert answer.as_numpy("text_input")[0].decode() == "hé"
    assert answer.get_response().id == "7"
    assert (record.path, record.model, record.outcome, record.status) == (INFER, "m", "ok", 200)
    assert (record.grpc_status, record.request_messages, record.response_messages) == (0, 1, 1)
    assert record.response_bytes == answer.get_response().ByteSize() + 5
    assert record.request_bytes > 5
    assert record.upstream == f"127.0.0.1:{engine.port}"
    assert record.headers_at_ns is not None
    assert record.started_at_ns <= record.headers_at_ns <= record.ended_at_ns
    assert (record.streamed, record.first_token_at_ns, record.error) == (False, None, None)


async def test_metadata_passes_both_ways_with_ids() -> None:
    blob = bytes(range(256))

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata((("x-first", "1"), ("x-blob-bin", blob)))
        context.set_trailing_metadata((("x-last", "2"), ("x-tail-bin", blob[::-1])))
        return echo(request, context)

    with triton(infer) as engine:
        async with grpc_sidecar(engine.url) as proxy:

            def talk() -> tuple[dict[str, Any], dict[str, Any]]:
                with grpc.insecure_channel(proxy.address) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    sent = (
                        ("x-a", "1"),
                        ("x-a", "2"),
                        ("x-b-bin", blob),
                        ("traceparent", TRACE),
                        ("x-request-id", "r"),
                    )
                    _, call = stub.ModelInfer.with_call(service_pb2.ModelInferRequest(model_name="m"), metadata=sent)
                    return dict(call.initial_metadata()), dict(call.trailing_metadata())

            first, last = await anyio.to_thread.run_sync(talk)
            record = await proxy.record()
    seen = engine.metadata[0]
    assert (seen["x-b-bin"], seen["traceparent"], seen["x-request-id"]) == (blob, TRACE, "r")
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert (first["x-first"], first["x-blob-bin"], first["x-engineroom-request-id"]) == ("1", blob, record.id)
    assert (last["x-last"], last["x-tail-bin"]) == ("2", blob[::-1])
    assert record.trace_id == TRACE[3:35]


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_ids_are_made_for_calls_without() -> None:
    with triton() as engine:
        async with grpc_sidecar(engine.url) as proxy:
            await in_thread(proxy.address, lambda client: client.infer("m", [text_input("x")]))
            record = await proxy.record()
    assert engine.metadata[0]["x-request-id"] == record.id
    assert str(engine.metadata[0]["traceparent"])[3:35] == record.trace_id


async def test_probes_pass_and_are_not_recorded() -> None:
    with triton() as engine:
        async with grpc_sidecar(engine.url) as proxy:
            assert await in_thread(proxy.address, lambda client: client.is_server_live())
            assert proxy.forwarder.tally.forwarded == 1
            assert proxy.events == []


async def test_a_stream_of_tokens() -> None:
    gate = threading.Event()

    def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for index, answer in enumerate(decoupled(4)(requests, context)):
            if index == 1:
                gate.wait(WAIT_SECONDS)
            yield answer

    got: queue.Queue[Any] = queue.Queue()

    def talk(client: tritonclient.InferenceServerClient) -> list[Any]:
        client.start_stream(lambda result, error: got.put((result, error)))
        client.async_stream_infer("llm", [text_input("hi")], request_id="9", enable_empty_final_response=True)
        found = [got.get(timeout=WAIT_SECONDS)]
        gate.set()  # the first token has come while the engine still waits: nothing is held back
        found += [got.get(timeout=WAIT_SECONDS) for _ in range(4)]
        client.stop_stream()
        return found

    with triton(stream=stream) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            found = await in_thread(proxy.address, talk)
            record = await proxy.record()
    assert all(error is None for _, error in found)
    assert [bool(result.get_response().outputs) for result, _ in found] == [True] * 4 + [False]
    assert (record.model, record.outcome, record.streamed) == ("llm", "ok", True)
    assert record.usage == Usage(output_tokens=4, source="counted")
    assert (record.request_messages, record.response_messages) == (1, 5)
    assert record.headers_at_ns is not None
    assert record.first_token_at_ns is not None
    assert record.headers_at_ns <= record.first_token_at_ns < record.ended_at_ns


async def test_a_long_stream_tells_its_start_and_its_progress() -> None:
    gate = threading.Event()

    def stream(_requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        for _ in range(3):
            yield token("llm", "t", final=False)
        gate.wait(WAIT_SECONDS)
        yield token("llm", "t", final=True)

    with triton(stream=stream) as engine:
        async with grpc_sidecar(engine.url) as proxy, async_tritonclient.InferenceServerClient(proxy.address) as client:

            async def requests() -> Any:
                yield {"model_name": "llm", "inputs": [text_input("hi")]}

            answers = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                answers.append(result)
                if len(answers) == 3:
                    await until(lambda: any(isinstance(event, RequestProgressed) for event in proxy.events))
                    gate.set()
            record = await proxy.record()
    first, second, last = proxy.events
    assert isinstance(first, RequestStarted)
    assert (first.id, first.model) == (record.id, "llm")
    assert isinstance(second, RequestProgressed)
    assert (second.id, second.output_tokens) == (record.id, 3)
    assert record.usage.output_tokens == 4
    assert last.sequence == 3


async def test_an_error_of_the_engine_passes() -> None:
    def infer(_request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.INTERNAL, "CUDA: out of memory, 100 % · gone")

    with triton(infer) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            with pytest.raises(InferenceServerException, match="out of memory, 100 % · gone") as caught:
                await in_thread(proxy.address, lambda client: client.infer("m", [text_input("x")]))
            record = await proxy.record()
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert (record.outcome, record.grpc_status) == ("error", 13)
    assert record.error == "CUDA: out of memory, 100 % · gone"


async def test_an_error_inside_a_stream_is_an_error() -> None:
    def stream(_requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield service_pb2.ModelStreamInferResponse(error_message="no model of that name")

    def talk(client: tritonclient.InferenceServerClient) -> Any:
        got: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: got.put((result, error)))
        client.async_stream_infer("none", [text_input("hi")])
        answer = got.get(timeout=WAIT_SECONDS)
        client.stop_stream()
        return answer

    with triton(stream=stream) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            result, error = await in_thread(proxy.address, talk)
            record = await proxy.record()
    assert result is None
    assert "no model of that name" in str(error)
    assert (record.outcome, record.error, record.grpc_status) == ("error", "no model of that name", 0)


async def test_a_client_that_cancels_frees_the_engine_at_once() -> None:
    begun = threading.Event()

    def stream(_requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield token("llm", "t", final=False)
        begun.set()
        while context.is_active():
            threading.Event().wait(0.01)

    def talk(client: tritonclient.InferenceServerClient) -> None:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("llm", [text_input("hi")])
        begun.wait(WAIT_SECONDS)
        client.stop_stream(cancel_requests=True)

    with triton(stream=stream) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            await in_thread(proxy.address, talk)
            record = await proxy.record()
            assert engine.cancelled.wait(WAIT_SECONDS)
    assert (record.outcome, record.grpc_status, record.usage.output_tokens) == ("client_abort", 1, 1)


async def test_a_client_that_goes_away_is_an_abort() -> None:
    begun = threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        begun.set()
        while context.is_active():
            threading.Event().wait(0.01)
        return echo(request, context)

    with triton(infer) as engine:
        async with grpc_sidecar(engine.url) as proxy:

            def talk(client: tritonclient.InferenceServerClient) -> None:
                client.async_infer("m", [text_input("x")], lambda result, error: None)
                begun.wait(WAIT_SECONDS)

            await in_thread(proxy.address, talk)  # which closes its channel
            record = await proxy.record()
            assert engine.cancelled.wait(WAIT_SECONDS)
    assert record.outcome == "client_abort"


async def test_the_clients_deadline_is_a_timeout() -> None:
    free = threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append(context.time_remaining())
        free.wait(WAIT_SECONDS)
        return echo(request, context)

    seen: list[float] = []
    with triton(infer) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            with pytest.raises(InferenceServerException, match=r"DEADLINE|Deadline"):
                await in_thread(proxy.address, lambda client: client.infer("m", [text_input("x")], client_timeout=0.3))
            record = await proxy.record()
            free.set()
    assert 0 < seen[0] <= 0.3
    assert (record.outcome, record.grpc_status) == ("timeout", 4)


async def test_an_engine_that_hangs_meets_our_deadline() -> None:
    free = threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        free.wait(WAIT_SECONDS)
        return echo(request, context)

    with triton(infer) as engine:
        async with grpc_sidecar(engine.url, request_timeout_seconds=0.2) as proxy:
            with pytest.raises(InferenceServerException, match="request_timeout_seconds") as caught:
                await in_thread(proxy.address, lambda client: client.infer("m", [text_input("x")]))
            record = await proxy.record()
            assert engine.cancelled.wait(WAIT_SECONDS)
            free.set()
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert (record.outcome, record.grpc_status) == ("timeout", 4)


async def test_a_stream_that_hangs_after_its_first_token_meets_our_deadline() -> None:
    free = threading.Event()

    def stream(_requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield token("llm", "t", final=False)
        free.wait(WAIT_SECONDS)

    def talk(client: tritonclient.InferenceServerClient) -> Any:
        got: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: got.put(error))
        client.async_stream_infer("llm", [text_input("hi")])
        assert got.get(timeout=WAIT_SECONDS) is None
        return got.get(timeout=WAIT_SECONDS)

    with triton(stream=stream) as engine:
        async with grpc_sidecar(engine.url, request_timeout_seconds=0.3) as proxy:
            error = await in_thread(proxy.address, talk)
            record = await proxy.record()
            free.set()
    assert "request_timeout_seconds" in str(error)
    assert (record.outcome, record.usage.output_tokens) == ("timeout", 1)


async def test_a_stream_kept_open_without_a_question_has_a_longer_limit() -> None:
    with triton() as engine:
        idle = {"stream_idle_seconds": 0.6}
        async with grpc_sidecar(engine.url, settings=idle, request_timeout_seconds=0.2) as proxy:

            def talk(client: tritonclient.InferenceServerClient) -> Any:
                got: queue.Queue[Any] = queue.Queue()
                client.start_stream(lambda result, error: got.put(error))
                client.async_stream_infer("llm", [text_input("hi")], enable_empty_final_response=True)
                for _ in range(4):
                    assert got.get(timeout=WAIT_SECONDS) is None
                return got.get(timeout=WAIT_SECONDS)

            error = await in_thread(proxy.address, talk)
            record = await proxy.record()
    assert "stream_idle_seconds" in str(error)
    assert record.ended_at_ns - record.started_at_ns > 600_000_000


async def test_large_tensors() -> None:
    array = np.random.default_rng(1).random((1, 16 * 2**20), dtype=np.float32)  # 64 MiB
    with triton() as engine:
        async with grpc_sidecar(engine.url) as proxy:
            answer = await in_thread(
                proxy.address, lambda client: client.infer("big", [array_input(array)], client_timeout=60)
            )
            record = await proxy.record()
    assert np.array_equal(answer.as_numpy("data"), array)
    assert record.request_bytes > array.nbytes
    assert record.response_bytes > array.nbytes


async def test_compressed_messages_pass_and_are_counted() -> None:
    with triton(compression=grpc.Compression.Gzip) as engine:
        async with grpc_sidecar(engine.url) as proxy:
            text = "x" * 5000
            answer = await in_thread(
                proxy.address, lambda client: client.infer("m", [text_input(text)], compression_algorithm="gzip")
            )
            record = await proxy.record()
    assert answer.as_numpy("text_input")[0].decode() == text
    assert (record.request_messages, record.response_messages, record.model) == (1, 1, None)
    assert record.request_bytes < 1000


async def test_a_hundred_calls_at_once() -> None:
    with triton(workers=32) as engine:
        async with grpc_sidecar(engine.url) as proxy, async_tritonclient.InferenceServerClient(proxy.address) as client:
            answers: dict[int, str] = {}

            async def one(number: int) -> None:
                answer = await client.infer("m", [text_input(f"text {number}")])
                answers[number] = answer.as_numpy("text_input")[0].decode()

            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(one, number)
            await until(lambda: len(proxy.records) == 100)
            assert not proxy.forwarder.active
            assert all(not link.http2.streams for link in proxy.forwarder.connections)
    assert answers == {number: f"text {number}" for number in range(100)}
    assert {record.outcome for record in proxy.records} == {"ok"}
    assert len({record.id for record in proxy.records}) == 100


async def test_more_calls_than_the_engine_takes_on_one_connection() -> None:
    free = threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        free.wait(WAIT_SECONDS)
        return echo(request, context)

    with triton(infer, workers=32, options=[("grpc.max_concurrent_streams", 4)]) as engine:
        async with grpc_sidecar(engine.url) as proxy, async_tritonclient.InferenceServerClient(proxy.address) as client:
            await client.is_server_live()  # the engine has said how many it takes
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(client.infer, "m", [text_input("x")])
                await until(lambda: len(engine.metadata) == 12)
                assert proxy.forwarder.pool.size >= 3
                free.set()
            await until(lambda: len(proxy.records) == 12)
    assert {record.outcome for record in proxy.records} == {"ok"}


async def test_an_engine_that_is_not_there() -> None:
    async with grpc_sidecar("http://127.0.0.1:9") as proxy:
        with pytest.raises(InferenceServerException, match=r"no connection to 127\.0\.0\.1:9: ") as caught:
            await in_thread(proxy.address, lambda client: client.infer("m", [text_input("x")]))
        record = await proxy.record()
        assert proxy.forwarder.upstream_error
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert (record.outcome, record.grpc_status) == ("error", 14)


async def test_an_engine_that_leaves_in_order_loses_no_call() -> None:
    """`stop(grace)` sends GOAWAY: the call under way ends well, the next one finds another connection."""
    begun, free = threading.Event(), threading.Event()

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        begun.set()
        free.wait(WAIT_SECONDS)
        return echo(request, context)

    with triton(infer) as engine:
        async with grpc_sidecar(engine.url) as proxy, async_tritonclient.InferenceServerClient(proxy.address) as client:
            answers = []

            async def one() -> None:
                answers.append(await client.infer("m", [text_input("x")]))

            async with anyio.create_task_group() as group:
                group.start_soon(one)
                await until(begun.is_set)
                stopped = engine.server.stop(WAIT_SECONDS)
                await until(lambda: all(link.room == 0 for link in proxy.forwarder.pool.links))
                free.set()
            assert len(answers) == 1
            await anyio.to_thread.run_sync(stopped.wait)
            await until(lambda: proxy.forwarder.pool.size == 0)
            with triton(port=engine.port):
                await client.infer("m", [text_input("again")])
            await until(lambda: len(proxy.records) == 2)
    assert {record.outcome for record in proxy.records} == {"ok"}


async def test_a_service_that_nobody_here_knows() -> None:
    """DeepSpeed-MII's service, spoken in bytes."""
    request_type, reply_type = mii_messages()

    def reply(request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        assert request_type.FromString(request).request == ["hello"]
        for count in (1, 2, 3):
            answer = reply_type()
            answer.response.add(response="w", finish_reason="none", prompt_tokens=4, generated_tokens=count)
            yield answer.SerializeToString()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            assert details.method == "/modelresponse.ModelResponse/GeneratorReplyStream"
            return grpc.unary_stream_rpc_method_handler(reply)

    with triton() as engine:
        engine.server.add_generic_rpc_handlers((Handler(),))
        async with grpc_sidecar(engine.url) as proxy:

            def talk() -> list[bytes]:
                with grpc.insecure_channel(proxy.address) as channel:
                    call = channel.unary_stream("/modelresponse.ModelResponse/GeneratorReplyStream")
                    return list(call(request_type(request=["hello"]).SerializeToString()))

            answers = await anyio.to_thread.run_sync(talk)
            record = await proxy.record()
    assert [reply_type.FromString(answer).response[0].generated_tokens for answer in answers] == [1, 2, 3]
    assert record.usage == Usage(input_tokens=4, output_tokens=3, source="reported")
    assert (record.outcome, record.streamed, record.response_messages) == ("ok", True, 3)
