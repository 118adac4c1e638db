"""What gRPC asks of the rest of the sidecar, with the rest itself: quotas and tenancy keep what the protocols say."""

import inspect
from pathlib import Path

import pytest

from agent.clock import boot_ns
from agent.core.quotas.policy import Policy
from agent.core.requests import Usage
from agent.sidecar.asks import Ask, Caller, Refusal
from agent.sidecar.crowd.crowd import Crowd
from agent.sidecar.crowd.settings import CrowdSettings
from agent.sidecar.grpc.services import GrpcServices, Quotas, Rewrite, Ticket
from agent.sidecar.quota.quotas import Quotas as RealQuotas
from agent.sidecar.quota.quotas import Ticket as RealTicket
from agent.sidecar.tenancy.tenancy import Rewrite as RealRewrite
from tests.support.grpc_sidecar import grpc_sidecar
from tests.support.http2 import CALL, answer_all, call, client, engine
from tests.support.quotas import policy, rule
from tests.support.tenancy import KEY, keys_file, tenancy
from tests.support.upstream import until


@pytest.mark.parametrize(("protocol", "real"), [(Quotas, RealQuotas), (Ticket, RealTicket), (Rewrite, RealRewrite)])
def test_the_real_parts_have_what_is_asked_for(protocol: type, real: type) -> None:
    wanted = {name for name in vars(protocol) if not name.startswith("_")}
    assert wanted
    for name in wanted:
        asked, had = getattr(protocol, name), getattr(real, name)
        if callable(asked):
            assert list(inspect.signature(asked).parameters) == list(inspect.signature(had).parameters)


async def test_without_anything_every_call_passes_as_nobodys() -> None:
    async with engine(answer_all) as server, grpc_sidecar(server.url) as proxy, client(proxy.port) as peer:
        services: GrpcServices = proxy.forwarder.services
        assert services.identify({}, "127.0.0.1", 0) == Caller()
        assert (services.quotas, services.rewrite, services.too_many) == (None, None, None)
        assert (await call(peer))["grpc-status"] == "0"
        assert (await proxy.record()).tenant is None


async def test_with_the_real_ones(tmp_path: Path) -> None:
    """A key is known and kept from the engine, two calls a minute pass, and the third is refused."""
    book = RealQuotas(policy(rule(tenant="acme", requests_per_minute=2)), clock=boot_ns)
    who = tenancy(keys_file=keys_file(tmp_path))
    services = {"quotas": book, "identify": who.identify, "rewrite": who.rewrite}
    fields = [*CALL, ("authorization", f"Bearer {KEY}")]
    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, services=services) as proxy,
        client(proxy.port) as peer,
    ):
        said = [(await call(peer, number, fields=fields))["grpc-status"] for number in (1, 3, 5)]
        await until(lambda: len(proxy.records) == 3)
    assert said == ["0", "0", "8"]
    assert {(each.tenant, each.tenant_source) for each in proxy.records} == {("acme", "key")}


def test_a_ticket_of_the_real_quotas_can_be_ended_both_ways() -> None:
    book = RealQuotas(policy(rule(concurrent_requests=1)))
    ask = Ask(id="r", tenant="acme", model="m", path="/", input_tokens=1, max_output_tokens=1)
    for end in ("done", "withdraw"):
        ticket = book.admit(ask, 0)
        assert isinstance(ticket, RealTicket)
        assert isinstance(book.admit(ask, 0), Refusal)
        if end == "done":
            ticket.done(Usage(), 1)
        else:
            ticket.withdraw(1)
    assert isinstance(book.admit(ask, 2), RealTicket)
    assert not RealQuotas(Policy()).active


async def test_a_source_that_calls_too_often() -> None:
    crowd = Crowd(CrowdSettings(requests_per_second=0.01, burst=1))
    async with (
        engine(answer_all) as server,
        grpc_sidecar(server.url, services={"too_many": crowd.request}) as proxy,
        client(proxy.port) as peer,
    ):
        assert (await call(peer, 1))["grpc-status"] == "0"
        last = await call(peer, 3)
        assert last["grpc-status"] == "8"
        assert int(last["grpc-retry-pushback-ms"]) > 1000
        await until(lambda: len(proxy.records) == 1)
        (connection,) = proxy.forwarder.connections
        assert not connection.calls
