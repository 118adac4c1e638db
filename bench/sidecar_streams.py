"""Many slow streams at once through a proxy. Arguments: port, streams, seconds between two starts.

Opens all of them, says `open` when each has its head, and `done` with how many ended well when all are over.
"""

import asyncio
import sys
from typing import cast

import uvloop

REQUEST = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello there"}]}'
HEAD = (
    b"POST /v1/chat/completions?paced HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(REQUEST)
)


class Stream(asyncio.Protocol):
    """One request; `begun` and `ended` are told through the counters of the run."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(HEAD + REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            self.run.begun += 1
        if data.endswith(b"0\r\n\r\n"):
            self.run.ended += 1
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.closed += 1
        self.run.changed.set()


class Run:
    """Counters of all streams."""

    def __init__(self) -> None:
        self.begun = self.ended = self.closed = 0
        self.changed = asyncio.Event()


async def main(port: int, streams: int, spacing: float) -> None:
    """All streams, once."""
    loop = asyncio.get_running_loop()
    run = Run()
    for _ in range(streams):
        await loop.create_connection(lambda: Stream(run), "127.0.0.1", port)
        if spacing:
            await asyncio.sleep(spacing)
    print("open", flush=True)
    while run.closed < streams:
        run.changed.clear()
        await run.changed.wait()
    print(f"done {run.ended}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
