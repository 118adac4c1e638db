"""Record events → numbered, held in memory, sent in batches to the agent until it has accepted them.

`EventQueue` is what a durable queue can take the place of: `put`, `peek`, `release`.
"""

import random
from collections import deque
from collections.abc import Callable

import aiohttp
import anyio
import msgspec
import structlog

from agent.clock import NS, boot_ns, unix_ns
from agent.core.ports import Rejected, TryLater
from agent.core.requests import RecordBatch, RecordReceipt, RequestEnded, RequestEvent, RequestStarted
from agent.sidecar.settings import SidecarSettings

log = structlog.get_logger()

MEDIA_TYPE = "application/msgpack"
MAX_BACKOFF_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.2
ENDS_ONLY_FROM = (
    0.9  # above this fill starts and progresses are dropped, so that ends, which tell everything, still fit
)


class EventQueue:
    """Events in the order of their numbers, at most `limit`. What does not fit is dropped, counted and logged."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sequence = 0
        self.dropped: dict[str, int] = {"start": 0, "progress": 0, "end": 0}
        self._events: deque[RequestEvent] = deque()
        self._open: set[str] = set()
        self._ends_only_from = int(limit * ENDS_ONLY_FROM)
        self._dropping = False

    def __len__(self) -> int:
        return len(self._events)

    @property
    def open(self) -> int:
        """Requests that were told to have started and not yet to have ended."""
        return len(self._open)

    def put(self, make: Callable[[int], RequestEvent]) -> None:
        """Number the event that `make` builds and hold it. Never blocks, never raises for want of room."""
        self.sequence += 1
        event = make(self.sequence)
        if isinstance(event, RequestStarted):
            self._open.add(event.id)
        elif isinstance(event, RequestEnded):
            self._open.discard(event.record.id)
        held = len(self._events)
        if held >= self._ends_only_from and (held >= self.limit or not isinstance(event, RequestEnded)):
            self.dropped[str(event.__struct_config__.tag)] += 1
            if not self._dropping:
                self._dropping = True
                log.error("record_events_dropped", held=held, limit=self.limit)
            return
        self._events.append(event)

    def peek(self, count: int) -> tuple[RequestEvent, ...]:
        """The oldest events; they stay until released."""
        events = self._events
        return tuple(events[i] for i in range(min(count, len(events))))

    def release(self, through: int) -> int:
        """Forget the events numbered up to `through`; returns how many those were."""
        events = self._events
        before = len(events)
        while events and events[0].sequence <= through:
            events.popleft()
        if self._dropping and len(events) < self._ends_only_from // 2:
            self._dropping = False
            log.info("record_events_fit_again", dropped=sum(self.dropped.values()))
        return before - len(events)


class Shipper:
    """Sends what the queue holds, oldest first, one batch at a time, each until the agent has accepted it."""

    def __init__(self, queue: EventQueue, settings: SidecarSettings, epoch: int) -> None:
        self.queue = queue
        self.settings = settings
        self.epoch = epoch
        self.shipped = 0
        self.failures = 0
        self.reachable: bool | None = None
        self._url = f"{settings.agent_url}/ingest/v1/records"
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(RecordReceipt)
        self._draining = anyio.Event()
        self._heard_ns = boot_ns()  # when the agent last accepted something
        self._batch_events = settings.ship_batch_events

    async def run(self) -> None:
        """Ship until `drain` was called and nothing is left. Cancelling it leaves unaccepted events in the queue."""
        timeout = aiohttp.ClientTimeout(total=self.settings.ship_timeout_seconds)
        attempts = 0
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                if len(self.queue) < self._batch_events and attempts == 0 and not self._draining.is_set():
                    await self._pause(self.settings.ship_interval_seconds)
                batch = self.queue.peek(self._batch_events)
                if not batch and self._draining.is_set():
                    return
                if not batch and not self._heartbeat_is_due():
                    continue
                try:
                    receipt = await self.send(session, batch)
                except (TryLater, Rejected) as error:
                    attempts += 1
                    self._failed(error, batch)
                    after = error.after_seconds if isinstance(error, TryLater) else None
                    await self._pause(self._backoff(attempts, after))
                    continue
                attempts = 0
                self._heard_ns = boot_ns()
                self.shipped += self.queue.release(receipt.accepted_through)
                if batch and receipt.accepted_through < batch[-1].sequence:
                    attempts = 1
                    await self._pause(self._backoff(1, None))
                if self.reachable is not True:
                    log.info("records_accepted", agent=self.settings.agent_url)
                    self.reachable = True

    def drain(self) -> None:
        """No more events come: send what is left, then let `run` end."""
        self._draining.set()

    def _heartbeat_is_due(self) -> bool:
        """While a request is open and nothing happens, an empty batch says that this sidecar still watches it."""
        return self.queue.open > 0 and boot_ns() - self._heard_ns >= self.settings.heartbeat_seconds * NS

    async def send(self, session: aiohttp.ClientSession, events: tuple[RequestEvent, ...]) -> RecordReceipt:
        """One batch. Raises `TryLater` for anything that may pass, `Rejected` when the agent refuses the batch."""
        batch = RecordBatch(sidecar=self.settings.shown_name, epoch=self.epoch, sent_at_ns=unix_ns(), events=events)
        try:
            async with session.post(
                self._url, data=self._encoder.encode(batch), headers={"content-type": MEDIA_TYPE}
            ) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("retry-after", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TryLater(f"{type(error).__name__}: {error}") from error
        if status != 200:
            reason = f"status {status}: {body[:300].decode('utf-8', 'replace')}"
            if status in (408, 425, 429) or status >= 500:
                raise TryLater(reason, float(retry_after) if retry_after.isdigit() else None)
            if status == 413:
                self._batch_events = max(1, self._batch_events // 2)
            raise Rejected(reason)
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise TryLater(f"the answer is no receipt: {error}") from error

    def _failed(self, error: TryLater | Rejected, batch: tuple[RequestEvent, ...]) -> None:
        # A refused batch is kept too: its cause (version, token, path) is a mistake that an operator corrects.
        self.failures += 1
        if self.reachable is not False:
            log.warning("records_not_accepted", agent=self.settings.agent_url, reason=str(error), events=len(batch))
            self.reachable = False

    def _backoff(self, attempts: int, after_seconds: float | None) -> float:
        """Full jitter; the agent's own wish is the least."""
        ceiling = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(attempts - 1, 10))
        return max(min(after_seconds or 0.0, MAX_BACKOFF_SECONDS), random.uniform(0, ceiling))

    async def _pause(self, seconds: float) -> None:
        """Wait, but not long once the sidecar is on its way out."""
        if self._draining.is_set():
            await anyio.sleep(min(seconds, FIRST_BACKOFF_SECONDS))
            return
        with anyio.move_on_after(seconds):
            await self._draining.wait()
