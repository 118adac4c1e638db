"""Clients that know what must be in the ledger: every answer's number, and what the numbers in its record must be.

The engine of these tests says of request number n that it had n input tokens and `output_tokens(n)` output tokens, so a
row of the ledger tells which request it is, and whether it is whole.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
from aiohttp import web
from anyio.abc import Process

from agent.clock import boot_ns
from tests.support.agent import ROOT, free_port
from tests.support.told_requests import told_requests

NS = 1_000_000_000
PATIENCE_SECONDS = 60
OBLIGED_AFTER_NS = NS // 2  # an answer that ended so long before its sidecar was killed must be accounted for


def output_tokens(number: int) -> int:
    """What the record of request `number` must say."""
    return number * 7919 % 1009


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """An engine that answers each request with its own number; gives its URL."""

    async def answer(request: web.Request) -> web.Response:
        number = (await request.json())["n"]
        usage = {"prompt_tokens": number, "completion_tokens": output_tokens(number)}
        return web.json_response({"model": "m", "choices": [], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Answered:
    """What the clients saw: number -> when its answer was whole (boot clock)."""

    sent: int = 0
    at_ns: dict[int, int] = field(default_factory=dict)
    stopped: bool = False

    async def ask(self, port: int) -> None:
        """One client: request after request until stopped; whoever is away is asked again."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while not self.stopped:
                self.sent += 1
                number = self.sent
                try:
                    async with session.post(f"http://127.0.0.1:{port}/v1/completions", json={"n": number}) as answer:
                        body = json.loads(await answer.read())
                        assert body["usage"]["prompt_tokens"] == number
                        self.at_ns[number] = boot_ns()
                except (aiohttp.ClientError, TimeoutError):
                    await anyio.sleep(0.02)


@dataclass
class Child:
    """A process of ours that is killed and started again on the same ports and folders."""

    command: str
    environment: dict[str, str]
    log: Path
    arguments: tuple[str, ...] = ()
    process: Process | None = None
    kills: list[int] = field(default_factory=list)  # boot clock
    starts: list[int] = field(default_factory=list)

    async def start(self) -> None:
        self.starts.append(boot_ns())
        with self.log.open("ab") as output:
            self.process = await anyio.open_process(
                [sys.executable, "-m", "agent", self.command, *self.arguments],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def was_down(self, at_ns: int, before_ns: int) -> bool:
        """Whether `at_ns` lies within `before_ns` before a kill, or between a kill and the start that followed.

        What a killed process has sent lies in the sockets' buffers: its clients read it when it is dead.
        """
        later = [*self.starts[1:], 1 << 62]
        return any(kill - before_ns < at_ns <= start for kill, start in zip(self.kills, later, strict=False))

    def must_not_have_ended_by_itself(self) -> None:
        assert self.process is not None
        assert self.process.returncode in (None, -signal.SIGKILL), (
            f"{self.command} ended: {self.log.read_text()[-3000:]}"
        )

    async def kill(self) -> None:
        assert self.process is not None
        self.must_not_have_ended_by_itself()
        self.kills.append(boot_ns())
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self.process.wait()


@dataclass
class Node:
    """An agent and a sidecar as processes."""

    folder: Path
    agent: Child
    sidecar: Child
    port: int
    admin: int
    api: int

    async def metric(self, start: str) -> float | None:
        """A value on the sidecar's /metrics; None while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"http://127.0.0.1:{self.admin}/metrics") as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start)), None)

    async def identity(self) -> tuple[float, float] | None:
        """(accepted, waiting + settled) of the sidecar's records in one scrape."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin}/metrics") as answer,
        ):
            text = await answer.text()
        value: Counter[str] = Counter()
        for line in text.splitlines():
            name, _, rest = line.partition("{")
            if 'stream="records"' in rest:
                value[name] += float(rest.rsplit(" ", 1)[1])
        settled = value["engineroom_delivery_items_total"] + value["engineroom_delivery_waiting_items"]
        return value["engineroom_delivery_accepted_items_total"], settled

    async def until(self, right: Callable[[], Awaitable[bool]]) -> None:
        """Bounded polling: these are other processes."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while not await right():
                for child in (self.sidecar, self.agent):
                    child.must_not_have_ended_by_itself()
                await anyio.sleep(0.02)

    async def until_answered(self, answered: "Answered", count: int) -> None:
        """Until the clients have seen so many whole answers."""

        async def enough() -> bool:
            return len(answered.at_ns) >= count

        await self.until(enough)

    async def until_delivered(self) -> None:
        """Until nothing waits in the sidecar's spool."""

        async def nothing_waits() -> bool:
            return await self.metric('engineroom_delivery_waiting_items{stream="records"}') == 0

        await self.until(nothing_waits)

    def ledger(self) -> list[tuple[int, int, str]]:
        """(input tokens, output tokens, outcome) of every request that ended."""
        found = told_requests(self.folder / "data" / "ledger.sqlite")
        return [(one.input_tokens or 0, one.output_tokens or 0, one.outcome) for one in found if one.outcome]


