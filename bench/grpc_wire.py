"""The other sides of the gRPC benchmark: an engine and a client of ready frames, too cheap to be what is measured.

`python -m bench.grpc_wire engine PORT KIND` · `load PORT CALLS_AT_ONCE SECONDS KIND` · `streams PORT COUNT`
KIND is `unary` (one message each way), `burst` (100 messages of an answer at once) or `paced` (128, one every 20 ms).
"""

import asyncio
import json
import struct
import sys
import time
from collections.abc import Callable

import uvloop
from hpack import Encoder
from tritonclient.grpc import service_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UNARY, BURST, PACED = "unary", "burst", "paced"
TOKENS = {UNARY: 1, BURST: 100, PACED: 128}
PACE_SECONDS = 0.02
STREAMS_PER_CLIENT = 4
SPACING_SECONDS = 0.001
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_HEAD = struct.Struct(">HBBBL")
_MOST = 2**31 - 1


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body


HELLO = frame(SETTINGS, 0, 0, struct.pack(">HIHIHI", 3, 10_000, 4, _MOST, 2, 0)) + frame(
    8, 0, 0, struct.pack(">I", _MOST - 65535)
)


def message(value: object) -> bytes:
    """A message of gRPC, not compressed."""
    body = value.SerializeToString()  # type: ignore[attr-defined]
    return b"\0" + struct.pack(">I", len(body)) + body


def question() -> bytes:
    """A ModelInferRequest with a short prompt."""
    request = service_pb2.ModelInferRequest(model_name="llama", id="1")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", 60) + b"What is the answer to everything? " * 2)
    return message(request)


def answer(*, final: bool) -> service_pb2.ModelInferResponse:
    """One answer with a few bytes of text."""
    made = service_pb2.ModelInferResponse(model_name="llama", model_version="1", id="1")
    made.parameters["triton_final_response"].bool_param = final
    made.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    made.raw_output_contents.append(struct.pack("<I", 5) + b" word")
    return made


