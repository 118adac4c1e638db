"""A side that does not read makes the other side wait: the sidecar holds a bounded amount of bytes."""

import os
import socket

import anyio

from tests.support.sidecar import sidecar
from tests.support.upstream import Wire, connect, upstream

MIB = 1 << 20
TOTAL = 64 * MIB
MOST_HELD = (
    24 * MIB
)  # kernel buffers of two loopback connections (the test's own ends kept small) and the sidecar's own
OWN_BUFFER = 256 << 10


def keep_small(wire: Wire) -> None:
    """Stop the kernel from tuning this end's buffers: what it may grow them to differs from machine to machine."""
    number = wire.writer.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(number)) as same:
        for which in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            same.setsockopt(socket.SOL_SOCKET, which, OWN_BUFFER)


async def write_until_stuck(wire: Wire, data: bytes, total: int) -> int:
    """Write until the other side has taken nothing for half a second; how much it took."""
    keep_small(wire)
    sent = 0
    while sent < total:
        wire.writer.write(data)
        with anyio.move_on_after(0.5) as patience:
            await wire.writer.drain()
        if patience.cancelled_caught:
            return sent
        sent += len(data)
    return sent


async def test_a_client_that_does_not_read_stops_the_engine() -> None:
    stuck_at: list[int] = []

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % TOTAL)
        stuck_at.append(await write_until_stuck(wire, b"x" * MIB, TOTAL))
        stuck.set()
        await wire.send(b"x" * (TOTAL - stuck_at[0] - MIB))
        await wire.until_closed()

    stuck = anyio.Event()
    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        keep_small(client)
        await client.send(b"GET /big HTTP/1.1\r\nhost: e\r\n\r\n")
        with anyio.fail_after(20):
            await stuck.wait()
        assert stuck_at[0] < MOST_HELD
        (connection,) = proxy.listener.connections
        assert connection.transport.get_write_buffer_size() < MIB
        assert len((await client.message()).body) == TOTAL


async def test_an_engine_that_does_not_read_stops_the_client() -> None:
    go_on = anyio.Event()
    got: list[int] = []

    async def script(wire: Wire) -> None:
        keep_small(wire)
        head = await wire.head()
        await go_on.wait()
        got.append(len((await wire.body(head)).body))
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST /big HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % TOTAL)
        sent = await write_until_stuck(client, b"x" * MIB, TOTAL)
        assert sent < MOST_HELD
        (exchange,) = proxy.forwarder.active
        assert exchange.upstream is not None
        assert exchange.upstream.transport.get_write_buffer_size() < MIB
        go_on.set()
        await client.send(b"x" * (TOTAL - sent - MIB))
        assert (await client.answer()).status == 200
        assert got == [TOTAL]
