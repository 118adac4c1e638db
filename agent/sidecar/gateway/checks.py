"""Engines are asked whether they are ready → `Balance.checked`. One pulse for all of them."""

import asyncio
import os
import re
import ssl
from collections.abc import Mapping
from typing import NamedTuple, cast

import anyio

from agent.sidecar.gateway.balance import Balance, Engine
from agent.sidecar.sockets.addresses import Address
from agent.sidecar.sockets.dialling import Dialler

NO_SUCH_PATH = (404, 405, 501)
MAX_LINE_BYTES = 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")


class Door(NamedTuple):
    """Where an engine is, and the Host that it gets there."""

    address: Address
    host: bytes


def checks_wanted(balance: Balance) -> bool:
    """Whether engines are asked, the default applied."""
    wanted = balance.settings.check
    return len(balance.engines) > 1 if wanted is None else wanted


class Checks:
    """`step` asks every engine once, at the same time, over connections that are made as those for requests are."""

    def __init__(self, balance: Balance, doors: Mapping[Engine, Door], dialler: Dialler) -> None:
        self._balance = balance
        self._doors = doors
        self._dialler = dialler
        self._path = balance.settings.check_path
        self._seconds = balance.settings.check_timeout_seconds

    async def step(self) -> None:
        """One round; to be run every `check_interval_seconds`."""
        async with anyio.create_task_group() as group:
            for engine, door in self._doors.items():
                group.start_soon(self._ask, engine, door)

    async def _ask(self, engine: Engine, door: Door) -> None:
        try:
            with anyio.fail_after(self._seconds):
                status = await self._status(door)
        except OSError as error:  # TimeoutError is one
            self._balance.checked(engine, False, _reason(error))
            return
        if status in NO_SUCH_PATH:
            self._balance.checked(engine, None)
        else:
            told = f"{self._path} answers {status}" if status else f"{self._path} is not answered in HTTP/1.1"
            self._balance.checked(engine, 200 <= status < 300, told)

    async def _status(self, door: Door) -> int:
        """0: whatever came, it was no answer."""
        asked = b"GET %b HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % (self._path.encode(), door.host)
        loop = asyncio.get_running_loop()
        transport, question = await self._dialler.connect(loop, door.address, lambda: _Question(asked))
        try:
            await question.answered.wait()
        finally:
            transport.abort()
        return question.status


class _Question(asyncio.Protocol):
    """Asks as soon as it can, and reads the first line of the answer."""

    def __init__(self, asked: bytes) -> None:
        self.status = 0
        self.answered = anyio.Event()
        self._asked = asked
        self._line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._asked)

    def data_received(self, data: bytes) -> None:
        self._line += data[:MAX_LINE_BYTES]
        if b"\n" in self._line or len(self._line) >= MAX_LINE_BYTES:
            if (found := _STATUS.match(self._line)) is not None:
                self.status = int(found[1])
            self.answered.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered.set()


def _reason(error: OSError) -> str:
    """What the operating system says, or what TLS says; others repeat the address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    return os.strerror(error.errno) if error.errno else type(error).__name__
