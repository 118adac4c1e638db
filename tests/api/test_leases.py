"""The route of leases over real HTTP: what it refuses, and three sidecars that share one tenant's limits through it."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from agent.api.leases import MAX_NUMBER, read_renewal
from agent.api.problems import Problem
from agent.clock import boot_ns, unix_ns
from agent.core.ports import TryLater
from agent.core.quotas.leases import MAX_CLAIMS, Claim, LeaseAnswer, LeaseRequest
from agent.core.quotas.policy import Policy
from agent.core.requests import Usage
from agent.doors.identity import Identity
from agent.lifecycle import Health
from agent.runners.leases import LateRenewal, LeaseDesk
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.quota.client import AgentLeases
from agent.sidecar.quota.quotas import Quotas, Ticket
from agent.sidecar.records.ship import open_session
from tests.support.api import node, open_doors, served
from tests.support.quotas import NS, policy, rule

PATH = "/ingest/v1/leases"
TYPE = {"Content-Type": "application/msgpack"}
FAST = {"lease_ns": NS, "renew_ns": NS // 10, "patience_ns": NS // 2}
STEADY = FAST | {"lease_ns": 30 * NS, "patience_ns": 5 * NS}  # a slow machine must not end a lease


def renewal(**changes: Any) -> LeaseRequest:
    return LeaseRequest(**{"sidecar": "s", "epoch": 1, "number": 1} | changes)


def claim(**changes: Any) -> Claim:
    values = {"rule": "r", "tenant": "acme", "kind": "requests", "used": 0, "peak": 0, "wanted": 0, "allowance": 0}
    return Claim(**values | {"leased": False} | changes)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not a LeaseRequest in msgpack"),
        (b"\xc1", "not a LeaseRequest in msgpack"),
        (b"\x91" * 100_000, "not a LeaseRequest in msgpack"),
        (renewal(schema_version=9), "schema version 9; this agent reads 1"),
        (renewal(sidecar=""), "the sidecar's name has 0 characters"),
        (renewal(number=MAX_NUMBER), "epoch or number is out of range"),
        (renewal(claims=(claim(),) * (MAX_CLAIMS + 1)), f"it has {MAX_CLAIMS + 1} claims"),
        (renewal(claims=(claim(), claim(used=-1))), "claim 1 has a number out of range"),
        (renewal(claims=(claim(tenant="x" * 300),)), "claim 0 has a name of more than 256 characters"),
    ],
)
def test_what_cannot_be_is_refused_by_name(body: bytes | LeaseRequest, said: str):
    encoded = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    with pytest.raises(Problem) as refused:
        read_renewal(encoded)
    assert refused.value.status == 400
    assert said in refused.value.detail


def test_who_is_limited_to_one_tenant_claims_for_no_other():
    ours = msgspec.msgpack.encode(renewal(claims=(claim(),)))
    assert read_renewal(ours, "acme").claims == (claim(),)
    with pytest.raises(Problem, match="limited to the tenant else") as refused:
        read_renewal(ours, "else")
    assert refused.value.status == 403


async def test_over_http():
    told: list[tuple[str, str | None]] = []

    def lease(sender: str, tenant: str | None, request: LeaseRequest) -> LeaseAnswer:
        told.append((sender, tenant))
        if request.number == 2:
            raise LateRenewal("renewal 2 came after a newer one")
        if request.number == 3:
            raise TryLater("too many", 2.0)
        return LeaseAnswer(number=1, lease_ns=5, sidecars=1, place=0, revision="x")

    ours = Identity(name="one", kind="token", scopes=frozenset(("ingest",)), tenant="acme")
    doors = open_doors(identify=lambda _authorization, _names: ours)
    async with served(node(lease=lease), doors) as url, aiohttp.ClientSession(url) as api:
        async with api.post(PATH, data=msgspec.msgpack.encode(renewal()), headers=TYPE) as response:
            assert response.status == 200
            assert msgspec.msgpack.decode(await response.read(), type=LeaseAnswer).revision == "x"
        assert told == [("token::one", "acme")]
        for number, status in ((2, 409), (3, 503)):
            async with api.post(PATH, data=msgspec.msgpack.encode(renewal(number=number)), headers=TYPE) as response:
                assert response.status == status
        async with api.post(PATH, data=b"{}", headers={"Content-Type": "application/json"}) as response:
            assert response.status == 415
        async with api.post(PATH, data=io.BytesIO(bytes(2 << 20)), headers=TYPE) as response:
            assert response.status == 413


async def test_without_the_scope_it_is_refused():
    reader = Identity(name="one", kind="token", scopes=frozenset(("metrics",)))
    doors = open_doors(identify=lambda _authorization, _names: reader)
    body = msgspec.msgpack.encode(renewal())
    async with (
        served(node(), doors) as url,
        aiohttp.ClientSession(url) as api,
        api.post(PATH, data=body, headers=TYPE) as response,
    ):
        assert response.status == 403


async def test_an_agent_without_rules_says_so():
    async with served(node()) as url, open_session() as session:
        client = AgentLeases(url, session)
        assert (await client.renew(renewal())).policy is None
        assert (await client.renew(renewal(revision="old"))).policy == Policy()


async def test_no_answer_is_no_lease():
    async with (
        served(node(lease=lambda *_: LeaseAnswer(number=7, lease_ns=1, sidecars=1, place=0, revision=""))) as url,
        open_session() as session,
    ):
        with pytest.raises(TryLater, match="another renewal"):
            await AgentLeases(url, session).renew(renewal())
        with pytest.raises(TryLater, match="404"):
            await AgentLeases(f"{url}/nothing", session).renew(renewal())
    async with open_session() as session:
        with pytest.raises(TryLater, match="ClientConnectorError"):
            await AgentLeases(url, session).renew(renewal())


# Three sidecars, one tenant


def ask(tokens: int = 10) -> Ask:
    return Ask(id="r", tenant="acme", model="m", path="/v1/chat/completions", input_tokens=tokens, max_output_tokens=0)


class Sidecars:
    """Three sidecars with one agent over HTTP, which can be made silent; counts what runs at the same time."""

    def __init__(self, url: str, session: aiohttp.ClientSession, of: Policy) -> None:
        self.all = [
            Quotas(
                Policy(), client=AgentLeases(url, session, timeout_seconds=of.lease_ns / NS / 3), sidecar=name, epoch=1
            )
            for name in "abc"
        ]
        self.running = 0
        self.most = 0
        self.admitted = 0
        self.refused = 0

    async def request(self, quotas: Quotas, seconds: float, tokens: int = 10) -> None:
        found = quotas.admit(ask(tokens), boot_ns()) or await quotas.wait(ask(tokens))
        if isinstance(found, Refusal):
            self.refused += 1
            return
        assert isinstance(found, Ticket)
        self.running, self.admitted = self.running + 1, self.admitted + 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(seconds)
        finally:
            self.running -= 1
            found.done(Usage(input_tokens=tokens, output_tokens=0), boot_ns())

    async def load(self, requests: int, seconds: float, random: Random, tokens: int = 10) -> None:
        """So many requests, a few milliseconds apart, most of them at one of the three at a time."""
        async with anyio.create_task_group() as group:
            for number in range(requests):
                favourite = self.all[number * 3 // requests]
                group.start_soon(self.request, favourite if random.random() < 0.8 else random.choice(self.all), seconds,
                                 tokens)  # fmt: skip
                await anyio.sleep(0.004)


async def touch(sidecars: Sidecars, *, right: bool) -> None:
    """Until all of them have a valid lease, or none has one."""
    with anyio.fail_after(20):
        while any(quotas.book.in_touch(boot_ns()) != right for quotas in sidecars.all):  # noqa: ASYNC110
            await anyio.sleep(0.01)


@asynccontextmanager
async def three(of: Policy) -> AsyncIterator[tuple[Sidecars, list[bool]]]:
    """Gives the sidecars, and a list: while it holds something the agent is away."""
    desk = LeaseDesk(of, None, {}, unix_ns)  # type: ignore[arg-type]
    desk.allocator._started_ns -= of.lease_ns
    away: list[bool] = []

    def lease(sender: str, tenant: str | None, request: LeaseRequest) -> LeaseAnswer:
        if away:
            raise TryLater("away", 1.0)
        return desk.answer(sender, tenant, request)

    async with served(node(lease=lease)) as url, open_session() as session, anyio.create_task_group() as group:
        sidecars = Sidecars(url, session, of)
        for quotas in sidecars.all:
            group.start_soon(quotas.run, Health())
        await touch(sidecars, right=True)
        yield sidecars, away
        group.cancel_scope.cancel()


async def test_three_sidecars_never_run_more_than_the_tenant_may():
    async with three(policy(rule(concurrent_requests=6), **STEADY)) as (sidecars, _):
        await sidecars.load(400, 0.03, Random(1))
        assert sidecars.most <= 6
        assert sidecars.admitted + sidecars.refused == 400
        assert sidecars.admitted > 100
        assert sidecars.running == 0


async def test_three_sidecars_share_a_budget_of_tokens_to_the_last_one():
    async with three(policy(rule(tokens_per_minute=1000, requests_per_minute=500), **STEADY)) as (sidecars, _):
        await sidecars.load(300, 0.005, Random(2))
        assert 95 <= sidecars.admitted <= 100  # of 10 tokens each: not one more than there are


async def test_while_the_agent_is_away_each_has_its_part_and_the_sum_is_bounded():
    limit = 9
    async with three(policy(rule(concurrent_requests=limit), **FAST)) as (sidecars, away):
        await sidecars.load(60, 0.03, Random(3))
        away.append(True)
        sidecars.most = 0
        await sidecars.load(600, 0.03, Random(4))
        # At the lapse: what still runs under leases, and the parts of the others.
        assert sidecars.most <= limit + limit * 2 // 3
        assert not any(quotas.book.in_touch(boot_ns()) for quotas in sidecars.all)
        sidecars.most = sidecars.admitted = 0
        await sidecars.load(300, 0.03, Random(5))
        assert 0 < sidecars.most <= limit
        away.clear()
        await touch(sidecars, right=True)
        sidecars.most = 0
        await sidecars.load(300, 0.03, Random(6))
        assert sidecars.most <= limit


async def test_closed_lets_nothing_pass_while_the_agent_is_away():
    async with three(policy(rule(concurrent_requests=9, when_agent_away="closed"), **FAST)) as (sidecars, away):
        away.append(True)
        await touch(sidecars, right=False)
        await sidecars.load(30, 0.01, Random(7))
        assert (sidecars.admitted, sidecars.refused) == (0, 30)
