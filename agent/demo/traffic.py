"""Requests of made-up tenants to the demo's engine: most through the sidecar, some past it on purpose."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import anyio

from agent.demo.engine import MODEL_NAME

BYPASS_SHARE = 0.15
USAGE_SHARE = 0.8  # of streams ask for their usage
OUTPUT_TOKENS = (60, 400)
PATIENCE_BYTES = 1000  # of an answer, after which a client in a hurry leaves: some words of some hundred
QUESTIONS = (
    "Summarise the incident of {day} in three sentences.",
    "Translate to French: the pump in room {day} is warm.",
    "Write a poem about engine {day}.",
    "You are a careful assistant. Answer with sources. Question {day}: why do GPUs throttle?",
)


@dataclass(frozen=True, slots=True)
class Habits:
    """How a tenant's clients behave: `weight` of all requests, and shares (0..1) of their own.

    `streamed`: not as a whole. `leaves`: hang up after the first words. `retries`: of those who left, ask again.
    """

    tenant: str
    weight: int
    streamed: float = 0.7
    leaves: float = 0.0
    retries: float = 0.0


HABITS = (
    Habits("search", 4, streamed=1.0),
    Habits("support", 3, streamed=0.0),
    Habits("research", 3, streamed=0.6),
    Habits("mobile", 1, streamed=1.0, leaves=0.5),
    Habits("nightly-tests", 1, streamed=1.0, leaves=0.6, retries=1.0),
)
TENANTS = tuple(habits.tenant for habits in HABITS)


@dataclass(slots=True)
class Tally:
    """What the clients saw. `sent` counts requests through the sidecar, `bypassed` those past it.

    Of those sent, `left` were not read to their end on purpose, and `retried` were sent again because of that.
    """

    sent: int = 0
    answered: int = 0
    failed: int = 0
    left: int = 0
    retried: int = 0
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
        async with (
            aiohttp.ClientSession(timeout=timeout) as through,
            # The engine closes connections without a word; a fresh one for each request cannot meet that moment.
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as past,
            anyio.create_task_group() as group,
        ):
            for number in range(self._clients):
                group.start_soon(self._client, through, past, random.Random(self._seed * 1000 + number))

    async def _client(self, through: aiohttp.ClientSession, past: aiohttp.ClientSession, rng: random.Random) -> None:
        weights = [habits.weight for habits in HABITS]
        while not self._stopping.is_set():
            (habits,) = rng.choices(HABITS, weights)
            leaves = rng.random() < habits.leaves
            body = self._question(rng, habits)
            if rng.random() < BYPASS_SHARE:
                await self._past(past, body)
            elif await self._ask(through, habits.tenant, body, leaves=leaves) and rng.random() < habits.retries:
                self.tally.retried += 1
                await self._ask(through, habits.tenant, body, attempt=1)
            with anyio.move_on_after(rng.expovariate(1 / self._pause_seconds)):
                await self._stopping.wait()

    def _question(self, rng: random.Random, habits: Habits) -> dict[str, object]:
        streamed = rng.random() < habits.streamed
        body: dict[str, object] = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": rng.choice(QUESTIONS).format(day=rng.randrange(1000))}],
            "max_tokens": rng.randrange(*OUTPUT_TOKENS),
            "stream": streamed,
        }
        if streamed and rng.random() < USAGE_SHARE:
            body["stream_options"] = {"include_usage": True}
        return body

    async def _past(self, session: aiohttp.ClientSession, body: dict[str, object]) -> None:
        self.tally.bypassed += 1
        await self._send(session, self._engine, {}, body)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        tenant: str,
        body: dict[str, object],
        *,
        leaves: bool = False,
        attempt: int = 0,
    ) -> bool:
        """Through the sidecar, with the fields of an OpenAI client. True: it was not read to its end."""
        tally = self.tally
        tally.sent += 1
        fields = {"x-engineroom-tenant": tenant, "x-stainless-retry-count": str(attempt)}
        outcome = await self._send(session, self._sidecar, fields, body, PATIENCE_BYTES if leaves else None)
        tally.left += outcome == "left"
        tally.answered += outcome == "answered"
        return outcome == "left"

    async def _send(
        self,
        session: aiohttp.ClientSession,
        base: str,
        fields: dict[str, str],
        body: dict[str, object],
        patience_bytes: int | None = None,
    ) -> str:
        """`answered`, `left` (the connection is closed after `patience_bytes` of the answer) or `failed`."""
        tally = self.tally
        tally.in_flight += 1
        try:
            async with session.post(f"{base}/v1/chat/completions", json=body, headers=fields) as answer:
                whole = await _read(answer.content.iter_any(), patience_bytes)
                if answer.status == 200 and not whole:
                    answer.close()
                    return "left"
                reason = "" if answer.status == 200 else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = type(error).__name__
        finally:
            tally.in_flight -= 1
        if not reason:
            return "answered"
        tally.failed += 1
        tally.reasons[reason] = tally.reasons.get(reason, 0) + 1
        return "failed"


async def _read(pieces: AsyncIterator[bytes], most_bytes: int | None) -> bool:
    """Whether the answer was read to its end."""
    read = 0
    async for piece in pieces:
        read += len(piece)
        if most_bytes is not None and read >= most_bytes:
            return False
    return True
