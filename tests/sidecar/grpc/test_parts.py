"""The sidecar's own parts behind gRPC, in the real sidecar: tenants, quotas, limits, TLS, sockets."""

import threading
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
import tritonclient.grpc.aio as async_tritonclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from agent.core.ports import ConfigError
from agent.sidecar.grpc.door import GrpcDoor
from agent.sidecar.grpc.parts import make_grpc
from tests.support.credentials import make_ca
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.tenancy import KEY, keys_file
from tests.support.triton import echo, in_thread, streamed, text_input, triton
from tests.support.upstream import WAIT_SECONDS, until

INFER = "/inference.GRPCInferenceService/ModelInfer"


def at(proxy: Proxy) -> str:
    return f"127.0.0.1:{proxy.port}"


def asks(text: str = "x", **how: Any) -> Any:
    """What a client says."""
    return lambda client: client.infer("m", [text_input(text)], **how)


def metadata_of(address: str, sent: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """The initial metadata of an answer."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, call = stub.ModelInfer.with_call(service_pb2.ModelInferRequest(model_name="m"), metadata=sent)
        return dict(call.initial_metadata())


# tenants


async def test_the_tenant_of_a_key_and_what_the_engine_gets_of_it(tmp_path: Path) -> None:
    with triton() as engine:
        tenancy = {"keys_file": keys_file(tmp_path), "without_tenant": "refuse"}
        async with sidecar(engine.url, tenancy=tenancy) as proxy:
            await in_thread(at(proxy), asks(headers={"authorization": f"Bearer {KEY}"}))
            seen = await record(proxy)
    assert (seen.tenant, seen.tenant_source, seen.outcome) == ("acme", "key", "ok")
    assert KEY not in str(engine.metadata[0])


@pytest.mark.parametrize("headers", [None, {"authorization": "Bearer sk-nobody-0123456789abcdef"}])
async def test_who_has_no_key_is_not_let_in(tmp_path: Path, headers: dict[str, str] | None) -> None:
    with triton() as engine:
        tenancy = {"keys_file": keys_file(tmp_path), "without_tenant": "refuse"}
        async with sidecar(engine.url, tenancy=tenancy) as proxy:
            with pytest.raises(InferenceServerException) as caught:
                await in_thread(at(proxy), asks(headers=headers))
            with pytest.raises(InferenceServerException) as listing:
                await in_thread(at(proxy), lambda client: client.is_server_live(headers=headers))
            seen = await record(proxy)  # probes are refused as well, and not recorded
    assert {caught.value.status(), listing.value.status()} == {"StatusCode.UNAUTHENTICATED"}
    assert (seen.outcome, seen.grpc_status, seen.tenant) == ("rejected", 16, None)
    assert engine.metadata == []


async def test_a_tenant_named_by_a_trusted_hop() -> None:
    with triton() as engine:
        async with sidecar(engine.url) as proxy:
            await in_thread(at(proxy), asks(headers={"x-engineroom-tenant": "team"}))
            seen = await record(proxy)
    assert (seen.tenant, seen.tenant_source) == ("team", "header")


# quotas


def blocking(**limits: Any) -> dict[str, Any]:
    return {"rules": [{"name": "r", "mode": "block", **limits}], "patience_seconds": 0}


async def test_a_quota_that_is_used_up() -> None:
    with triton() as engine:
        async with sidecar(engine.url, quotas=blocking(requests_per_minute=2)) as proxy:
            told = await anyio.to_thread.run_sync(metadata_of, at(proxy))
            streams = await in_thread(at(proxy), lambda client: streamed(client, "llm", 4))
            with pytest.raises(InferenceServerException, match=r"2 of 2 requests per minute \(rule r\)") as caught:
                await in_thread(at(proxy), asks())
            (error,) = await in_thread(at(proxy), lambda client: streamed(client, "llm", 1))
            await until(lambda: len(records(proxy)) == 4)
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert [type(one).__name__ for one in streams] == ["InferResult"] * 4
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert "rule r" in str(error)
    outcomes = [(each.outcome, each.grpc_status) for each in records(proxy)]
    assert sorted(outcomes) == [("ok", 0), ("ok", 0), ("rejected", 8), ("rejected", 8)]
    assert len(engine.metadata) == 2


async def test_tokens_are_reserved_from_the_prompt_and_given_back() -> None:
    with triton() as engine:
        quotas = blocking(tokens_per_minute=1000, default_output_tokens=100)
        async with sidecar(engine.url, quotas=quotas) as proxy:
            with pytest.raises(InferenceServerException, match="may take 11") as caught:
                await in_thread(at(proxy), asks("word" * 1000))
            for _ in range(3):
                await in_thread(at(proxy), asks("word" * 100))  # each 100 and 100 output tokens that do not come
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


async def test_a_warning_goes_with_the_answer() -> None:
    with triton() as engine:
        quotas = {"rules": [{"name": "soft", "mode": "warn", "requests_per_minute": 1}]}
        async with sidecar(engine.url, quotas=quotas) as proxy:
            first, second = [await anyio.to_thread.run_sync(metadata_of, at(proxy)) for _ in range(2)]
    assert "x-engineroom-quota-warning" not in first
    assert second["x-engineroom-quota-warning"] == "rule=soft; limit=requests; used=1; of=1"


async def test_who_names_the_better_class_goes_first() -> None:
    """One call at a time; of two that wait the one of class `high` is let in first, though it came last."""
    free = [threading.Event() for _ in range(3)]
    order: list[str] = []

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        order.append(request.id)
        free[len(order) - 1].wait(WAIT_SECONDS)
        return echo(request, context)

    with triton(infer) as engine:
        queue = {"deadline_seconds": 30, "classes": ("high", "low")}
        async with (
            sidecar(engine.url, quotas=blocking(concurrent_requests=1, queue=queue)) as proxy,
            async_tritonclient.InferenceServerClient(at(proxy)) as client,
            anyio.create_task_group() as group,
        ):

            async def ask(name: str, priority: str) -> None:
                headers = {"x-engineroom-priority": priority}
                await client.infer("m", [text_input("x")], request_id=name, headers=headers)

            room = proxy.forwarder.quotas.room
            group.start_soon(ask, "first", "low")
            await until(lambda: order == ["first"])
            group.start_soon(ask, "second", "low")
            await until(lambda: len(room) == 1)
            group.start_soon(ask, "third", "high")
            await until(lambda: len(room) == 2)
            for each in free:
                each.set()
            await until(lambda: len(records(proxy)) == 3)
    assert order == ["first", "third", "second"]
    waited = {each.queued_ns is not None and each.queued_ns > 0 for each in records(proxy)[1:]}
    assert waited == {True}
    assert records(proxy)[0].queued_ns is None


async def test_rules_that_come_later_hold_too() -> None:
    """The agent may name its first rule after the first client of gRPC has come."""
    with triton() as engine:
        async with sidecar(engine.url) as proxy:
            await in_thread(at(proxy), asks())
            rules = proxy.forwarder.settings.quotas.model_validate(blocking(requests_per_minute=1)).to_policy()
            proxy.forwarder.quotas.book.install(rules, from_agent=True)
            await in_thread(at(proxy), asks())
            with pytest.raises(InferenceServerException, match="rule r"):
                await in_thread(at(proxy), asks())


async def test_an_address_that_calls_too_often() -> None:
    with triton() as engine:
        async with sidecar(engine.url, limits={"requests_per_second": 0.01, "burst": 2}) as proxy:
            crowd = proxy.listener.crowd
            proxy.listener.grpc = GrpcDoor(lambda: make_grpc(proxy.forwarder, crowd))
            for _ in range(2):
                await in_thread(at(proxy), asks())
            with pytest.raises(InferenceServerException, match="requests_per_second") as caught:
                await in_thread(at(proxy), asks())
            await until(lambda: len(records(proxy)) == 2)
            assert crowd.refused["rate"] == 1
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert len(engine.metadata) == 2


# the ways in and out


async def test_tls_on_both_sides(tmp_path: Path) -> None:
    """ALPN chooses h2 for gRPC at the same address where HTTP/1.1 is served; the engine is behind TLS of its own."""
    ca = make_ca()
    certificate, key = ca.issue().write(tmp_path, "sidecar")
    engines = ca.issue()
    credentials = grpc.ssl_server_credentials([(engines.key, engines.certificate)])
    with triton(credentials=credentials) as engine:
        async with sidecar(
            engine.url,
            tls={"certificate_file": certificate, "key_file": key},
            dial={"tls": {"ca_file": ca.write(tmp_path)}},
        ) as proxy:
            how = {"ssl": True, "root_certificates": str(tmp_path / "ca.crt")}
            address = f"localhost:{proxy.port}"
            answer = await in_thread(address, asks("hé"), **how)
            tokens = await in_thread(address, lambda client: streamed(client, "llm", 4), **how)
            await until(lambda: len(records(proxy)) == 2)
            await until(lambda: proxy.listener.crowd.connections == 0)
    assert answer.as_numpy("text_input")[0].decode() == "hé"
    assert len(tokens) == 4
    assert [(each.outcome, each.upstream) for each in records(proxy)] == [("ok", f"localhost:{engine.port}")] * 2
    assert records(proxy)[1].usage.output_tokens == 3


async def test_an_engine_whose_certificate_is_a_strangers(tmp_path: Path) -> None:
    engines = make_ca().issue()
    credentials = grpc.ssl_server_credentials([(engines.key, engines.certificate)])
    with triton(credentials=credentials) as engine:
        async with sidecar(engine.url, dial={"tls": {"ca_file": make_ca().write(tmp_path)}}) as proxy:
            with pytest.raises(InferenceServerException, match=r"(?i)certificate") as caught:
                await in_thread(at(proxy), asks())
            seen = await record(proxy)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert (seen.outcome, seen.grpc_status) == ("error", 14)


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    path, ours = tmp_path / "triton.sock", tmp_path / "sidecar.sock"
    with triton(path=str(path)) as engine:
        async with sidecar(engine.url, listen=f"unix:{ours}") as proxy:
            answer = await in_thread(f"unix:{ours}", asks("hé"))
            tokens = await in_thread(f"unix:{ours}", lambda client: streamed(client, "llm", 4))
            await until(lambda: len(records(proxy)) == 2)
            assert proxy.listener.crowd.connections == 0
    assert answer.as_numpy("text_input")[0].decode() == "hé"
    assert len(tokens) == 4
    assert {(each.outcome, each.upstream) for each in records(proxy)} == {("ok", f"unix:{path}")}
    assert "x-forwarded-for" not in engine.metadata[0]


async def test_the_first_of_several_engines_is_taken_where_grpc_has_none() -> None:
    with triton() as engine:
        async with sidecar("http://127.0.0.1:9", upstreams=[{"url": engine.url}]) as proxy:
            await in_thread(at(proxy), asks())
            assert (await record(proxy)).upstream == f"127.0.0.1:{engine.port}"


async def test_unusable_files_are_named(tmp_path: Path) -> None:
    dial = {"tls": {"ca_file": tmp_path / "none.crt"}}
    async with sidecar("http://127.0.0.1:9", dial=dial, grpc={"upstream": "https://engine"}) as proxy:
        with pytest.raises(ConfigError, match=r"sidecar\.dial\.tls\.ca_file"):
            make_grpc(proxy.forwarder)
        with pytest.raises(InferenceServerException):
            await in_thread(at(proxy), asks())
        assert "sidecar.dial.tls.ca_file" in proxy.listener.grpc.error
