"""A sidecar in the test's own loop, and a receiver of its records that can refuse them."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web
from anyio.abc import Process

from agent.core.requests import RecordBatch, RecordReceipt, RequestEnded, RequestEvent, RequestRecord
from agent.lifecycle import Health
from agent.sidecar.app import RunningSidecar, running
from agent.sidecar.forward import Forwarder
from agent.sidecar.records.shipping import Shipping
from agent.sidecar.server import Listener
from agent.sidecar.settings import SidecarSettings
from tests.support.upstream import WAIT_SECONDS, until

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
SMALL_SPOOL = {"max_bytes": 1 << 20, "min_free_bytes": 0, "segment_bytes": 64 << 10, "group_seconds": 0.002}


@dataclass(slots=True)
class Proxy:
    """A running sidecar, and where its records go."""

    running: RunningSidecar
    folder: Path
    agent: "Receiver | None"

    @property
    def port(self) -> int:
        return self.running.port

    @property
    def admin_port(self) -> int:
        return self.running.admin_port

    @property
    def forwarder(self) -> Forwarder:
        return self.running.forwarder

    @property
    def listener(self) -> Listener:
        return self.running.listener

    @property
    def shipping(self) -> Shipping:
        return self.running.shipping


@asynccontextmanager
async def sidecar(upstream_url: str, **settings: Any) -> AsyncIterator[Proxy]:
    """A sidecar before `upstream_url`, its spool in a folder of its own.

    Without an `agent_url` its records go to a receiver of its own, where `events` and `records` find them.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engineroom-sidecar-")))
        agent = None if "agent_url" in settings else await stack.enter_async_context(receiver())
        given = {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "agent_url": agent.url if agent else NOWHERE,
            "name": "test",
            "spool_dir": folder,
            "spool": SMALL_SPOOL,
            "ship_drain_seconds": 5,
            "ship_interval_seconds": 0.01,
            "drain_seconds": 2,
            **settings,
        }
        started = await stack.enter_async_context(running(SidecarSettings(upstream=upstream_url, **given), Health()))
        yield Proxy(started, folder, agent)


def events(proxy: Proxy) -> tuple[RequestEvent, ...]:
    """Everything that has come to the sidecar's own receiver."""
    assert proxy.agent is not None, "this sidecar has another agent: look there"
    return tuple(proxy.agent.accepted)


def records(proxy: Proxy) -> list[RequestRecord]:
    """The finished requests that have come."""
    return [event.record for event in events(proxy) if isinstance(event, RequestEnded)]


async def record(proxy: Proxy) -> RequestRecord:
    """The one finished request, once it has come."""
    await until(lambda: len(records(proxy)) > 0)
    (found,) = records(proxy)
    return found


@dataclass(slots=True)
class Receiver:
    """An agent's ingest path. `refuse` says what to do with a batch: None accepts it, a status refuses it."""

    port: int = 0
    refuse: Callable[[int], int | None] = lambda _: None
    receipt: Callable[[int], RecordReceipt] | None = None  # instead of taking all; gets the number of events
    batches: list[RecordBatch] = field(default_factory=list)
    attempts: int = 0
    authorizations: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> list[RequestEvent]:
        return [event for batch in self.batches for event in batch.events]


@asynccontextmanager
async def receiver(
    refuse: Callable[[int], int | None] = lambda _: None, port: int = 0, state: Receiver | None = None
) -> AsyncIterator[Receiver]:
    """A real HTTP server that takes record batches."""
    state = state or Receiver(refuse=refuse)

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == "application/msgpack"
        batch = msgspec.msgpack.decode(await request.read(), type=RecordBatch)
        state.attempts += 1
        status = state.refuse(state.attempts)
        if status is not None:
            return web.Response(status=status, headers={"Retry-After": "0"}, text="not now")
        state.batches.append(batch)
        state.authorizations.add(request.headers.get("authorization", ""))
        through = max([event.sequence for event in batch.events], default=0)
        receipt = state.receipt(len(batch.events)) if state.receipt else RecordReceipt(accepted_through=through)
        return web.Response(body=msgspec.msgpack.encode(receipt), content_type="application/msgpack")

    app = web.Application()
    app.router.add_post("/ingest/v1/records", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    state.port = runner.addresses[0][1]
    try:
        yield state
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class SidecarProcess:
    """`engineroom sidecar` as a process of its own, and what it has said on stderr so far."""

    process: Process
    said: str = ""

    async def until_it_says(self, words: str) -> None:
        """Read its log until `words` come. Raises `anyio.EndOfStream` when it ends without them."""
        assert self.process.stderr is not None
        with anyio.fail_after(2 * WAIT_SECONDS):
            while words not in self.said:
                self.said += (await self.process.stderr.receive()).decode()

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.process.stderr is not None
        with anyio.fail_after(2 * WAIT_SECONDS):
            async for part in self.process.stderr:
                self.said += part.decode()
            return await self.process.wait()


@asynccontextmanager
async def sidecar_process(**settings: Any) -> AsyncIterator[SidecarProcess]:
    """The command with these settings in its environment; killed at the end if it still runs.

    Its spool lies in a folder of its own, unless `spool_dir` names one.
    """
    with tempfile.TemporaryDirectory(prefix="engineroom-sidecar-") as folder:
        more = {"spool_dir": folder, "spool__min_free_bytes": 0}
        given = {f"ENGINEROOM__SIDECAR__{key.upper()}": str(value) for key, value in (more | settings).items()}
        async with _process(given) as process:
            yield process


@asynccontextmanager
async def _process(environment: dict[str, str]) -> AsyncIterator[SidecarProcess]:
    process = await anyio.open_process(
        (sys.executable, "-m", "agent", "sidecar"), cwd=ROOT, env=os.environ | environment, stdin=None, stdout=None
    )
    running_process = SidecarProcess(process)
    try:
        yield running_process
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
        print(running_process.said)  # shown by pytest when the test fails
