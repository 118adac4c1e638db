"""Batches of record events → the agent's ingest path, and what it says of each of them back."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from ssl import SSLContext
from typing import Any

import aiohttp
import msgspec
import structlog

from agent.clock import boot_ns, unix_ns
from agent.core.http_outcome import bounded_reason, outcome, retry_after_seconds
from agent.core.ports import Paused, Rejected, TryLater, Verdict
from agent.core.requests import SCHEMA_VERSION, RecordReceipt
from agent.sidecar.records.queue import SpooledEvent

log = structlog.get_logger()

MEDIA_TYPE = "application/msgpack"
OLDEST_VERSION = SCHEMA_VERSION - 1
VERSION_TITLE = "Unknown schema version"
VERSION_PROBLEM = "urn:engineroom:problem:schema-version"
MAX_ANSWER_BYTES = 1 << 20


class _Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """`agent.core.requests.RecordBatch`, with its events as they were encoded when they happened."""

    sidecar: str
    epoch: int
    sent_at_ns: int
    events: Sequence[msgspec.Raw]
    schema_version: int


class _Problem(msgspec.Struct):
    """The part of a problem+json answer that is for programs."""

    type: str = ""
    title: str = ""
    detail: str = ""
    accepts: tuple[int, ...] = ()


def open_session() -> aiohttp.ClientSession:
    """A session with a new connection for each batch: on a kept one, an answer too many would count for the next."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    )


class RecordsExporter:
    """The agent of this node, as a destination. One batch per `send`; only events of one start go together."""

    name = "agent"

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        timeout_seconds: float,
        credentials: Callable[[], Mapping[str, str]] = dict,
        tls: SSLContext | None = None,
    ) -> None:
        self._url = f"{url}/ingest/v1/records"
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._credentials = credentials
        self._tls = tls
        self._version = SCHEMA_VERSION
        self._encoder = msgspec.msgpack.Encoder()
        self._receipts = msgspec.msgpack.Decoder(RecordReceipt)
        self._problems = msgspec.json.Decoder(_Problem)
        self.heard_boot_ns = boot_ns()  # when the agent last took something

    async def send(self, batch: Sequence[SpooledEvent]) -> Sequence[Verdict] | None:
        """One attempt. What belongs to a later start than the first event is put off to a batch of its own."""
        epoch, sidecar = batch[0].epoch, batch[0].sidecar
        events = [item.event for item in takewhile(lambda item: (item.epoch, item.sidecar) == (epoch, sidecar), batch)]
        receipt = await self._post(epoch, sidecar, events)
        if not receipt.refused and not receipt.repeated and len(events) == len(batch):
            return None
        refused = {one.index: Rejected(f"{one.kind}: {one.reason}") for one in receipt.refused}
        repeats = receipt.repeated
        verdicts: list[Verdict] = []
        for index in range(len(events)):
            if index in refused:
                verdicts.append(refused[index])
            else:
                # Numbers grow along the batch, and what the agent has already is the beginning of it.
                verdicts.append("duplicate" if repeats > 0 else "delivered")
                repeats -= 1
        later = TryLater("they belong to a later start of the sidecar", 0.0)
        return verdicts + [later] * (len(batch) - len(events))

    async def beat(self, epoch: int, sidecar: str) -> None:
        """An empty batch: this sidecar still watches its requests. Raises as `send` does."""
        await self._post(epoch, sidecar, ())

    async def _post(self, epoch: int, sidecar: str, events: Sequence[msgspec.Raw]) -> RecordReceipt:
        batch = _Outgoing(
            sidecar=sidecar,
            epoch=epoch,
            sent_at_ns=unix_ns(),
            events=events,
            schema_version=self._version,
        )
        headers = {"content-type": MEDIA_TYPE, "accept-encoding": "identity", **self._credentials()}
        more: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        try:
            async with self._session.post(
                self._url,
                data=self._encoder.encode(batch),
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                **more,
            ) as response:
                body = await _bounded_body(response.content)
                status = response.status
                after = retry_after_seconds(response.headers.get("retry-after"), unix_ns())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._version = SCHEMA_VERSION  # who comes back may be a newer agent
            raise TryLater(f"{self._url}: {_reason(error)}") from error
        if status != 200:
            raise self._refusal(status, body, after)
        try:
            receipt = self._receipts.decode(body)
        except msgspec.DecodeError as error:
            raise TryLater(f"the answer is no receipt: {bounded_reason(str(error))}") from error
        self.heard_boot_ns = boot_ns()
        return receipt

    def _refusal(self, status: int, body: bytes, after_seconds: float | None) -> Exception:
        try:
            problem = self._problems.decode(body)
        except msgspec.DecodeError:
            problem = _Problem()  # an error page of something in between; it may repeat our request, token and all
        if status == 400 and problem.type == VERSION_PROBLEM:
            return self._other_version(problem.accepts)
        if status == 400 and problem.title == VERSION_TITLE:
            return self._other_version((1,))  # an agent of version 1 does not list what it reads
        said = problem.detail or problem.title
        told_by_us = any(value in said for value in self._credentials().values())
        found = outcome(status, "" if told_by_us else said, after_seconds)
        return found or TryLater(f"HTTP {status} is not what an agent answers")

    def _other_version(self, accepts: Sequence[int]) -> TryLater:
        """N and N-1 understand each other: speak the newest version that both know."""
        common = [v for v in accepts if OLDEST_VERSION <= v <= SCHEMA_VERSION and v != self._version]
        if not common:
            return Paused(
                f"the agent reads schema versions {list(accepts)}, this sidecar writes {OLDEST_VERSION} and "
                f"{SCHEMA_VERSION}; upgrade the older of the two"
            )
        self._version = max(common)
        log.info("schema_version_changed", version=self._version)
        return TryLater(f"the agent reads schema version {self._version}", 0.0)


def _reason(error: Exception) -> str:
    """What the operating system says where it says something; the HTTP library's own words repeat the address."""
    code = getattr(error, "errno", None)
    return (
        os.strerror(code) if isinstance(code, int) and code > 0 else bounded_reason(f"{type(error).__name__} {error}")
    )


async def _bounded_body(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < MAX_ANSWER_BYTES and (part := await content.readany()):
        body += part
    return bytes(body)
