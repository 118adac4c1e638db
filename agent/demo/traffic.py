"""Requests of made-up tenants to the demo's engine: most through the sidecar, some past it on purpose."""

import random
from dataclasses import dataclass, field

import aiohttp
import anyio

from agent.demo.engine import MODEL_NAME

TENANTS = ("search", "support", "research")
BYPASS_SHARE = 0.15
QUESTIONS = (
    "Summarise the incident of {day} in three sentences.",
    "Translate to French: the pump in room {day} is warm.",
    "Write a poem about engine {day}.",
    "You are a careful assistant. Answer with sources. Question {day}: why do GPUs throttle?",
)


@dataclass(slots=True)
class Tally:
    """What the clients saw. `sent` counts requests through the sidecar, `bypassed` those past it."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    bypassed: int = 0
    in_flight: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class Traffic:
    """`clients` closed-loop clients with seeded questions; ends when cancelled or after `stop()`."""

    def __init__(self, sidecar: str, engine: str, *, clients: int, pause_seconds: float, seed: int = 7) -> None:
        self.tally = Tally()
        self._sidecar = sidecar
        self._engine = engine
        self._clients = clients
        self._pause_seconds = pause_seconds
        self._seed = seed
        self._stopping = anyio.Event()

    def stop(self) -> None:
        """Let requests in flight finish and start no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until stopped."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session, anyio.create_task_group() as group:
            for number in range(self._clients):
                group.start_soon(self._client, session, random.Random(self._seed * 1000 + number))

    async def _client(self, session: aiohttp.ClientSession, rng: random.Random) -> None:
        while not self._stopping.is_set():
            bypass = rng.random() < BYPASS_SHARE
            await self._ask(session, rng, bypass=bypass)
            with anyio.move_on_after(rng.expovariate(1 / self._pause_seconds)):
                await self._stopping.wait()

    async def _ask(self, session: aiohttp.ClientSession, rng: random.Random, *, bypass: bool) -> None:
        tally = self.tally
        streamed = rng.random() < 0.7
        body: dict[str, object] = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": rng.choice(QUESTIONS).format(day=rng.randrange(1000))}],
            "max_tokens": rng.randrange(60, 400),
            "stream": streamed,
        }
        if streamed and rng.random() < 0.8:
            body["stream_options"] = {"include_usage": True}
        base = self._engine if bypass else self._sidecar
        headers = {"x-engineroom-tenant": rng.choice(TENANTS)}
        if bypass:
            tally.bypassed += 1
        else:
            tally.sent += 1
        tally.in_flight += 1
        try:
            async with session.post(f"{base}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                reason = "" if answer.status == 200 else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = type(error).__name__
        tally.in_flight -= 1
        if reason:
            tally.failed += 1
            tally.reasons[reason] = tally.reasons.get(reason, 0) + 1
        elif not bypass:
            tally.answered += 1
