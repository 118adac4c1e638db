"""A node whose money is looked at from outside: simulated GPUs, a real engine, a sidecar, an agent that may be killed.

Clients count what they are told. The witness of the bill knows two instants of each GPU and a price, and nothing else.
"""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from agent.demo.gpus.control import Control, SimulatedProcess, write
from tests.support.agent import free_port
from tests.support.crash_oracle import PATIENCE_SECONDS, Child
from tests.support.llamacpp import LlamaServer, llama_server

TENANTS = ("acme", "globex", "initech", "umbrella")
PRICE = "13.37"  # an hour of a GPU
PRICE_PER_HOUR = Fraction(PRICE)
CURRENCY = "EUR"
GIB = 1 << 30
WATERMARK_SECONDS = 5


@dataclass
class Ledgered:
    """What clients were told: request id -> tenant, and tokens by tenant ('' for who went past the sidecar)."""

    ids: dict[str, str] = field(default_factory=dict)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    def count(self, tenant: str, headers: Any, usage: dict[str, int]) -> None:
        self.requests[tenant] += 1
        self.input_tokens[tenant] += usage["prompt_tokens"]
        self.output_tokens[tenant] += usage["completion_tokens"]
        if tenant:
            self.ids[headers["x-engineroom-request-id"]] = tenant