@asynccontextmanager
async def node(folder: Path, engine_url: str) -> AsyncIterator[Node]:
    """Both processes, started; killed at the end if they still run."""
    port, admin, api, probes = (free_port() for _ in range(4))
    common = {"NO_COLOR": "1"}
    agent_environment = common | {
        "ENGINEROOM__API__LISTEN": f"127.0.0.1:{api}",
        "ENGINEROOM__API__PROBES_LISTEN": f"127.0.0.1:{probes}",
        "ENGINEROOM__STORAGE__DATA_DIR": str(folder / "data"),
        "ENGINEROOM__ENGINES__DISCOVER": "false",
    }
    sidecar_environment = common | {
        "ENGINEROOM__SIDECAR__LISTEN": f"127.0.0.1:{port}",
        "ENGINEROOM__SIDECAR__ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "ENGINEROOM__SIDECAR__UPSTREAM": engine_url,
        "ENGINEROOM__SIDECAR__AGENT_URL": f"http://127.0.0.1:{api}",
        "ENGINEROOM__SIDECAR__SPOOL_DIR": str(folder / "spool"),
        "ENGINEROOM__SIDECAR__SPOOL__SEGMENT_BYTES": str(64 << 10),  # segments come and go while we look
        "ENGINEROOM__SIDECAR__SPOOL__MAX_BYTES": str(64 << 20),
        "ENGINEROOM__SIDECAR__SPOOL__MIN_FREE_BYTES": "0",
        "ENGINEROOM__SIDECAR__SHIP_INTERVAL_SECONDS": "0.05",
        "ENGINEROOM__SIDECAR__NAME": "oracle",
    }
    agent = Child("run", agent_environment, folder / "agent.log")
    sidecar = Child("sidecar", sidecar_environment, folder / "sidecar.log")
    try:
        await agent.start()
        await sidecar.start()
        yield Node(folder, agent, sidecar, port, admin, api)
    finally:
        for child in (sidecar, agent):
            if child.process is not None and child.process.returncode is None:
                child.process.kill()
            if child.process is not None:
                with anyio.CancelScope(shield=True):
                    await child.process.wait()
        for child in (sidecar, agent):
            print(f"--- {child.command}\n{child.log.read_text()[-4000:]}")  # shown by pytest when the test fails


async def strike(node: Node, chance: random.Random, kills: int) -> None:
    """Kill one of the two at random instants, so many times in all, and start it again after a random while."""
    for _ in range(kills):
        await anyio.sleep(chance.uniform(0.05, 1.5))
        victim = node.sidecar if chance.random() < 0.5 else node.agent
        await victim.kill()
        await anyio.sleep(chance.uniform(0, 0.5))
        await victim.start()


@dataclass(frozen=True)
class Verdict:
    """What the ledger has of what the clients saw."""

    obliged: int
    missing: list[int]
    corrupted: list[int]
    spurious: list[int]
    twice: list[int]


def judge(node: Node, answered: Answered) -> Verdict:
    """Compare; to be called when the agent has stopped."""
    rows = [row for row in node.ledger() if row[2] == "ok"]
    recorded = Counter(row[0] for row in rows)
    obliged = [number for number, at_ns in answered.at_ns.items() if not node.sidecar.was_down(at_ns, OBLIGED_AFTER_NS)]
    return Verdict(
        obliged=len(obliged),
        missing=[number for number in obliged if number not in recorded],
        corrupted=[row[0] for row in rows if row[1] != output_tokens(row[0])],
        spurious=[number for number in recorded if not 1 <= number <= answered.sent],
        twice=[number for number, times in recorded.items() if times > 1],
    )
