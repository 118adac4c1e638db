"""From the request path to the agent: the queue of events, the spool under it, delivery, heartbeats, dead letters."""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import structlog

from agent.clock import NS, boot_ns, unix_ns
from agent.core.ports import ConfigError, TryLater
from agent.datafolder import default_folder
from agent.delivery.deadletters import DeadLetter, DeadLetters, read_letter, replay
from agent.delivery.pacing import QueueLimits
from agent.delivery.queue import QueueDelivery
from agent.doors.tls import ClientTls
from agent.doors.tokens import parse_token
from agent.doors.watched import Watched
from agent.lifecycle import Health, every
from agent.sidecar.quota.client import AgentLeases
from agent.sidecar.quota.quotas import Quotas
from agent.sidecar.records.inflight import InFlight, open_inflight
from agent.sidecar.records.lost import tell_lost
from agent.sidecar.records.queue import RecordQueue, SpooledEvent, read_item
from agent.sidecar.records.ship import RecordsExporter, open_session
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import parse_upstream
from agent.spool.batch import Batch
from agent.spool.files import Files
from agent.spool.settings import StreamLimits
from agent.spool.spool import Spool, open_spool
from agent.spool.stream import Stream

log = structlog.get_logger()

RECORDS = "records"
DEAD_LETTERS = "dead-letters"
BATCH_BYTES = 4 << 20  # the agent takes 8 MiB
BACKOFF_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 10.0
PAUSED_SECONDS = 10.0
LOOK_SECONDS = 0.05
LOOK_BYTES = 1 << 20

_WORKER = re.compile(r"worker-(\d{1,6})")


def spool_folder(settings: SidecarSettings) -> Path:
    """Where this sidecar's spool lies."""
    if settings.spool_dir is not None:
        return settings.spool_dir
    state = default_folder(dict(os.environ), is_root=os.geteuid() == 0)
    return state / f"sidecar-{settings.shown_listen}"


def worker_number(folder: Path) -> int | None:
    """Which of several workers has, or had, its spool in this folder; None: the folder is not named like one's."""
    match = _WORKER.fullmatch(folder.name)
    return int(match[1]) if match else None


def worker_folders(base: Path) -> dict[int, Path]:
    """The folders of workers in a spool's folder, by their numbers. Raises `OSError`."""
    found = ((worker_number(entry), entry) for entry in base.iterdir())
    return dict(sorted((number, entry) for number, entry in found if number is not None))


class _Gathered:
    """A stream whose reader lets events gather for a moment, so that a quiet sidecar sends two batches a second."""

    def __init__(self, stream: Stream, seconds: float, inflight: InFlight) -> None:
        self.inflight = inflight
        self.name = stream.name
        self.stream = stream
        self.seconds = seconds
        self.hurry = anyio.Event()

    async def read(self, max_items: int, max_bytes: int) -> Batch:
        sequences, items = await self.stream.read(max_items, max_bytes)
        size = sum(map(len, items))
        if self.hurry.is_set() or len(items) >= max_items or size >= max_bytes:
            return Batch(sequences, items)
        with anyio.move_on_after(self.seconds):
            await self.hurry.wait()
        while len(items) < max_items and size < max_bytes and (more := self.stream.read_now(max_items, max_bytes)):
            sequences, items = [*sequences, *more.sequences], [*items, *more.items]
            size += sum(map(len, more.items))
        return Batch(sequences, items)

    def settle(self, sequences: Sequence[int], result: str) -> None:
        self.inflight.release(self.stream.durable_through)  # what is settled may leave the spool
        self.stream.settle(sequences, result)


