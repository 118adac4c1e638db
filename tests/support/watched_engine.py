"""A real engine behind a real sidecar, watched by a real agent; and a client that keeps what it saw.

Agent and sidecar are processes of their own. The agent scrapes the engine twice a second under the name `real`.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio

from agent.clock import boot_ns
from agent.core.metrics.exposition import Exposition
from tests.support.agent import RunningAgent, agent, free_port
from tests.support.raw_client import hear_answer, reset
from tests.support.sidecar import sidecar_process
from tests.support.upstream import connect

ENGINE = "real"
INTERVAL_SECONDS = 0.5


@dataclass
class Client:
    """Asks one server, and counts as a client can: from the bytes alone."""

    port: int
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0  # requests it went away from
    input_tokens: int = 0  # as the answers say
    output_tokens: int = 0
    first_seconds: list[float] = field(default_factory=list)  # of streams: request sent to first token heard

    async def ask(self, body: Any, path: str = "/v1/chat/completions") -> None:
        """One whole answer, not streamed. A body of bytes is sent as it is."""
        async with connect(self.port) as wire:
            await wire.send(_request(body, path))
            heard = await hear_answer(wire.reader)
        assert heard.whole
        self.statuses[heard.status] += 1
        if heard.status == 200:
            self._count(json.loads(heard.body)["usage"])

    async def stream(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
        """One stream to its end; its last event tells the tokens."""
        asks = body | {"stream": True, "stream_options": {"include_usage": True}}
        async with connect(self.port) as wire:
            began = boot_ns()
            await wire.send(_request(asks, path))
            status = int((await wire.head()).start.split(" ")[1])
            usage = None
            first = None
            while (event := await _event(wire.reader)) != b"[DONE]":
                said = json.loads(event)
                if first is None and any(_text(choice) for choice in said["choices"]):
                    first = (boot_ns() - began) / 1e9
                usage = said.get("usage") or usage
            await wire.reader.readuntil(b"0\r\n\r\n")  # who leaves before the end of the body has left early
        self.statuses[status] += 1
        assert first is not None
        self.first_seconds.append(first)
        self._count(usage)

    async def leave(self, body: dict[str, Any], after_tokens: int, path: str = "/v1/chat/completions") -> None:
        """A stream that the client leaves once it has heard so many tokens."""
        async with connect(self.port) as wire:
            await wire.send(_request(body | {"stream": True}, path))
            heard = 0
            while heard < after_tokens:
                heard += any(_text(choice) for choice in json.loads(await _event(wire.reader))["choices"])
            reset(wire)
        self.left += 1
        self.output_tokens += heard

    def _count(self, usage: dict[str, int] | None) -> None:
        assert usage is not None
        self.input_tokens += usage["prompt_tokens"]
        self.output_tokens += usage["completion_tokens"]


def _request(body: Any, path: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


async def _event(reader: Any) -> bytes:
    """The next event's data; what frames it (chunks) is not looked at."""
    with anyio.fail_after(30):
        while True:
            line: bytes = await reader.readuntil(b"\n")
            if line.startswith(b"data: "):
                return line[6:].strip()


def _text(choice: dict[str, Any]) -> str:
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


@dataclass
class Watched:
    """What the agent says of the engine."""

    running: RunningAgent
    client: Client  # of the sidecar

    def value(self, query: str) -> float | None:
        """The only series of a PromQL query; None for none."""
        answer = self.running.json(f"/api/v1/query?query={quote(query)}")
        found = answer["data"]["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def shown(self, name: str, **labels: str) -> float | None:
        """The only series of this name and these labels on the agent's /metrics, which is never behind."""
        page = Exposition().parse(self.running.get("/metrics")[1].encode())
        found = [one for one in page.named(name) if all(one.key.get(label) == labels[label] for label in labels)]
        assert len(found) <= 1, found
        return found[0].value if found else None

    async def until(self, query: str, wanted: float) -> None:
        """Wait until a query gives this number. Raises `AssertionError` with what it gave last."""

        await self._until(lambda: self.value(query), query, wanted)

    async def until_shown(self, wanted: float, name: str, **labels: str) -> None:
        """The same of a series on /metrics."""
        await self._until(lambda: self.shown(name, **labels), f"{name}{labels}", wanted)

    async def _until(self, get: Callable[[], float | None], what: str, wanted: float) -> None:
        try:
            await anyio.to_thread.run_sync(self.running.until, lambda: get() == wanted, what)
        except AssertionError as error:
            counts = [line for line in self.running.get("/metrics")[1].splitlines() if "llm_requests_total{" in line]
            raise AssertionError(f"{what} is {get()}, not {wanted}: {error}; {counts}") from None


@asynccontextmanager
async def watched(folder: Path, url: str, kind: str) -> AsyncIterator[Watched]:
    """All three, ready; gone when the body ends."""
    port = free_port()
    target = {"name": ENGINE, "url": url, "kind": kind, "interval_seconds": INTERVAL_SECONDS}
    config = {
        "engines": {"discover": False, "targets": [target]},
        "gpus": {"enabled": False},
    }
    with agent(folder / "data", config=config) as running:
        running.ready()
        async with sidecar_process(
            listen=f"127.0.0.1:{port}",
            admin_listen="127.0.0.1:0",
            upstream=url,
            agent_url=f"http://127.0.0.1:{running.api}",
            ship_interval_seconds=0.05,
            name="test",
        ) as process:
            await process.until_it_says("sidecar_listening")
            yield Watched(running, Client(port))