@dataclass
class MoneyNode:
    """The running parts."""

    folder: Path
    engine: LlamaServer
    agent: Child
    sidecar: Child
    api: int
    port: int
    session: aiohttp.ClientSession
    told: Ledgered = field(default_factory=Ledgered)

    async def ask(self, tenant: str, tokens: int, words: str = "hello") -> None:
        """One streamed or whole completion; without a tenant it goes past the sidecar. Refusals are asked again."""
        port = self.port if tenant else self.engine.port
        body = {"model": "tiny-random", "prompt": words, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        headers = {"x-engineroom-tenant": tenant} if tenant else {}
        async with self.session.post(f"http://127.0.0.1:{port}/v1/completions", json=body, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            self.told.count(tenant, answer.headers, said["usage"])

    async def get(self, path: str) -> Any:
        """JSON of the agent; None while it does not answer."""
        try:
            async with self.session.get(f"http://127.0.0.1:{self.api}{path}") as answer:
                if answer.status not in (200, 404):
                    print(path, answer.status, await answer.text())
                return json.loads(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def closed(self) -> str:
        """A window from before the beginning to where every GPU is closed now: what it holds does not change."""
        found = await self.get("/api/v1/cost/reconcile")
        through = min(slot["to_ns"] for slot in found["slots"]) // 10**9
        return f"{through - 86400},{through}"

    async def rows(self, aggregate: str, **more: str) -> dict[tuple[str, ...], dict[str, Any]]:
        """A report's rows by the values of its dimensions."""
        asked = "&".join(f"{key}={value}" for key, value in {"window": "1d", "aggregate": aggregate, **more}.items())
        report = await self.get(f"/api/v1/cost/report?{asked}")
        assert report is not None
        names = aggregate.split(",")
        return {tuple(row["group"][name] for name in names): row for row in report["rows"]}

    async def until(self, right: Any, what: str) -> Any:
        """The first true answer of the coroutine function `right`; bounded polling of another process."""
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                while not (found := await right()):
                    self.agent.must_not_have_ended_by_itself()
                    self.sidecar.must_not_have_ended_by_itself()
                    await anyio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}") from None
        return found

    async def ready(self) -> None:
        """Until GPUs are booked and the engine is known."""

        async def known() -> bool:
            slots = await self.get("/api/v1/slots")
            return bool(slots and any("real" in str(one) for one in slots))

        await self.until(known, "the engine has its GPU")

    async def booked(self) -> None:
        """Until the bill has begun."""

        async def begun() -> bool:
            found = await self.get("/api/v1/cost/reconcile")
            return bool(found and found["slots"])

        await self.until(begun, "the first seconds are booked")

    async def settled(self) -> dict[str, int | None]:
        """Request id -> its final price in nano-units, as the API explains each; None: nobody watched while it ran."""
        found: dict[str, int | None] = {}

        async def final() -> bool:
            for request_id, tenant in self.told.ids.items():
                if request_id not in found:
                    cost = await self.get(f"/api/v1/cost/requests/{request_id}")
                    if cost is None or not cost["settled"]:
                        return False
                    assert cost["tenant"] == tenant
                    found[request_id] = cost["cost_nano"]
            return True

        await self.until(final, f"all {len(self.told.ids)} requests are settled")
        return found

    async def strike(self, chance: random.Random, kills: int) -> None:
        """Kill the agent at random instants and start it again."""
        for _ in range(kills):
            await anyio.sleep(chance.choice((chance.uniform(0.3, 1.5), chance.uniform(6, 8))))  # settles after 5 s
            await self.agent.kill()
            await self.agent.start()
            if chance.random() < 0.7:  # sometimes it is killed while it starts
                await self.until(lambda: self.get("/api/v1/slots"), "the agent is back")


def witness(price_per_hour: Fraction, from_ns: int, to_ns: int) -> int:
    """The bill of one GPU: price x wall time, in whole nano-units. All that somebody outside can know."""
    return int(price_per_hour * 10**9 * (to_ns - from_ns) / (3600 * 10**9))


async def identity(node: MoneyNode) -> None:
    """Time, money and joules of every GPU add up, and the witness gets the same bill."""
    found = await node.get("/api/v1/cost/reconcile")
    assert found["reconciles"], found
    for slot in found["slots"]:
        assert sum(slot["parts_ns"].values()) == slot["wall_ns"] == slot["to_ns"] - slot["from_ns"]
        bill = witness(PRICE_PER_HOUR, slot["from_ns"], slot["to_ns"])
        assert sum(slot["parts_nano"].values()) == slot["bill_nano"] == bill


@asynccontextmanager
async def money_node(folder: Path, *, training: int | None = None) -> AsyncIterator[MoneyNode]:
    """Eight simulated H100: llama.cpp owns the first, `training` (a pid) works on the second, nobody on the others."""
    control = folder / "control.json"
    api, probes, port, admin = (free_port() for _ in range(4))
    with llama_server(folder) as engine:
        processes = {"0": [SimulatedProcess(pid=engine.pid, memory_bytes=20 * GIB)]}
        if training is not None:
            processes["1"] = [SimulatedProcess(pid=training, memory_bytes=60 * GIB)]
        write(control, Control(processes=processes, load={"0": 0.6, "1": 0.9 if training is not None else 0.0}))
        config = folder / "engineroom.yaml"
        config.write_text(json.dumps(_settings(folder, engine, api, probes)))
        simulated = ("--simulate-gpus", "h100x8", "--simulate-control", str(control))
        agent = Child("run", {"NO_COLOR": "1"}, folder / "agent.log", ("--config", str(config), *simulated))
        sidecar = Child("sidecar", _sidecar(folder, engine, api, port, admin), folder / "sidecar.log")
        try:
            await agent.start()
            await sidecar.start()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
                node = MoneyNode(folder, engine, agent, sidecar, api, port, session)
                await node.ready()
                yield node
                assert await sidecar.stop() == 0
                assert await agent.stop() == 0
        finally:
            for child in (sidecar, agent):
                if child.process is not None and child.process.returncode is None:
                    child.process.kill()
                    with anyio.CancelScope(shield=True):
                        await child.process.wait()
                print(f"--- {child.command}\n{child.log.read_text()[-6000:]}")  # shown when the test fails


def _settings(folder: Path, engine: LlamaServer, api: int, probes: int) -> dict[str, Any]:
    row = {"gpu": "*", "per_gpu_hour": PRICE}
    return {
        "api": {"listen": f"127.0.0.1:{api}", "probes_listen": f"127.0.0.1:{probes}"},
        "storage": {"data_dir": str(folder / "data")},
        "engines": {"discover": False, "targets": [{"name": "real", "url": engine.url, "gpus": ["0"]}]},
        "workloads": {"interval_seconds": 1},
        "prices": {"books": [{"currency": CURRENCY, "rows": [row]}]},
    }


def _sidecar(folder: Path, engine: LlamaServer, api: int, port: int, admin: int) -> dict[str, str]:
    return {
        "NO_COLOR": "1",
        "ENGINEROOM__SIDECAR__LISTEN": f"127.0.0.1:{port}",
        "ENGINEROOM__SIDECAR__ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "ENGINEROOM__SIDECAR__UPSTREAM": engine.url,
        "ENGINEROOM__SIDECAR__AGENT_URL": f"http://127.0.0.1:{api}",
        "ENGINEROOM__SIDECAR__SPOOL_DIR": str(folder / "spool"),
        "ENGINEROOM__SIDECAR__SPOOL__MIN_FREE_BYTES": "0",
        "ENGINEROOM__SIDECAR__SHIP_INTERVAL_SECONDS": "0.05",
    }
