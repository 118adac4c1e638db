"""`engineroom run` with quotas in its file, and three sidecars that lease from it; then it is killed. Money."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
from aiohttp import web

from agent.clock import boot_ns
from agent.core.quotas.policy import Policy
from agent.core.requests import Usage
from agent.lifecycle import Health
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.quota.client import AgentLeases
from agent.sidecar.quota.quotas import Quotas, Ticket
from agent.sidecar.records.ship import open_session
from tests.support.agent import RunningAgent, agent, free_port
from tests.support.gateway import Member, member
from tests.support.sidecar import SidecarProcess, sidecar, sidecar_process
from tests.support.told_requests import told_requests
from tests.support.upstream import Message, Wire, connect, post, until

CHAT = b'{"model":"tiny","max_tokens":2,"messages":[]}'
PAGE = Path(__file__).resolve().parents[1] / "engines" / "llamacpp" / "2026.10" / "metrics.prom"
CONFIG = {
    "gpus": {"enabled": False},
    "prices": {"books": [{"currency": "CNY", "rows": [{"gpu": "*", "per_gpu_hour": 10}]}]},
    "quotas": {
        "lease_seconds": 1,
        "renew_seconds": 0.2,
        "rules": [
            {
                "name": "acme",
                "tenant": "acme",
                "mode": "block",
                "concurrent_requests": 7,
                "money": {"amount": 5, "currency": "CNY", "period": "day"},
            }
        ],
    },
}


def ask() -> Ask:
    return Ask(id="r", tenant="acme", model="m", path="/v1/completions", input_tokens=5, max_output_tokens=5)


async def take(sidecars: list[Quotas]) -> list[Ticket]:
    """As many as there are, in turns."""
    got = []
    for number in range(24):
        quotas = sidecars[number % len(sidecars)]
        found = quotas.admit(ask(), boot_ns()) or await quotas.wait(ask())
        if not isinstance(found, Refusal):
            got.append(found)
    return got


async def touch(sidecars: list[Quotas], *, right: bool) -> None:
    with anyio.fail_after(20):
        while any(quotas.book.in_touch(boot_ns()) != right for quotas in sidecars):  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_one_budget_three_sidecars_and_an_agent_that_dies(tmp_path: Path):
    with agent(tmp_path / "data", config=CONFIG) as running:
        await anyio.to_thread.run_sync(running.ready)
        async with open_session() as session, anyio.create_task_group() as group:
            client = AgentLeases(f"http://127.0.0.1:{running.api}", session, timeout_seconds=1.0)
            sidecars = [Quotas(Policy(), client=client, sidecar=name, epoch=1) for name in "abc"]
            for quotas in sidecars:
                group.start_soon(quotas.run, Health())
            await touch(sidecars, right=True)
            with anyio.fail_after(20):
                while len(tickets := await take(sidecars)) != 7:  # its first second it lets nobody grow
                    for ticket in tickets:
                        ticket.done(Usage(), boot_ns())
                    await anyio.sleep(0.1)
            for ticket in tickets:
                ticket.done(Usage(input_tokens=5, output_tokens=5), boot_ns())
            running.process.kill()
            await touch(sidecars, right=False)
            assert len(await take(sidecars)) == 7  # 3 + 2 + 2
            group.cancel_scope.cancel()


# whole processes


class Fleet:
    """Three sidecars as processes before one engine, and their agent."""

    def __init__(self, running: RunningAgent, engine: Member) -> None:
        self.agent = running
        self.engine = engine
        self.ports = [free_port() for _ in range(3)]
        self.admins = [free_port() for _ in range(3)]

    @asynccontextmanager
    async def started(self) -> AsyncIterator["Fleet"]:
        async with AsyncExitStack() as stack:
            processes: list[SidecarProcess] = []
            for number, (port, admin) in enumerate(zip(self.ports, self.admins, strict=True)):
                given = sidecar_process(
                    listen=f"127.0.0.1:{port}",
                    admin_listen=f"127.0.0.1:{admin}",
                    upstream=self.engine.url,
                    agent_url=f"http://127.0.0.1:{self.agent.api}",
                    name=f"s{number}",
                )
                processes.append(await stack.enter_async_context(given))
            for process in processes:
                await process.until_it_says("sidecar_listening")
            yield self

    async def lease_valid(self) -> list[float]:
        """What each sidecar says of its lease."""
        found = []
        async with aiohttp.ClientSession() as session:
            for admin in self.admins:
                async with session.get(f"http://127.0.0.1:{admin}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                found += [float(x.rsplit(" ", 1)[1]) for x in lines if "_quota_lease_valid" in x and x[0] != "#"]
        return found

    async def until_leased(self, right: float) -> None:
        with anyio.fail_after(20):
            while await self.lease_valid() != [right] * 3:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.05)

    async def ask(self, number: int, tenant: str = "acme") -> int:
        """The status of a request to one of them."""
        async with connect(self.ports[number % 3]) as client:
            await client.send(post(CHAT, more=f"x-engineroom-tenant: {tenant}\r\n"))
            return (await client.answer()).status

    @asynccontextmanager
    async def flood(
        self, wanted: int, sidecars: tuple[int, ...] = (0, 1, 2), least: int | None = None
    ) -> AsyncIterator[None]:
        """Ask until `wanted` more requests are at the engine, and a while longer; they stay there for the body."""
        before = self.engine.holding
        async with anyio.create_task_group() as group:

            async def one(at: int) -> None:
                with anyio.move_on_after(20):
                    while await self.ask(at) == 429:  # noqa: ASYNC110 - another process
                        await anyio.sleep(0.05)

            for number in range(wanted + 9):
                group.start_soon(one, sidecars[number % len(sidecars)])
            await until(lambda: self.engine.holding - before >= (wanted if least is None else least))
            await anyio.sleep(0.5)  # more must not come
            yield
            group.cancel_scope.cancel()
        await until(lambda: self.engine.holding == before)


async def test_one_budget_of_three_sidecar_processes_and_an_agent_that_is_killed(tmp_path: Path) -> None:
    """The bounds are those of docs/quotas.md."""
    config = {**CONFIG, "quotas": {**CONFIG["quotas"], "rules": RULES}}  # type: ignore[dict-item]
    with agent(tmp_path / "data", config=config) as running:
        await anyio.to_thread.run_sync(running.ready)
        async with member("hold") as engine, Fleet(running, engine).started() as fleet:
            await fleet.until_leased(1)
            await anyio.sleep(1.2)  # for as long as a lease the agent lets no part grow
            engine.mood, statuses = "good", Counter[int]()

            async def until_all_is_used(at: int) -> None:
                # One may be refused for a moment while another sidecar holds a part that it does not use.
                while statuses[200] < 20:
                    statuses[await fleet.ask(at, "globex")] += 1
                for _ in range(10):
                    statuses[await fleet.ask(at, "globex")] += 1

            with anyio.fail_after(30):  # less than the minute that is counted in
                async with anyio.create_task_group() as group:
                    for at in (0, 1, 2):
                        group.start_soon(until_all_is_used, at)
            assert set(statuses) == {200, 429}
            assert statuses[200] == len(engine.heard) == 20
            assert statuses[429] >= 28
            engine.mood = "hold"
            async with fleet.flood(7):
                assert engine.holding == 7
            assert engine.most == 7
            async with fleet.flood(7, sidecars=(0,)):  # one may have all of it
                assert engine.holding == 7
                assert engine.most == 7
                running.process.kill()
                await fleet.until_leased(0)
                async with fleet.flood(4, sidecars=(1, 2)):  # their shares: 7 * (1 - 1/3) = 4.67
                    assert 4 <= engine.holding - 7 <= 5
            engine.most = 0
            async with fleet.flood(7):
                assert engine.holding == 7
            assert engine.most == 7


RULES: list[dict[str, Any]] = [
    {"name": "acme", "tenant": "acme", "mode": "block", "concurrent_requests": 7, "when_agent_away": "share"},
    {"name": "rate", "tenant": "globex", "mode": "block", "requests_per_minute": 20},
]


def ended(ledger: Path) -> dict[tuple[str, str], int]:
    """How many requests of each tenant ended how."""
    return Counter((one.tenant, one.outcome or "") for one in told_requests(ledger))


async def test_money_is_spent_for_real_and_then_refused(tmp_path: Path) -> None:
    """GPU time at a price, booked by the ledger to requests that the sidecar recorded, closes the tenant's budget."""

    async def answer(request: web.Request) -> web.Response:
        heard.append(await request.json())
        await anyio.sleep(0.3)
        return web.json_response(
            {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
        )

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text())

    async def say(client: Wire, tenant: str) -> Message:
        await client.send(post(CHAT, path="/v1/completions", more=f"x-engineroom-tenant: {tenant}\r\n"))
        return await client.answer()

    heard: list[Any] = []
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    budget = {"amount": 1, "currency": "CNY", "period": "day"}
    config = {
        "engines": {"targets": [{"name": "e", "url": url, "kind": "llamacpp", "gpus": ["0"], "interval_seconds": 0.5}]},
        "prices": {"books": [{"currency": "CNY", "rows": [{"gpu": "*", "per_gpu_hour": 7200}]}]},  # 2 CNY a second
        "quotas": {
            "lease_seconds": 1,
            "renew_seconds": 0.2,
            "settle_seconds": 5,
            "rules": [{"name": "acme", "tenant": "acme", "mode": "block", "money": budget}],
        },
    }
    try:
        with agent(tmp_path / "data", "--simulate-gpus", "rtx4080sx2", config=config) as running:
            await anyio.to_thread.run_sync(running.ready)
            async with (
                sidecar(url, agent_url=f"http://127.0.0.1:{running.api}") as proxy,
                connect(proxy.port) as client,
                connect(proxy.port) as other,
            ):
                with anyio.fail_after(30):
                    while (refused := await say(client, "acme")).status == 200:
                        pass
                spent = len(heard)
                assert refused.status == 402
                said = json.loads(refused.body)["error"]
                assert (said["code"], said["type"]) == ("budget_exceeded", "insufficient_quota")
                assert (
                    said["message"].startswith("Tenant acme has spent 1.") or "of 1.0000 CNY a day" in said["message"]
                )
                assert 0 < int(refused.field("retry-after") or 0) <= 86400
                assert spent >= 2  # 0.6 CNY each
                assert (await say(other, "globex")).status == 200
                assert (await say(client, "acme")).status == 402
            report = running.json("/api/v1/cost/report?window=1h&aggregate=tenant,state")
            booked = [
                row["cost_nano"] for row in report["rows"] if row["group"] == {"tenant": "acme", "state": "request"}
            ]
            assert booked[0] >= 10**9
            ends = await anyio.to_thread.run_sync(ended, tmp_path / "data" / "ledger.sqlite")
            assert ends == {("acme", "ok"): spent, ("acme", "rejected"): 2, ("globex", "ok"): 1}
    finally:
        await runner.cleanup()
