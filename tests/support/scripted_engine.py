"""An engine that answers each request by a plan, byte for byte as the plan says; and random plans.

A request finds its plan by its target. What the engine heard is kept by target, read strictly.
"""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from hypothesis import strategies as st

from tests.support.raw_client import Fields, Framing, Heard, Malformed, hear_body, hear_request_head, play, reset
from tests.support.upstream import ScriptedUpstream, Wire, upstream

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Kind = Literal["sse", "ndjson", "json", "binary"]
TYPES: dict[Kind, bytes] = {
    "sse": b"text/event-stream; charset=utf-8",
    "ndjson": b"application/x-ndjson",
    "json": b"application/json",
    "binary": b"application/octet-stream",
}
_WORDS = ("a", "hello", "ünï", "{", '"', "\\n", "data: ", "[DONE]", "0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "漢字", "")


@cache
def blob(kind: Kind, seed: int, size: int) -> bytes:
    """A body of exactly `size` bytes that looks like what engines send, or like nothing at all."""
    dice = random.Random(seed)
    if kind == "binary":
        return dice.randbytes(size)
    out = bytearray(b"[" if kind == "json" else b"")
    while len(out) < size:
        word = "".join(dice.choices(_WORDS, k=dice.randrange(1, 6)))
        said = f'{{"model":"tiny","choices":[{{"index":0,"delta":{{"content":"{word}"}}}}]}}'
        form = {"sse": f"data: {said}\n\n", "ndjson": f"{said}\n", "json": f"{said},"}[kind]
        out += dice.choice((form, form, ": ping\n\n")).encode()
    return bytes(out[:size])


@dataclass(frozen=True)
class Framed:
    """A body and how it is put on the wire. `sizes`: of the chunks, the last one takes the rest.

    The body is given, or what `blob` makes of this: an example of a property is printed, and must be short.
    """

    given: bytes | tuple[Kind, int, int]
    framing: Framing
    sizes: tuple[int, ...] = ()
    extension: bytes = b""
    digits: str = "%x"
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        return self.given if isinstance(self.given, bytes) else blob(*self.given)

    def head(self) -> bytes:
        if self.framing == "chunked":
            return b"Transfer-Encoding: chunked\r\n"
        return b"content-length: %d\r\n" % len(self.body) if self.framing == "length" else b""

    def wire(self) -> bytes:
        if self.framing != "chunked":
            return self.body
        out, left = bytearray(), self.body
        for size in (*self.sizes, len(self.body)):
            part, left = left[:size], left[size:]
            if part:
                out += (self.digits % len(part)).encode() + self.extension + b"\r\n" + part + b"\r\n"
        fields = b"".join(b"%b: %b\r\n" % one for one in self.trailers)
        return bytes(out) + b"0" + self.extension + b"\r\n" + fields + b"\r\n"


@dataclass(frozen=True)
class Answer:
    """What the engine says. `stop` cuts the wire there (modulo its length): by FIN, or by a reset."""

    framed: Framed
    kind: Kind = "json"
    status: int = 200
    old: bool = False  # HTTP/1.0
    interim: tuple[bytes, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False
    cuts: tuple[int, ...] = ()
    turns: int = 1
    stop: int | None = None
    by_reset: bool = False

    def head(self) -> bytes:
        version = b"HTTP/1.0" if self.old else b"HTTP/1.1"
        lines = b"".join(b"%b: %b\r\n" % one for one in self.fields)
        close = b"Connection: close\r\n" if self.closes else b""
        start = b"%b %d Some Reason\r\n" % (version, self.status)
        return start + b"Content-Type: %b\r\n" % TYPES[self.kind] + lines + close + self.framed.head() + b"\r\n"

    def wire(self, method: bytes) -> bytes:
        bodyless = method == b"HEAD" or self.status in (204, 304)
        return b"".join(self.interim) + self.head() + (b"" if bodyless else self.framed.wire())

    @property
    def ends_connection(self) -> bool:
        return self.closes or self.old or self.framed.framing == "close" or self.stop is not None


@dataclass
class Engine:
    """What the engine is to say, and what it has heard, by target."""

    url: str = ""
    plans: dict[bytes, Answer] = field(default_factory=dict)
    heard: dict[bytes, list[Heard]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)  # what could not be read

    async def serve(self, wire: Wire) -> None:
        try:
            while (heard := await hear_request_head(wire.reader)) is not None and await self._answer(wire, heard):
                pass
        except Malformed as error:
            self.strange.append(str(error))

    async def _answer(self, wire: Wire, heard: Heard) -> bool:
        self.heard.setdefault(heard.target, []).append(heard)
        plan = self.plans.get(heard.target, OK)
        if heard.one(b"expect") is not None:
            await play(wire.writer, CONTINUE)
        await hear_body(wire.reader, heard)
        if not heard.whole:
            return False
        said = plan.wire(heard.method)
        if plan.stop is not None:
            said = said[: plan.stop % len(said)]
        await play(wire.writer, said, plan.cuts, plan.turns)
        if plan.stop is not None and plan.by_reset:
            reset(wire)
        return not plan.ends_connection


OK = Answer(Framed(b"{}", "length"))


@asynccontextmanager
async def scripted_engine() -> AsyncIterator[Engine]:
    """An engine on a free port; connections that are left open are reset at the end."""
    engine = Engine()
    async with upstream(engine.serve) as here:
        engine.url = _url(here)
        yield engine
    assert not engine.strange, engine.strange


def _url(here: ScriptedUpstream) -> str:
    return here.url


# random plans

_seeds = st.integers(0, 1 << 30)
_sizes = st.one_of(
    st.integers(0, 80),
    st.integers(0, 9000),
    st.sampled_from((1, 4095, 4096, 65535, 65536, 65537, 131072, 262144, 262145, 400_001)),
)
_cuts = st.lists(st.integers(0, 1 << 20) | st.integers(0, 400), max_size=8).map(tuple)
_kinds: st.SearchStrategy[Kind] = st.sampled_from(("sse", "ndjson", "json", "binary"))
_trailers: st.SearchStrategy[tuple[tuple[bytes, bytes], ...]] = st.lists(
    st.sampled_from(((b"X-Checksum", b"abc123"), (b"Server-Timing", b'db;dur=53, x;desc="a b"'), (b"x-empty", b""))),
    max_size=2,
).map(tuple)
_extensions = st.sampled_from((b"", b"", b"", b";x", b";name=value", b';sig="a b; c"'))
_fields: st.SearchStrategy[tuple[tuple[bytes, bytes], ...]] = st.lists(
    st.sampled_from(
        (
            (b"Set-Cookie", b"a=1; Path=/"),
            (b"Set-Cookie", b"b=2"),
            (b"X-ODD-Case", b"Yes"),
            (b"x-empty", b""),
            (b"x-latin", b"caf\xe9"),
            (b"x-utf8", "漢字".encode()),
            (b"x-tab", b"a\tb"),
            (b"x-colon", b"a: b: c"),
            (b"x-quoted", b'"a, b", "c"'),
            (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
        )
    ),
    max_size=5,
).map(tuple)
_interim = st.lists(
    st.sampled_from(
        (b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
    ),
    max_size=2,
).map(tuple)


def framed(framings: Sequence[Framing], *, trailers: bool = True) -> st.SearchStrategy[tuple[Kind, Framed]]:
    """A random body in a random framing."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> tuple[Kind, Framed]:
        kind, framing = draw(_kinds), draw(st.sampled_from(tuple(framings)))
        made_of = (kind, draw(_seeds), 0 if framing == "none" else draw(_sizes))
        if framing != "chunked":
            return kind, Framed(made_of, framing)
        sizes = draw(st.lists(st.integers(1, 9) | st.integers(1, 70_000), max_size=12).map(tuple))
        digits = draw(st.sampled_from(("%x", "%X", "%06x")))
        fields = draw(_trailers) if trailers else ()
        return kind, Framed(made_of, framing, sizes, draw(_extensions), digits, fields)

    return draw_one()


@st.composite
def answers(draw: st.DrawFn, *, stopped: bool = False, last: bool = True) -> Answer:
    """A random answer: whole, or `stopped` before its end. Only the `last` of a connection may end with it."""
    old = last and draw(st.integers(0, 5)) == 0
    framings: tuple[Framing, ...] = ("length",) if old else ("length", "chunked", "chunked")
    kind, body = draw(framed((*framings, "close") if last else framings))
    return Answer(
        framed=body,
        kind=kind,
        status=200 if body.framing == "close" else draw(st.sampled_from((200, 200, 200, 201, 204, 304, 400, 404, 500))),
        old=old,
        interim=() if old else draw(_interim),
        fields=draw(_fields),
        closes=draw(st.booleans()),
        cuts=draw(_cuts),
        turns=draw(st.integers(0, 3)),
        stop=draw(st.integers(0, 1 << 20) | st.integers(0, 300)) if stopped else None,
        by_reset=stopped and draw(st.booleans()),
    )


@dataclass(frozen=True)
class Ask:
    """What a client sends."""

    method: bytes
    framed: Framed
    path: bytes = b"/v1/chat/completions"
    fields: Fields = field(default_factory=list)

    def head(self, target: bytes) -> bytes:
        lines = b"".join(b"%b: %b\r\n" % one for one in self.fields)
        return b"%b %b HTTP/1.1\r\nHost: engine\r\n" % (self.method, target) + lines + self.framed.head() + b"\r\n"


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """A random request."""
    method = draw(st.sampled_from((b"POST", b"POST", b"POST", b"GET", b"HEAD", b"PUT", b"DELETE")))
    framings: tuple[Framing, ...] = ("length", "chunked") if method in (b"POST", b"PUT") else ("none",)
    path = draw(st.sampled_from((b"/v1/chat/completions", b"/api/chat", b"/v1/messages", b"/v1/audio/speech", b"/x")))
    return Ask(method, draw(framed(framings, trailers=False))[1], path)


cuts = _cuts
