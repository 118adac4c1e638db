"""The request path's side: tickets, refusals, waiting, and leases from an agent that a test holds in its hand."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agent.clock import boot_ns, unix_ns
from agent.core.ports import TryLater
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest
from agent.core.quotas.policy import Policy, QueuePolicy
from agent.core.requests import Usage
from agent.lifecycle import Health
from agent.runners.leases import LeaseDesk
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.quota.quotas import FREE, Quotas, Ticket
from tests.support.quotas import NS, policy, rule

QUEUE = QueuePolicy(deadline_ns=5 * NS, classes=("high", "low"))


def ask(tenant: str | None = "acme", priority: str | None = None, tokens: int = 10, output: int | None = 10) -> Ask:
    return Ask(
        id="r", tenant=tenant, model="m", path="/v1/chat/completions", input_tokens=tokens, max_output_tokens=output,
        priority=priority,
    )  # fmt: skip


def admitted(found: Ticket | Refusal | None) -> Ticket:
    assert isinstance(found, Ticket), found
    return found


def refused(found: Ticket | Refusal | None) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


def values(quotas: Quotas) -> dict[str, float]:
    """Numbers by what tells them apart."""
    found = {}
    for key, value in quotas.numbers():
        name = key.name.removeprefix("engineroom_sidecar_quota_")
        found["/".join([name, *(value for _, value in key.labels)])] = value
    return found


async def until(right: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not right():  # noqa: ASYNC110
            await anyio.sleep(0.005)


def test_without_rules_everything_is_free():
    quotas = Quotas(Policy())
    assert not quotas.active
    assert not quotas.decides
    assert quotas.admit(ask(), 0) is FREE
    FREE.done(Usage(), 0)
    assert FREE.header_lines(0) == b""


def test_refused_admitted_and_counted():
    quotas = Quotas(policy(rule(concurrent_requests=1)), clock=lambda: 0)
    assert quotas.decides
    ticket = admitted(quotas.admit(ask(), 0))
    said = refused(quotas.admit(ask(), 0))
    assert (said.status, said.code) == (429, "rate_limit_exceeded")
    ticket.done(Usage(), 0)
    ticket.done(Usage(), 0)
    ticket.withdraw(0)
    admitted(quotas.admit(ask(), 0))
    refused(quotas.admit(ask(), 0))
    found = values(quotas)
    assert (found["requests_total/admitted/r/acme"], found["requests_total/refused/r/acme"]) == (2, 2)


def test_watching_costs_nobody_anything_and_is_counted():
    quotas = Quotas(policy(rule(requests_per_minute=1, mode="observe")), clock=lambda: 0)
    assert not quotas.decides
    for _ in range(3):
        assert admitted(quotas.admit(ask(), 0)).header_lines(0) == b""
    assert values(quotas)["requests_total/would_refuse/r/acme"] == 2


def test_a_warning_and_what_remains_go_into_the_answer():
    quotas = Quotas(policy(rule(requests_per_minute=1, mode="warn")), clock=lambda: 0)
    assert b"x-ratelimit-remaining-requests: 0\r\n" in admitted(quotas.admit(ask(), 0)).header_lines(0)
    lines = admitted(quotas.admit(ask(), 0)).header_lines(0)
    assert lines.startswith(b"x-engineroom-quota-warning: rule=r; limit=requests; used=1; of=1\r\n")
    silent = Quotas(policy(rule(requests_per_minute=1), remaining_headers=False), clock=lambda: 0)
    assert admitted(silent.admit(ask(), 0)).header_lines(0) == b""


def test_tenants_in_numbers_are_bounded():
    quotas = Quotas(policy(rule(tenant="*", requests_per_minute=5)), clock=lambda: 0)
    for i in range(150):
        admitted(quotas.admit(ask(tenant=f"t{i}"), 0))
    found = values(quotas)
    assert found["requests_total/admitted/r/other"] == 50


def test_an_overrun_of_a_reservation_is_counted():
    quotas = Quotas(policy(rule(tokens_per_minute=100)), clock=lambda: 0)
    admitted(quotas.admit(ask(), 0)).done(Usage(input_tokens=10, output_tokens=15), 0)
    assert values(quotas)["reservation_overrun_total/tokens/r"] == 5


# Waiting


async def test_who_waits_is_served_when_there_is_room_first_class_first():
    quotas = Quotas(policy(rule(concurrent_requests=1, queue=QUEUE)))
    running = admitted(quotas.admit(ask(), boot_ns()))
    order: list[str] = []

    async def come(name: str, priority: str) -> None:
        ticket = admitted(await quotas.wait(ask(priority=priority)))
        order.append(name)
        assert ticket.queued_ns
        ticket.done(Usage(), boot_ns())

    async with anyio.create_task_group() as group:
        for number, (name, priority) in enumerate([("a", "low"), ("b", "unheard"), ("c", "high"), ("d", "low")]):
            assert quotas.admit(ask(), boot_ns()) is None
            group.start_soon(come, name, priority)
            await until(lambda number=number: len(quotas.room) == number + 1)
        running.done(Usage(), boot_ns())
    assert order == ["c", "a", "b", "d"]
    assert values(quotas)["requests_total/queued/r/acme"] == 4
    assert values(quotas)["waiting"] == 0


async def test_nobody_overtakes_who_waits():
    quotas = Quotas(policy(rule(tokens_per_minute=100, queue=QUEUE)))
    first = admitted(quotas.admit(ask(tokens=80, output=0), boot_ns()))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(quotas.wait, ask(tokens=50, output=0))
            await until(lambda: len(quotas.room) == 1)
            assert quotas.admit(ask(tokens=1, output=0), boot_ns()) is None  # it would fit
            scope.cancel()
    assert isinstance(quotas.admit(ask(tokens=1, output=0), boot_ns()), Ticket)
    first.done(Usage(), boot_ns())


async def test_the_deadline_is_a_refusal():
    quick = QueuePolicy(deadline_ns=NS // 50)
    quotas = Quotas(policy(rule(concurrent_requests=1, queue=quick)))
    admitted(quotas.admit(ask(), boot_ns()))
    said = refused(await quotas.wait(ask()))
    assert said.message.startswith("It waited for 0.0 s. Tenant acme has 1 of 1 concurrent requests running")
    assert len(quotas.room) == 0


async def test_a_full_queue_refuses_at_once():
    quotas = Quotas(policy(rule(concurrent_requests=1, queue=QueuePolicy(deadline_ns=NS * 60, max_waiting=1))))
    running = admitted(quotas.admit(ask(), boot_ns()))
    async with anyio.create_task_group() as group:
        group.start_soon(quotas.wait, ask())
        await until(lambda: len(quotas.room) == 1)
        assert refused(await quotas.wait(ask())).message.startswith("1 requests wait already. ")
        running.done(Usage(), boot_ns())


async def test_who_leaves_frees_its_place():
    quotas = Quotas(policy(rule(concurrent_requests=1, queue=QUEUE)))
    running = admitted(quotas.admit(ask(), boot_ns()))
    async with anyio.create_task_group() as group:
        group.start_soon(quotas.wait, ask())
        await until(lambda: len(quotas.room) == 1)
        group.cancel_scope.cancel()
    assert len(quotas.room) == 0
    running.done(Usage(), boot_ns())
    admitted(quotas.admit(ask(), boot_ns()))


async def test_who_leaves_at_the_moment_it_is_served_holds_nothing_or_has_its_ticket():
    quotas = Quotas(policy(rule(concurrent_requests=1, queue=QUEUE)))
    running = admitted(quotas.admit(ask(), boot_ns()))
    got: list[Ticket] = []

    async def come() -> None:
        got.append(admitted(await quotas.wait(ask())))

    async with anyio.create_task_group() as group:
        group.start_soon(come)
        await until(lambda: len(quotas.room) == 1)
        running.done(Usage(), boot_ns())  # it is served now, but has not run since
        group.cancel_scope.cancel()
    assert len(quotas.room) == 0
    for ticket in got:
        ticket.withdraw(boot_ns())
    admitted(quotas.admit(ask(), boot_ns()))


async def test_a_window_that_rolls_lets_the_next_one_in():
    now = [100 * NS]
    quotas = Quotas(policy(rule(requests_per_minute=1, queue=QueuePolicy(deadline_ns=90 * NS))), clock=lambda: now[0])
    admitted(quotas.admit(ask(), now[0]))
    async with anyio.create_task_group() as group:
        found: list[Ticket | Refusal] = []

        async def come() -> None:
            found.append(await quotas.wait(ask()))

        group.start_soon(come)
        await until(lambda: len(quotas.room) == 1)
        now[0] += 61 * NS
        quotas.freed(now[0])
    assert isinstance(found[0], Ticket)


# Leases


class DeskClient:
    """An agent in this process; `away` makes it silent."""

    def __init__(self, desk: LeaseDesk) -> None:
        self.desk = desk
        self.away = False
        self.asked: list[LeaseRequest] = []

    async def renew(self, request: LeaseRequest) -> LeaseAnswer:
        self.asked.append(request)
        if self.away:
            raise TryLater("nobody answers")
        return self.desk.answer("", None, request)


def desk(of: Policy) -> LeaseDesk:
    # The desk has been there for long: it may grant at once.
    made = LeaseDesk(of, None, {}, unix_ns)  # type: ignore[arg-type]
    made.allocator._started_ns -= of.lease_ns
    return made


@asynccontextmanager
async def running(quotas: Quotas) -> AsyncIterator[Health]:
    health = Health()
    async with anyio.create_task_group() as group:
        group.start_soon(quotas.run, health)
        with anyio.fail_after(10):
            await quotas.heard.wait()
        yield health
        group.cancel_scope.cancel()


FAST = {"lease_ns": NS, "renew_ns": NS // 10}


async def test_the_agents_rules_come_with_the_first_lease_and_the_first_request_waits_for_its_part():
    client = DeskClient(desk(policy(rule(concurrent_requests=2), **FAST)))
    quotas = Quotas(Policy(), client=client, sidecar="a", epoch=1)
    async with running(quotas):
        assert quotas.decides
        assert quotas.admit(ask(), boot_ns()) is None
        first = admitted(await quotas.wait(ask()))
        admitted(quotas.admit(ask(), boot_ns()))
        refused(quotas.admit(ask(), boot_ns()))
        first.done(Usage(), boot_ns())
        admitted(quotas.admit(ask(), boot_ns()))
        assert values(quotas)["lease_valid"] == 1
    assert client.asked[-1].leaving


async def test_room_that_another_sidecar_does_not_use_is_waited_for():
    shared = desk(policy(rule(concurrent_requests=8), **FAST))
    a, b = (Quotas(Policy(), client=DeskClient(shared), sidecar=name, epoch=1) for name in "ab")
    async with running(a), running(b):
        held = [admitted(await a.wait(ask()))]
        admitted(await b.wait(ask())).done(Usage(), boot_ns())
        while len(held) < 8:
            held.append(admitted(a.admit(ask(), boot_ns()) or await a.wait(ask())))
        found = b.admit(ask(), boot_ns()) or await b.wait(ask())
        assert "8 of 8 concurrent requests" in refused(found).message


async def test_an_agent_away_leaves_each_its_part_and_says_so_once():
    client = DeskClient(desk(policy(rule(concurrent_requests=4), **FAST)))
    quotas = Quotas(Policy(), client=client, sidecar="a", epoch=1)
    async with running(quotas) as health:
        client.away = True
        await until(lambda: not quotas.book.in_touch(boot_ns()))
        assert health.failing() == {"quota_leases": "nobody answers"}
        quotas.book.sidecars = 2
        found = [quotas.admit(ask(), boot_ns()) for _ in range(4)]
        assert [isinstance(one, Ticket) for one in found] == [True, True, False, False]
        client.away = False
        await until(lambda: quotas.book.in_touch(boot_ns()))
        assert health.failing() == {}


async def test_rules_are_kept_for_a_restart_while_the_agent_is_away(tmp_path: Path):
    file = tmp_path / "quotas.json"
    client = DeskClient(desk(policy(rule(concurrent_requests=2), **FAST)))
    first = Quotas(Policy(), client=client, sidecar="a", epoch=1, kept=file)
    async with running(first):
        await until(file.exists)
    client.away = True
    second = Quotas(Policy(), client=client, sidecar="a", epoch=2, kept=file)
    assert second.decides
    async with running(second):
        admitted(second.admit(ask(), boot_ns()))
        admitted(second.admit(ask(), boot_ns()))
        refused(second.admit(ask(), boot_ns()))


@pytest.mark.parametrize("content", [b"", b"{", b'{"rules": [{"name": 1}]}', b"\xff"])
def test_a_damaged_file_of_kept_rules_is_no_rule(tmp_path: Path, content: bytes):
    file = tmp_path / "quotas.json"
    file.write_bytes(content)
    assert not Quotas(Policy(), client=DeskClient(desk(Policy())), kept=file).active


async def test_without_an_agent_there_is_nothing_to_run():
    quotas = Quotas(policy(rule(concurrent_requests=2)))
    await quotas.run(Health())
    assert quotas.heard.is_set()
    assert "lease_valid" not in values(quotas)
