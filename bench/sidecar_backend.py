"""The engine in the sidecar benchmark. Argument: port.

Answers any request with 20 streamed tokens: at once, or (`?apart`) each in a write of its own; or with 128 tokens, one
every 20 ms (`?paced`).
"""

import asyncio
import sys
from typing import cast

import uvloop

EVENTS = [
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"tiny",'
    b'"choices":[{"index":0,"delta":{"content":"tok%d "},"logprobs":null,"finish_reason":null}]}\n\n' % number
    for number in range(20)
]
EVENTS += [
    (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29}}\n\n'
    ),
    b"data: [DONE]\n\n",
]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
END = b"0\r\n\r\n"
PACED_TOKENS = 128
PACE_SECONDS = 0.02
ANSWER = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"


class Backend(asyncio.Protocol):
    """Reads whole requests with a content-length; writes the answer in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        self.held = b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.held) < end + 4 + length:
                return
            self.held = self.held[end + 4 + length :]
            target = head.split(b" ", 2)[1]
            if target.endswith(b"?apart"):
                self.apart(0)
            elif target.endswith(b"?paced"):
                self.transport.write(HEAD)
                self.paced(0)
            else:
                self.transport.write(ANSWER)

    def apart(self, number: int) -> None:
        """One write a turn of the loop, as a server does that waits for each token."""
        if number < len(CHUNKS):
            self.transport.write(HEAD + CHUNKS[0] if number == 0 else CHUNKS[number])
            self.loop.call_soon(self.apart, number + 1)
        else:
            self.transport.write(END)

    def paced(self, number: int) -> None:
        """One token each pace."""
        if self.transport.is_closing():
            return
        if number < PACED_TOKENS:
            self.transport.write(CHUNKS[number % 20])
            self.loop.call_later(PACE_SECONDS, self.paced, number + 1)
        else:
            self.transport.write(b"".join(CHUNKS[20:]) + END)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