class Shipping:
    """The open parts; `run` moves events until cancelled. Made by `shipping`."""

    def __init__(
        self,
        settings: SidecarSettings,
        spool: Spool,
        queue: RecordQueue,
        session: aiohttp.ClientSession,
        inflight: InFlight,
        lost: int,
    ) -> None:
        self.spool = spool
        self.queue = queue
        self.inflight = inflight
        self.session = session
        self._settings = settings
        self.lost = lost  # requests that the predecessor of this process was killed with
        self.records = spool.streams[RECORDS]
        self.dead_letters = spool.streams[DEAD_LETTERS]
        tls = ClientTls(settings.agent_tls, key="sidecar.agent_tls") if settings.agent_url.startswith("https") else None
        self._tls = tls
        self._credentials = _Credentials(settings)
        self.exporter = RecordsExporter(
            settings.agent_url,
            session,
            timeout_seconds=settings.ship_timeout_seconds,
            credentials=self._credentials,
            tls=tls.context if tls else None,
        )
        self._gathered = _Gathered(self.records, settings.ship_interval_seconds, inflight)
        limits = QueueLimits(
            max_items=settings.ship_batch_events,
            max_bytes=BATCH_BYTES,
            max_concurrency=1,  # the agent's receipt says up to where it has all: order matters
            send_seconds=2 * settings.ship_timeout_seconds,
            backoff_seconds=BACKOFF_SECONDS,
            backoff_max_seconds=BACKOFF_MAX_SECONDS,
            paused_seconds=PAUSED_SECONDS,
        )
        self.delivery: QueueDelivery[SpooledEvent] = QueueDelivery(
            self._gathered,
            self.exporter,
            read_item,
            DeadLetters(self.dead_letters, RECORDS, self.exporter.name),
            limits,
        )
        self._name = settings.shown_name
        self._one_at_a_time = anyio.Lock()
        self._heartbeat_ns = int(settings.heartbeat_seconds * NS)
        self._beat_every = settings.heartbeat_seconds / 4

    def quotas(self, clock: Callable[[], int]) -> Quotas:
        """The quotas of this sidecar, its leases granted by the same agent."""
        client = AgentLeases(
            self._settings.agent_url,
            self.session,
            credentials=self._credentials,
            tls=self._tls.context if self._tls else None,
        )
        return Quotas(
            self._settings.quotas.to_policy(),
            client=client,
            sidecar=self._name,
            epoch=self.queue.epoch,
            clock=clock,
            kept=self.spool.folder / "quotas",
        )

    async def run(self, health: Health) -> None:
        """Deliver until cancelled. What the agent has not confirmed stays in the spool."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.delivery.run)
            group.start_soon(partial(every, "heartbeat", self._beat_every, self._beat, health))

    async def _beat(self) -> None:
        """While a request is open and nothing happens, an empty batch says that this sidecar still watches it."""
        silent = boot_ns() - self.exporter.heard_boot_ns >= self._heartbeat_ns
        if self.queue.open and silent and not self.records.state().waiting:
            try:
                await self.exporter.beat(self.queue.epoch, self._name)
            except TryLater:
                pass  # the next event finds the same, and its delivery says so

    async def replay(self, numbers: Collection[int] | None) -> int:
        """Give dead letters (None: all) back to be delivered again; how many. Returns when that is durable.

        A letter that cannot be read, or is of another stream, stays where it is.
        """

        async def put_back(sequences: Sequence[int], items: Sequence[bytes]) -> int:
            ours = [(number, letter) for number, letter in zip(sequences, map(_letter, items), strict=True) if letter]
            return await replay(
                [number for number, _ in ours], [letter for _, letter in ours], self.dead_letters, self.records
            )

        return await self._with_letters(numbers, put_back)

    async def discard(self, numbers: Collection[int] | None) -> int:
        """Give dead letters (None: all) up for good; how many."""

        async def drop(sequences: Sequence[int], _items: Sequence[bytes]) -> int:
            self.dead_letters.settle(sequences, "dropped:discarded")
            return len(sequences)

        return await self._with_letters(numbers, drop)

    async def _with_letters(
        self, numbers: Collection[int] | None, act: Callable[[Sequence[int], Sequence[bytes]], Awaitable[int]]
    ) -> int:
        wanted = None if numbers is None else set(numbers)
        done = 0
        async with self._one_at_a_time:
            at, end = min(wanted or {1}), self.dead_letters.state().accepted
            before = -1
            while before < at <= end:
                before = at
                batch, at = await self.dead_letters.look(at, LOOK_BYTES)
                chosen = [
                    (number, item)
                    for number, item in zip(batch.sequences, batch.items, strict=True)
                    if number <= end and (wanted is None or number in wanted)
                ]
                if chosen:
                    done += await act([number for number, _ in chosen], [item for _, item in chosen])
        return done

    async def drain(self, seconds: float) -> None:
        """No more events come: hurry, and wait at most so long for the agent to take what there is."""
        self._gathered.hurry.set()
        with anyio.move_on_after(seconds):
            await self.records.flush()
            while self.records.state().waiting and self.delivery.state().ok is not False:  # noqa: ASYNC110
                await anyio.sleep(LOOK_SECONDS)  # two parts of which neither tells the other that it is done


def _letter(item: bytes) -> DeadLetter | None:
    try:
        letter = read_letter(item)
    except ValueError as error:
        log.warning("dead_letter_unreadable", reason=str(error))
        return None
    return letter if letter.stream == RECORDS else None


@asynccontextmanager
async def shipping(settings: SidecarSettings) -> AsyncIterator[Shipping]:
    """Raises `ConfigError` when the spool cannot be used, or a file with credentials cannot be read."""
    limits = StreamLimits(group_seconds=settings.spool.group_seconds)
    streams = {RECORDS: limits, DEAD_LETTERS: StreamLimits(weight=0.25, group_seconds=0.0)}
    folder = spool_folder(settings)
    async with (
        open_spool(folder, settings.spool, streams, key="sidecar.spool") as spool,
        open_session() as session,
    ):
        records = spool.streams[RECORDS]
        name, epoch = settings.shown_name, next_epoch(folder)
        queue = RecordQueue(records, epoch, name)
        with closing(open_inflight(folder, name, unix_ns())) as inflight:
            teller = queue if inflight.left_by == name else RecordQueue(records, epoch, inflight.left_by)
            lost = await tell_lost(inflight, records, teller.put, parse_upstream(settings.upstream).name)
            try:
                yield Shipping(settings, spool, queue, session, inflight, lost)
            finally:
                inflight.release(records.durable_through)


def next_epoch(folder: Path) -> int:
    """A number for this start that is higher than that of every start before, whatever the wall clock says.

    Raises `ConfigError` when it cannot be kept for the next start.
    """
    file = folder / "epoch"
    try:
        last = _last_epoch(file)
        epoch = max(unix_ns(), last + 1)
        temporary = file.with_suffix(".new")
        with temporary.open("w") as new:
            new.write(f"{epoch}\n")
            new.flush()
            os.fsync(new.fileno())
        temporary.replace(file)
        Files().sync_folder(folder)
    except OSError as error:
        raise ConfigError("sidecar.spool_dir", f"{file} cannot be written: {error.strerror}") from error
    return epoch


def _last_epoch(file: Path) -> int:
    try:
        return int(file.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError:
        log.warning("epoch_file_unreadable", file=str(file), consequence="this start is numbered by the clock alone")
        return 0


class _Credentials:
    """The token's file, read again when it changes: projected service account tokens are replaced every hour."""

    def __init__(self, settings: SidecarSettings) -> None:
        key = "sidecar.agent_token_file"
        file = settings.agent_token_file
        self._token = None if file is None else Watched({key: file}, lambda content: parse_token(content, key).decode())

    def __call__(self) -> Mapping[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token.current()}"}
