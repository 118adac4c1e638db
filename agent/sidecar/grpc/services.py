"""What gRPC needs of the rest of the sidecar: who is it, may they, where is the engine, where do records go."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from anyio.abc import TaskGroup

from agent.clock import BillClock
from agent.core.requests import Usage
from agent.sidecar.asks import Ask, Caller, Refusal
from agent.sidecar.grpc.settings import GrpcSettings
from agent.sidecar.records.record import Recorder


class Times(Protocol):
    """The limits that gRPC shares with HTTP/1.1: `SidecarSettings` has them."""

    @property
    def first_byte_timeout_seconds(self) -> float | None: ...

    @property
    def request_timeout_seconds(self) -> float: ...

    @property
    def client_idle_seconds(self) -> float: ...


class Ticket(Protocol):
    """A place within the quotas, held until the call ends: `withdraw` when it never reached the engine.

    `header_lines`: what the client is told with the answer, whole lines of HTTP/1.1.
    """

    def header_lines(self, now_ns: int) -> bytes: ...

    def done(self, usage: Usage, now_ns: int) -> None: ...

    def withdraw(self, now_ns: int) -> None: ...


class Quotas(Protocol):
    """`admit` answers at once; None: there is no room yet, and `wait` answers when there is, or when it is too late.

    `active`: there are rules; they may come and go. `decides`: a call may be refused, so that it waits until it is
    known what it asks for. Otherwise it goes at once.
    """

    @property
    def active(self) -> bool: ...

    @property
    def decides(self) -> bool: ...

    def admit(self, ask: Ask, now_ns: int) -> Ticket | Refusal | None: ...

    async def wait(self, ask: Ask) -> Ticket | Refusal: ...


class Rewrite(Protocol):
    """What the engine is not to get of the metadata, by lower-case name, and whole lines (`name: value`) to add."""

    @property
    def drop(self) -> frozenset[bytes]: ...

    @property
    def add(self) -> tuple[bytes, ...]: ...


Identify = Callable[[Mapping[bytes, bytes], str, int], Caller | Refusal]
"""Metadata (lower-case name → value, repeats joined with `tenancy_hops.REPEATED`), the client's address, Unix ns."""

TooMany = Callable[[str | None, int], float | None]
"""The client's source, Unix ns: None, or the seconds after which it may make its next call."""

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[None]]
"""Opens a connection to the engine with a protocol that the argument makes. Raises TimeoutError, OSError."""


@dataclass(slots=True, kw_only=True)
class GrpcServices:
    """Handed over once, when the sidecar starts. `group` may be set later, before the first client comes."""

    settings: GrpcSettings
    times: Times
    clock: BillClock
    recorder: Recorder
    authority: str  # the engine as the records name it: host:port, or the path of its socket
    host: str = "localhost"  # what the engine gets as :authority of a client that said none
    connect: Connect
    secure: bool = False  # whether that connection has TLS
    identify: Identify = lambda _fields, _peer, _now_ns: Caller()
    rewrite: Callable[[Caller], Rewrite] | None = None
    quotas: Quotas | None = None
    too_many: TooMany | None = None
    group: TaskGroup | None = None
