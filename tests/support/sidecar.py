"""A sidecar in the test's own loop, and a receiver of its records that can refuse them."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
from agent.sidecar.settings import SidecarSettings
from tests.support.upstream import WAIT_SECONDS, until

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def sidecar(upstream_url: str, **settings: Any) -> AsyncIterator[RunningSidecar]:
    """A sidecar before `upstream_url`; without an agent_url its records stay in its queue."""
    given = {
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "agent_url": NOWHERE,
        "name": "test",
        "ship_drain_seconds": 0 if "agent_url" not in settings else 5,
        "ship_interval_seconds": 0.02,
        "drain_seconds": 2,
        **settings,
    }
    async with running(SidecarSettings(upstream=upstream_url, **given), Health()) as started:
        yield started


def events(started: RunningSidecar) -> tuple[RequestEvent, ...]:
    """Everything in the queue."""
    return started.queue.peek(1_000_000)


def records(started: RunningSidecar) -> list[RequestRecord]:
    """The finished requests in the queue."""
    return [event.record for event in events(started) if isinstance(event, RequestEnded)]


async def record(started: RunningSidecar) -> RequestRecord:
    """The one finished request, once there is one."""
    await until(lambda: len(records(started)) > 0)
    (found,) = records(started)
    return found


@dataclass(slots=True)
class Receiver:
    """An agent's ingest path. `refuse` says what to do with a batch: None accepts it, a status refuses it."""

    port: int = 0
    refuse: Callable[[int], int | None] = lambda _: None
    batches: list[RecordBatch] = field(default_factory=list)
    attempts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> list[RequestEvent]:
        return [event for batch in self.batches for event in batch.events]


@asynccontextmanager
async def receiver(refuse: Callable[[int], int | None] = lambda _: None, port: int = 0) -> AsyncIterator[Receiver]:
    """A real HTTP server that takes record batches."""
    state = Receiver(refuse=refuse)

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == "application/msgpack"
        batch = msgspec.msgpack.decode(await request.read(), type=RecordBatch)
        state.attempts += 1
        status = state.refuse(state.attempts)
        if status is not None:
            return web.Response(status=status, headers={"Retry-After": "0"}, text="not now")
        state.batches.append(batch)
        receipt = RecordReceipt(accepted_through=max([event.sequence for event in batch.events], default=0))
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
    """The command with these settings in its environment; killed at the end if it still runs."""
    given = {f"ENGINEROOM__SIDECAR__{key.upper()}": str(value) for key, value in settings.items()}
    process = await anyio.open_process(
        (sys.executable, "-m", "agent", "sidecar"), cwd=ROOT, env=os.environ | given, stdin=None, stdout=None
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
