"""The gRPC side of a sidecar by itself, in the test's own loop: its records go to a list."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio

from agent.clock import BillClock
from agent.core.requests import RequestEnded, RequestEvent, RequestRecord
from agent.sidecar.grpc.connection import GrpcConnection
from agent.sidecar.grpc.forwarder import GrpcForwarder
from agent.sidecar.grpc.services import GrpcServices
from agent.sidecar.grpc.settings import GrpcSettings
from agent.sidecar.grpc.upstream import connector
from agent.sidecar.records.record import Recorder, Tally
from agent.sidecar.sockets.addresses import parse_upstream
from agent.sidecar.sockets.dialling import dialler
from agent.sidecar.sockets.settings import DialSettings
from tests.support.upstream import until

SWEEP_SECONDS = 0.05
TIMES = {
    "first_byte_timeout_seconds": None,
    "request_timeout_seconds": 30.0,
    "client_idle_seconds": 30.0,
}


@dataclass(slots=True)
class GrpcProxy:
    """A running one."""

    port: int
    forwarder: GrpcForwarder
    server: asyncio.Server
    events: list[RequestEvent]
    slots: "Slots"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def records(self) -> list[RequestRecord]:
        return [event.record for event in self.events if isinstance(event, RequestEnded)]

    async def record(self) -> RequestRecord:
        """The one finished call, once it has ended."""
        await until(lambda: len(self.records) > 0)
        (found,) = self.records
        return found


class Slots:
    """The calls that are noted as running: id → path, and engine and model once they are known."""

    def __init__(self) -> None:
        self.taken: dict[int, tuple[str | None, ...]] = {}
        self._next = 0

    def begin(self, hex_id: str, started_at_ns: int, path: str, tenant: str | None = None) -> int:
        self._next += 1
        self.taken[self._next] = (hex_id, path, tenant)
        return self._next

    def tell(self, slot: int, upstream: str, model: str | None) -> None:
        self.taken[slot] = (*self.taken[slot], upstream, model)

    def ended(self, slot: int, number: int) -> None:
        del self.taken[slot]


@asynccontextmanager
async def grpc_sidecar(
    upstream_url: str,
    *,
    settings: dict[str, Any] | None = None,
    services: dict[str, Any] | None = None,
    tls: Any = None,
    upstream_tls: Any = None,
    **times: Any,
) -> AsyncIterator[GrpcProxy]:
    """`settings` of `sidecar.grpc`; `services`, such as identify and quotas; `times` as in the section `sidecar`."""
    events: list[RequestEvent] = []

    def put(make: Callable[[int], RequestEvent]) -> int:
        events.append(make(len(events) + 1))
        return len(events)

    slots = Slots()
    address = parse_upstream(upstream_url)
    dial = DialSettings(connect_timeout_seconds=2.0, tls=upstream_tls or {})
    given = GrpcServices(
        settings=GrpcSettings(**(settings or {})),
        times=SimpleNamespace(**(TIMES | times)),
        clock=BillClock.from_now(),
        recorder=Recorder(put, Tally(), slots),
        authority=address.name,
        secure=address.tls,
        connect=connector(dialler(dial, (address,), protocols=("h2",)), address),
        **(services or {}),
    )
    forwarder = GrpcForwarder(given)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: GrpcConnection(forwarder), "127.0.0.1", 0, ssl=tls)

    async def sweep() -> None:
        while True:
            forwarder.sweep()
            await anyio.sleep(SWEEP_SECONDS)

    async with anyio.create_task_group() as group:
        given.group = group
        group.start_soon(sweep)
        try:
            yield GrpcProxy(server.sockets[0].getsockname()[1], forwarder, server, events, slots)
        finally:
            server.close()
            forwarder.cut_all()
            forwarder.close()
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                while forwarder.connections:  # noqa: ASYNC110 - plain state, which tells nobody
                    await anyio.sleep(0.005)
            group.cancel_scope.cancel()
