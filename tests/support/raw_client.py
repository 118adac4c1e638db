"""HTTP/1.1 heard strictly, as RFC 9112 has it: what came, how it was framed, and whether it was whole.

Both ends of a test listen with this: what it accepts has one meaning only, whoever reads it.
"""

import os
import re
import socket
import struct
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import anyio
import anyio.lowlevel

from tests.support.upstream import WAIT_SECONDS, Wire

Framing = Literal["none", "length", "chunked", "close"]
Fields = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST = re.compile(rb"(%b) ([!-~]+) HTTP/(1\.[01])" % _TOKEN)
_STATUS = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2}) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(rb"(%b):[ \t]*(.*?)[ \t]*" % _TOKEN, re.DOTALL)
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_PIECE = 1 << 16


class Malformed(AssertionError):
    """What came can be read in more than one way, or in none."""


@dataclass(slots=True)
class Heard:
    """One message. `whole`: it came to the end that its framing says; an end by closing is one, by a reset is none."""

    start: bytes = b""
    fields: Fields = field(default_factory=list)
    framing: Framing = "none"
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    whole: bool = False
    was_reset: bool = False
    interim: "list[Heard]" = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def all(self, name: bytes) -> list[bytes]:
        """Values of a field (lower-case name), in their order."""
        return [value for key, value in self.fields if key.lower() == name]

    def one(self, name: bytes) -> bytes | None:
        """The value of a field that must not come twice."""
        values = self.all(name)
        if len(values) > 1:
            raise Malformed(f"{name!r} came {len(values)} times: {values}")
        return values[0] if values else None


async def hear_request(reader: StreamReader) -> Heard | None:
    """The next request, or None at the end of the connection. Raises `Malformed`."""
    heard = Heard()
    await _within(_request(reader, heard), heard)
    return heard if heard.start else None


async def hear_request_head(reader: StreamReader) -> Heard | None:
    """As `hear_request`, up to the end of the head; `hear_body` goes on."""
    heard = Heard()
    await _within(_request_head(reader, heard), heard)
    return heard if heard.start else None


async def hear_body(reader: StreamReader, heard: Heard) -> None:
    """The body that a head has announced, with its trailers."""
    await _within(_body(reader, heard), heard)


async def hear_answer(reader: StreamReader, method: bytes = b"POST") -> Heard:
    """The next final answer to a request with this method, with the interim ones before it; what came of it."""
    heard = Heard()
    await _within(_answer(reader, heard, method), heard)
    return heard


async def _within(work, heard: Heard) -> None:
    with anyio.fail_after(WAIT_SECONDS):
        try:
            await work
        except IncompleteReadError:
            pass  # it is not whole
        except ConnectionError:
            heard.was_reset = True
        except LimitOverrunError as error:
            raise Malformed("a line without an end") from error


async def _request(reader: StreamReader, heard: Heard) -> None:
    await _request_head(reader, heard)
    await _body(reader, heard)


async def _request_head(reader: StreamReader, heard: Heard) -> None:
    line = await _line(reader)
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise Malformed(f"no request line: {line[:200]!r}")
    fields = await _fields(reader)
    heard.start, heard.fields = line, fields
    if match[3] == b"1.1" and len(heard.all(b"host")) != 1:
        raise Malformed(f"a request has one host, not {heard.all(b'host')}")
    heard.framing = _framing(heard, old=match[3] == b"1.0")


async def _answer(reader: StreamReader, heard: Heard, method: bytes) -> None:
    while True:
        line = await _line(reader)
        match = _STATUS.fullmatch(line)
        if match is None:
            raise Malformed(f"no status line: {line[:200]!r}")
        fields = await _fields(reader)
        status = int(match[2])
        if status >= 200 or status == 101:
            break
        heard.interim.append(Heard(line, fields, whole=True))
    heard.start, heard.fields = line, fields
    framing = _framing(heard, old=match[1] == b"1.0")
    if method == b"HEAD" or status in (101, 204, 304):
        heard.whole = True
        return
    heard.framing = "close" if framing == "none" else framing
    await _body(reader, heard)


def _framing(heard: Heard, *, old: bool) -> Framing:
    coding, length = heard.one(b"transfer-encoding"), heard.one(b"content-length")
    if coding is not None:
        if length is not None or old or coding.lower() != b"chunked":
            raise Malformed(f"two meanings: transfer-encoding {coding!r}, content-length {length!r}, HTTP/1.0 {old}")
        return "chunked"
    if length is not None:
        if re.fullmatch(rb"[0-9]{1,18}", length) is None:
            raise Malformed(f"content-length {length!r}")
        return "length"
    return "none"


async def _body(reader: StreamReader, heard: Heard) -> None:
    if heard.framing == "length":
        left = int(heard.one(b"content-length") or b"0")
        while left:
            part = await reader.read(min(left, _PIECE))
            if not part:
                return
            heard.body += part
            left -= len(part)
    elif heard.framing == "close":
        while part := await reader.read(_PIECE):
            heard.body += part
    elif heard.framing == "chunked":
        await _chunks(reader, heard)
    heard.whole = True


async def _chunks(reader: StreamReader, heard: Heard) -> None:
    while True:
        line = await _line(reader)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise Malformed(f"no chunk: {line[:200]!r}")
        left = int(match[1], 16)
        if not left:
            break
        while left:
            part = await reader.read(min(left, _PIECE))
            if not part:
                raise IncompleteReadError(b"", left)
            heard.body += part
            left -= len(part)
        if await reader.readexactly(2) != b"\r\n":
            raise Malformed("a chunk that does not end with its size")
    heard.trailers = await _fields(reader)


async def _line(reader: StreamReader) -> bytes:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    if b"\n" in line or b"\r" in line or b"\0" in line:
        raise Malformed(f"a stray line end or NUL: {line[:200]!r}")
    return line


async def _fields(reader: StreamReader) -> Fields:
    fields = []
    while line := await _line(reader):
        match = _FIELD.fullmatch(line)
        if match is None or _VALUE.fullmatch(match[2]) is None:
            raise Malformed(f"no field: {line[:200]!r}")
        fields.append((match[1], match[2]))
    return fields


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The data in pieces; a cut is anywhere, taken modulo the length."""
    edges = sorted({place % (len(data) + 1) for place in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


async def play(writer: StreamWriter, data: bytes, cuts: Sequence[int] = (), turns: int = 1) -> None:
    """Write the pieces one by one, with so many turns of the loop between them."""
    for piece in cut(data, cuts):
        writer.write(piece)
        with anyio.fail_after(WAIT_SECONDS):
            await writer.drain()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()


def reset(wire: Wire) -> None:
    """End the connection with RST, as a machine that has crashed does."""
    sock = wire.writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.reset()


async def closed_by_peer(wire: Wire) -> bool:
    """Wait until the other side has closed; what still comes is thrown away."""
    with anyio.move_on_after(WAIT_SECONDS):
        try:
            while await wire.reader.read(_PIECE):
                pass
        except ConnectionError:
            pass
        return True
    return False
