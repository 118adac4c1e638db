"""gRPC through the sidecar as a process: told to stop, and killed."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as async_tritonclient

from agent.core.requests import RequestEnded, RequestRecord, RequestStarted
from tests.support.agent import free_port
from tests.support.sidecar import Receiver, receiver, sidecar_process
from tests.support.triton import text_input, token, triton
from tests.support.upstream import WAIT_SECONDS, until


def ended(agent: Receiver) -> list[RequestRecord]:
    return [event.record for event in agent.accepted if isinstance(event, RequestEnded)]


def told_to_wait(go_on: threading.Event) -> Any:
    """A stream of one token, and one more when it is told."""

    def stream(_requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield token("llm", "a", final=False)
        go_on.wait(WAIT_SECONDS)
        yield token("llm", "b", final=True)

    return stream


async def requests() -> Any:
    """What a client asks in a stream."""
    yield {"model_name": "llm", "inputs": [text_input("hi")]}


async def test_a_stream_in_flight_ends_well_after_sigterm() -> None:
    go_on, port = threading.Event(), free_port()
    with triton(stream=told_to_wait(go_on)) as engine:
        async with (
            receiver() as agent,
            sidecar_process(
                listen=f"127.0.0.1:{port}",
                admin_listen="127.0.0.1:0",
                grpc__upstream=engine.url,
                agent_url=agent.url,
                drain_seconds=60,
            ) as process,
        ):
            await process.until_it_says("sidecar_listening")
            async with (
                async_tritonclient.InferenceServerClient(f"127.0.0.1:{port}") as client,
                async_tritonclient.InferenceServerClient(f"127.0.0.1:{port}") as idle,
            ):
                assert await idle.is_server_live()  # its connection must not hold up the end
                answers = client.stream_infer(requests())
                assert (await anext(answers))[1] is None
                process.process.send_signal(signal.SIGTERM)
                await until(lambda: _refused(port))
                go_on.set()
                assert [error async for _, error in answers] == [None]
                assert await process.ended() == 0
                del answers
    (seen,) = ended(agent)
    assert (seen.outcome, seen.grpc_status, seen.model, seen.usage.output_tokens) == ("ok", 0, "llm", 2)
    assert "record_events_lost" not in process.said
    assert "requests_cut" not in process.said


def _refused(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) != 0


async def test_calls_that_a_kill_cut_short_are_told_as_lost(tmp_path: Path) -> None:
    go_on, port = threading.Event(), free_port()
    with triton(stream=told_to_wait(go_on)) as engine:
        async with receiver() as agent:
            settings = {
                "listen": f"127.0.0.1:{port}",
                "admin_listen": "127.0.0.1:0",
                "grpc__upstream": engine.url,
                "agent_url": agent.url,
                "ship_interval_seconds": 0.05,
                "spool_dir": tmp_path,
            }
            async with sidecar_process(**settings) as process:
                await process.until_it_says("sidecar_listening")
                async with async_tritonclient.InferenceServerClient(f"127.0.0.1:{port}") as client:
                    whole = await client.infer("m", [text_input("x")])
                    answers = client.stream_infer(requests())
                    assert (await anext(answers))[1] is None
                    await until(lambda: any(isinstance(event, RequestStarted) for event in agent.accepted))
                    process.process.kill()
                    await process.process.wait()
                    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                        await anext(answers)
                    go_on.set()
            async with sidecar_process(**settings) as process:
                await until(lambda: len(ended(agent)) == 2)
    assert whole.get_response().model_name == "m"
    by_model = {each.model: each for each in ended(agent)}
    assert by_model["m"].outcome == "ok"
    lost = by_model["llm"]
    assert (lost.outcome, lost.upstream, lost.path) == (
        "lost_record",
        f"127.0.0.1:{engine.port}",
        "/inference.GRPCInferenceService/ModelStreamInfer",
    )
