"""Many busy vLLM servers in one process: `python -m bench.engines_server COUNT SERIES`; prints a port for each.

The program that scrapes is measured, not this one: it answers from one thread with pages made as they are asked for.
"""

import asyncio
import sys
from collections.abc import Callable

from bench.engines_pages import GrowingPage, page_of

_ABOUT = {
    b"/v1/models": b'{"data":[{"id":"meta-llama/Llama-3.1-8B-Instruct","owned_by":"vllm"}]}',
    b"/version": b'{"version":"0.33.0"}',
    b"/health": b"",
}


class _Server(asyncio.Protocol):
    def __init__(self, page: Callable[[], bytes]) -> None:
        self._page = page
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:  # a GET has no body
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            body = self._page() if path == b"/metrics" else _ABOUT.get(path)
            status = b"404 Not Found" if body is None else b"200 OK"
            fields = b"content-type: text/plain; version=1.0.0\r\ncontent-length: %d" % len(body or b"")
            self._transport.write(b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, fields, body or b""))


async def _serve(count: int, series: int) -> None:
    loop = asyncio.get_running_loop()
    page = page_of(series)
    for seed in range(count):
        growing = GrowingPage(page, seed)
        server = await loop.create_server(lambda growing=growing: _Server(growing.next), "127.0.0.1", 0)  # type: ignore[misc] # bound at once
        print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until the one who started this closes it


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