class Peer(asyncio.Protocol):
    """Reads frames; answers what must be answered."""

    def __init__(self) -> None:
        self.held = b""
        self.preface = len(PREFACE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.out: list[bytes] = [HELLO]

    def data_received(self, data: bytes) -> None:
        held = self.held + data if self.held else data
        at = 0
        if self.preface:
            at = min(self.preface, len(held))
            self.preface -= at
        while len(held) - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(held, at)
            end = at + 9 + (high << 8 | low)
            if end > len(held):
                break
            if kind in (DATA, HEADERS):
                if flags & 1:
                    self.ended(stream)
            elif kind == SETTINGS and not flags & 1:
                self.out.append(frame(SETTINGS, 1, 0))
            elif kind == PING and not flags & 1:
                self.out.append(frame(PING, 1, 0, held[at + 9 : end]))
            elif kind in (GOAWAY, RST) and held[end - 4 : end] != b"\0\0\0\0":
                raise RuntimeError(f"frame {kind} came: {held[at:end]!r}")
            at = end
        self.held = held[at:]
        if self.out:
            self.transport.write(b"".join(self.out))  # type: ignore[attr-defined]
            self.out.clear()

    def ended(self, stream: int) -> None:
        """The end of a call."""


class Engine(Peer):
    """Answers each call as its kind says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.loop = asyncio.get_running_loop()
        encoder = Encoder()
        head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-accept-encoding", "identity, gzip")]
        tail = [("grpc-status", "0")]
        self.head = encoder.encode(head), encoder.encode(head)
        self.tail = encoder.encode(tail), encoder.encode(tail)
        if kind == PACED:  # whose ends may overtake each other: blocks that stand for themselves
            plain = Encoder()
            plain.header_table_size = 0
            self.head = (plain.encode(head), plain.encode(head))
            self.tail = (plain.encode(tail), plain.encode(tail))
        self.first = True
        self.one = message(answer(final=True))
        self.many = message(service_pb2.ModelStreamInferResponse(infer_response=answer(final=False)))

    def ended(self, stream: int) -> None:
        which, self.first = (0 if self.first else 1), False
        head = frame(HEADERS, 4, stream, self.head[which])
        if self.kind == PACED:
            self.out.append(head)
            self.loop.call_later(PACE_SECONDS, self.paced, stream, 0)
            return
        body = frame(DATA, 0, stream, self.one) if self.kind == UNARY else frame(DATA, 0, stream, self.many) * 100
        self.out.append(head + body + frame(HEADERS, 5, stream, self.tail[which]))

    def paced(self, stream: int, number: int) -> None:
        """One message each pace."""
        if self.transport.is_closing():
            return
        if number < TOKENS[PACED]:
            self.loop.call_later(PACE_SECONDS, self.paced, stream, number + 1)
            self.transport.write(frame(DATA, 0, stream, self.many))  # type: ignore[attr-defined]
        else:
            self.transport.write(frame(HEADERS, 5, stream, self.tail[1]))  # type: ignore[attr-defined]


class Load(Peer):
    """Keeps so many calls under way until the time is over."""

    def __init__(self, at_once: int, kind: str, done: Callable[[], None], *, once: bool = False) -> None:
        super().__init__()
        self.preface = 0
        method = "ModelInfer" if kind == UNARY else "ModelStreamInfer"
        encoder = Encoder()
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/inference.GRPCInferenceService/{method}"),
            (":authority", "127.0.0.1:8001"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)"),
            ("grpc-accept-encoding", "identity, deflate, gzip"),
        ]
        self.head = encoder.encode(head), encoder.encode(head)
        self.body = question()
        self.at_once = at_once
        self.next = 1
        self.stopping = once
        self.done = done
        self.begun: dict[int, float] = {}
        self.seconds: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.out.insert(0, PREFACE)
        for _ in range(self.at_once):
            self.ask()
        transport.write(b"".join(self.out))  # type: ignore[attr-defined]
        self.out.clear()

    def ask(self) -> None:
        """One more call."""
        stream = self.next
        block = self.head[0 if stream == 1 else 1]
        self.next += 2
        self.begun[stream] = time.perf_counter()
        self.out.append(frame(HEADERS, 4, stream, block) + frame(DATA, 1, stream, self.body))

    def ended(self, stream: int) -> None:
        self.seconds.append(time.perf_counter() - self.begun.pop(stream))
        if not self.stopping:
            self.ask()
        elif not self.begun:
            self.done()


async def load(port: int, at_once: int, seconds: float, kind: str) -> None:
    """Calls for so long; print how many, and latencies, as JSON."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    _, client = await loop.create_connection(lambda: Load(at_once, kind, over.set), "127.0.0.1", port)
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    client.stopping = True
    await asyncio.wait_for(over.wait(), 20)
    spent = time.perf_counter() - began
    times = sorted(client.seconds)
    print(
        json.dumps(
            {
                "calls": len(times),
                "per_second": len(times) / spent,
                "p50": times[len(times) // 2],
                "p99": times[len(times) * 99 // 100],
            }
        )
    )


async def streams(port: int, count: int) -> None:
    """So many paced streams, each once; print how many ended and how long one took, as JSON."""
    loop = asyncio.get_running_loop()
    clients: list[Load] = []
    over = asyncio.Event()
    left = count // STREAMS_PER_CLIENT

    def done() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            over.set()

    for _ in range(left):
        _, client = await loop.create_connection(
            lambda: Load(STREAMS_PER_CLIENT, PACED, done, once=True), "127.0.0.1", port
        )
        clients.append(client)
        await asyncio.sleep(SPACING_SECONDS * STREAMS_PER_CLIENT)
    await asyncio.wait_for(over.wait(), 60)
    times = sorted(seconds for client in clients for seconds in client.seconds)
    print(json.dumps({"calls": len(times), "p50": times[len(times) // 2]}))


async def engine(port: int, kind: str) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Engine(kind), "127.0.0.1", port)
    await server.serve_forever()


def main(role: str, *arguments: str) -> None:
    """Play one part."""
    if role == "engine":
        uvloop.run(engine(int(arguments[0]), arguments[1]))
    elif role == "load":
        uvloop.run(load(int(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3]))
    elif role == "streams":
        uvloop.run(streams(int(arguments[0]), int(arguments[1])))


if __name__ == "__main__":
    main(*sys.argv[1:])
