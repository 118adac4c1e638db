"""Renewals of leases → the agent's ``POST /ingest/v1/leases``, and its answers back. One attempt at a time."""

from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any, Protocol

import aiohttp
import msgspec

from agent.core.http_outcome import bounded_reason
from agent.core.ports import TryLater
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest

MEDIA_TYPE = "application/msgpack"
MAX_ANSWER_BYTES = 4 << 20


class LeaseClient(Protocol):
    """Somebody who grants leases."""

    async def renew(self, request: LeaseRequest) -> LeaseAnswer:
        """Raises `TryLater` when there is no answer that can be used. Late answers are never handed over."""
        ...


class AgentLeases:
    """The agent of this node. The session's connections must not be kept (`records.ship.open_session`)."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        timeout_seconds: float = 1.0,
        credentials: Callable[[], Mapping[str, str]] = dict,
        tls: SSLContext | None = None,
    ) -> None:
        self._url = f"{url}/ingest/v1/leases"
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._credentials = credentials
        self._more: dict[str, Any] = {} if tls is None else {"ssl": tls}
        self._encoder = msgspec.msgpack.Encoder()
        self._answers = msgspec.msgpack.Decoder(LeaseAnswer)

    async def renew(self, request: LeaseRequest) -> LeaseAnswer:
        """One attempt."""
        headers = {"content-type": MEDIA_TYPE, "accept-encoding": "identity", **self._credentials()}
        body = bytearray()
        try:
            async with self._session.post(
                self._url,
                data=self._encoder.encode(request),
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                **self._more,
            ) as response:
                while len(body) < MAX_ANSWER_BYTES and (part := await response.content.readany()):
                    body += part
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TryLater(f"{self._url}: {bounded_reason(f'{type(error).__name__} {error}')}") from error
        if status != 200:
            raise TryLater(f"{self._url} answered {status}")
        try:
            answer = self._answers.decode(bytes(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TryLater(f"the answer is no lease: {bounded_reason(str(error))}") from error
        if answer.number != request.number:
            raise TryLater("the answer is to another renewal")
        return answer
