"""Requests that two readers could read differently: refused and the connection closed, or forwarded with one meaning.

Whatever comes out at the engine is read strictly (`tests.support.raw_client`): every reader of it agrees. The second
request that each attack hides is one for `/smuggled`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.support.raw_client import Heard, Malformed, closed_by_peer, hear_answer, hear_request
from tests.support.sidecar import Proxy, events, record, sidecar
from tests.support.upstream import Wire, connect, repeat, until, upstream, whole

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: e\r\n\r\n"
QUIET_SECONDS, PATIENCE_SECONDS = 0.05, 1
START = b"POST /v1/completions HTTP/1.1\r\nHost: e\r\n"


@dataclass
class Ears:
    """All that came to the engine, in the order of its connections."""

    heard: list[Heard] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    connections: int = 0

    async def listen(self, wire: Wire) -> None:
        self.connections += 1
        try:
            while (heard := await hear_request(wire.reader)) is not None:
                self.heard.append(heard)
                if not heard.whole:
                    return
                await wire.send(whole(b"answer to " + heard.target, kind="text/plain"))
        except Malformed as error:
            self.malformed.append(str(error))

    def forget(self) -> None:
        self.heard.clear()
        self.malformed.clear()
        self.connections = 0


@asynccontextmanager
async def ears_and_sidecar() -> AsyncIterator[tuple[Ears, Proxy]]:
    ears = Ears()
    async with upstream(ears.listen) as engine, sidecar(engine.url) as proxy:
        yield ears, proxy


class Rig:
    """One engine and one sidecar for the whole table."""

    def __init__(self, portal: BlockingPortal, ears: Ears, proxy: Proxy) -> None:
        self.portal = portal
        self.ears = ears
        self.proxy = proxy

    def tried(self, attack: bytes) -> tuple[list[Heard], bool]:
        self.ears.forget()
        return self.portal.call(heard_back, self.proxy, attack)


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(ears_and_sidecar()) as (ears, proxy),
    ):
        yield Rig(portal, ears, proxy)


async def heard_back(proxy: Proxy, attack: bytes) -> tuple[list[Heard], bool]:
    """The answers to these bytes, and whether the sidecar has closed the connection by itself."""
    answers: list[Heard] = []
    async with connect(proxy.port) as client:
        client.writer.write(attack)
        while True:
            # The last wait is for an answer too many, which would be there already.
            with anyio.move_on_after(QUIET_SECONDS if answers else PATIENCE_SECONDS) as patience:
                answer = await hear_answer(client.reader)
            if patience.cancelled_caught:
                return answers, False
            if not answer.start:
                return answers, True
            answers.append(answer)


def body_of(body: bytes, *lines: bytes) -> bytes:
    return START + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
NO_BODY = b"0\r\n\r\n"

# Each is followed by HIDDEN: whoever takes the shorter of the two bodies finds a second request there.
LENGTHS = {
    "cl+te": body_of(NO_BODY, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "te+cl": body_of(NO_BODY, b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "cl-too-long+te": body_of(NO_BODY, b"Content-Length: 40", b"Transfer-Encoding: chunked"),
    "cl0+te": body_of(CHUNKED, b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    "cl+te-in-1.0": body_of(NO_BODY, b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1),
    "te-in-1.0": body_of(NO_BODY, b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1),
    "te-xchunked": body_of(NO_BODY, b"Transfer-Encoding: xchunked"),
    "te-chunked-twice": body_of(NO_BODY, b"Transfer-Encoding: chunked, chunked"),
    "te-on-two-lines": body_of(NO_BODY, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "te-identity": body_of(NO_BODY, b"Transfer-Encoding: identity"),
    "te-identity+cl": body_of(NO_BODY, b"Transfer-Encoding: identity", b"Content-Length: 5"),
    "te-chunked-then-identity": body_of(NO_BODY, b"Transfer-Encoding: chunked, identity"),
    "te-chunked-then-identity-on-two-lines": body_of(
        NO_BODY, b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"
    ),
    "te-identity-then-chunked": body_of(NO_BODY, b"Transfer-Encoding: identity, chunked"),
    "te-gzip-then-chunked": body_of(NO_BODY, b"Transfer-Encoding: gzip, chunked"),
    "te-gzip": body_of(NO_BODY, b"Transfer-Encoding: gzip"),
    "te-empty": body_of(NO_BODY, b"Transfer-Encoding:"),
    "te-empty+cl": body_of(NO_BODY, b"Transfer-Encoding:", b"Content-Length: 5"),
    "te-comma": body_of(NO_BODY, b"Transfer-Encoding: ,"),
    "te-comma-chunked": body_of(NO_BODY, b"Transfer-Encoding: , chunked"),
    "te-chunked-comma": body_of(NO_BODY, b"Transfer-Encoding: chunked,"),
    "te-quoted": body_of(NO_BODY, b'Transfer-Encoding: "chunked"'),
    "te-with-parameter": body_of(NO_BODY, b"Transfer-Encoding: chunked;q=1"),
    "te-space-before-colon": body_of(NO_BODY, b"Transfer-Encoding : chunked"),
    "te-tab-before-colon": body_of(NO_BODY, b"Transfer-Encoding\t: chunked"),
    "te-space-before-colon+cl": body_of(NO_BODY, b"Transfer-Encoding : chunked", b"Content-Length: 5"),
    "te-tab-after-colon": body_of(NO_BODY, b"Transfer-Encoding:\tchunked"),
    "te-trailing-tab": body_of(NO_BODY, b"Transfer-Encoding: chunked\t"),
    "te-vertical-tab": body_of(NO_BODY, b"Transfer-Encoding:\x0bchunked"),
    "te-form-feed": body_of(NO_BODY, b"Transfer-Encoding: chunked\x0c"),
    "te-no-break-space": body_of(NO_BODY, b"Transfer-Encoding: chunked\xa0"),
    "te-upper-case": body_of(NO_BODY, b"TRANSFER-ENCODING: CHUNKED"),
    "te-long-s": body_of(NO_BODY, "Transfer-Encoding: ſchunked".encode()),
    "te-underscore+cl": body_of(NO_BODY, b"Transfer_Encoding: chunked", b"Content-Length: 5"),
    "te-after-space": START + b" Transfer-Encoding: chunked\r\n\r\n" + NO_BODY,
    "te-after-space-first": START.replace(b"Host: e\r\n", b"")
    + b" Transfer-Encoding: chunked\r\nHost: e\r\n\r\n0\r\n\r\n",
    "te-folded": body_of(NO_BODY, b"Transfer-Encoding:", b" chunked"),
    "te-folded-tab+cl": body_of(NO_BODY, b"Transfer-Encoding:", b"\tchunked", b"Content-Length: 5"),
    "te-in-fold": body_of(NO_BODY, b"X: a", b" Transfer-Encoding: chunked", b"Content-Length: 5"),
    "te-after-bare-lf": body_of(NO_BODY, b"X: a\nTransfer-Encoding: chunked", b"Content-Length: 5"),
    "te-after-bare-cr": body_of(NO_BODY, b"X: a\rTransfer-Encoding: chunked", b"Content-Length: 5"),
    "te-after-nul": body_of(NO_BODY, b"X: a\0", b"Transfer-Encoding\0: chunked", b"Content-Length: 5"),
    "te-named-in-connection": body_of(NO_BODY, b"Connection: transfer-encoding", b"Transfer-Encoding: chunked"),
    "cl-named-in-connection": body_of(b"hello", b"Connection: content-length, close", b"Content-Length: 5"),
    "host-named-in-connection": body_of(b"hello", b"Connection: host", b"Content-Length: 5"),
    "cl-twice-different": body_of(b"hello", b"Content-Length: 5", b"Content-Length: 50"),
    "cl-twice-the-same": body_of(b"hello", b"Content-Length: 5", b"Content-Length: 5"),
    "cl-list-different": body_of(b"hello", b"Content-Length: 5, 50"),
    "cl-list-the-same": body_of(b"hello", b"Content-Length: 5, 5"),
    "cl-negative": body_of(b"hello", b"Content-Length: -5"),
    "cl-minus-zero": body_of(b"", b"Content-Length: -0"),
    "cl-plus": body_of(b"hello", b"Content-Length: +5"),
    "cl-hex": body_of(b"hello", b"Content-Length: 0x5"),
    "cl-octal": body_of(b"hello", b"Content-Length: 0005"),
    "cl-float": body_of(b"hello", b"Content-Length: 5.0"),
    "cl-exponent": body_of(b"hello", b"Content-Length: 5e0"),
    "cl-underscore": body_of(b"hello" * 2, b"Content-Length: 1_0"),
    "cl-spaced": body_of(b"hello" * 2, b"Content-Length: 1 0"),
    "cl-empty": body_of(b"", b"Content-Length:"),
    "cl-comma": body_of(b"", b"Content-Length: ,"),
    "cl-arabic-digits": body_of(b"hello", "Content-Length: ٥".encode()),
    "cl-huge": body_of(b"hello", b"Content-Length: 18446744073709551621"),
    "cl-2-to-the-64-plus-5": body_of(b"hello", b"Content-Length: 18446744073709551621"),
    "cl-space-before-colon": body_of(b"hello", b"Content-Length : 5"),
    "cl-folded": body_of(b"hello", b"Content-Length:", b" 5"),
    "cl-in-fold": body_of(b"", b"X: a", b" Content-Length: 40"),
    "cl-after-bare-lf": body_of(b"", b"X: a\nContent-Length: 40"),
    "cl-after-bare-cr": body_of(b"", b"X: a\rContent-Length: 40"),
    "get-with-body": b"GET /v1/models HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\nhello",
    "delete-with-chunks": b"DELETE /v1/models HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "trace-with-body": b"TRACE / HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\nhello",
    "upgrade-with-body": body_of(b"hello", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5"),
    "upgrade-with-chunks": body_of(CHUNKED, b"Connection: Upgrade", b"Upgrade: x", b"Transfer-Encoding: chunked"),
}

CHUNKS = {
    "size-overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size-ffffffffffffffff": b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "size-negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size-0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size-empty": b"\r\nhello\r\n0\r\n\r\n",
    "size-space-before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size-space-after": b"5 \r\nhello\r\n0\r\n\r\n",
    "size-tab-after": b"5\t\r\nhello\r\n0\r\n\r\n",
    "size-underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size-many-zeros": b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n",
    "size-too-small": b"3\r\nhello\r\n0\r\n\r\n",
    "size-too-large": b"8\r\nhello\r\n0\r\n\r\n",
    "line-end-lf": b"5\nhello\r\n0\r\n\r\n",
    "line-end-cr": b"5\rhello\r\n0\r\n\r\n",
    "data-end-lf": b"5\r\nhello\n0\r\n\r\n",
    "data-end-cr": b"5\r\nhello\r0\r\n\r\n",
    "data-end-none": b"5\r\nhello0\r\n\r\n",
    "last-end-lf": b"5\r\nhello\r\n0\n\n",
    "ends-lf": b"5\nhello\n0\n\n",
    "ext": b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "ext-bare-lf": b"5;a\nhello\r\n0\r\n\r\n",
    "ext-bare-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "ext-hides-chunk": b"5;\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: e\r\n\r\n",
    "ext-quoted-line-end": b'5;a="\r\nhello\r\n0\r\n\r\n"\r\n',
    "ext-nul": b"5;a\0b\r\nhello\r\n0\r\n\r\n",
    "ext-without-semicolon": b"5 a=b\r\nhello\r\n0\r\n\r\n",
    "ext-huge": b"5;" + b"a" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
    "trailer-te": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer-cl": b"5\r\nhello\r\n0\r\nContent-Length: 40\r\n\r\n",
    "trailer-host": b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n",
    "trailer-bare-lf": b"5\r\nhello\r\n0\r\nX: a\n\r\n\r\n",
    "trailer-bare-cr": b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
    "trailer-folded": b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
    "trailer-nul": b"5\r\nhello\r\n0\r\nX: a\0b\r\n\r\n",
    "trailer-no-colon": b"5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    "trailer-huge": b"5\r\nhello\r\n0\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "trailers-many": b"5\r\nhello\r\n0\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
}


def get(*lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"Host: e") -> bytes:
    return b"\r\n".join([start, *([] if host is None else [host]), *lines, b"", b""])


HEADS = {
    "host-missing": get(host=None),
    "host-empty": get(host=b"Host:"),
    "host-twice": get(b"Host: other"),
    "host-twice-the-same": get(b"Host: e"),
    "host-twice-in-cases": get(b"HOST: other"),
    "host-space-before-colon": get(b"Host : other"),
    "host-list": get(host=b"Host: e, other"),
    "host-with-path": get(host=b"Host: e/smuggled"),
    "host-with-user": get(host=b"Host: a@e"),
    "host-folded": get(b" other"),
    "absolute-form": get(start=b"GET http://e/v1/models HTTP/1.1"),
    "absolute-form-other-host": get(start=b"GET http://other.invalid/v1/models HTTP/1.1"),
    "absolute-form-https": get(start=b"GET https://e/v1/models HTTP/1.1"),
    "absolute-form-no-path": get(start=b"GET http://e HTTP/1.1"),
    "absolute-form-query": get(start=b"GET http://e?a=b HTTP/1.1"),
    "absolute-form-user": get(start=b"GET http://e:x@other.invalid/ HTTP/1.1"),
    "absolute-form-file": get(start=b"GET file:///etc/passwd HTTP/1.1"),
    "absolute-form-in-path": get(start=b"GET /x?u=http://other.invalid/ HTTP/1.1"),
    "double-slash": get(start=b"GET //other.invalid/v1/models HTTP/1.1"),
    "no-slash": get(start=b"GET v1/models HTTP/1.1"),
    "authority-form": get(start=b"GET other.invalid:80 HTTP/1.1"),
    "asterisk": get(start=b"OPTIONS * HTTP/1.1"),
    "asterisk-get": get(start=b"GET * HTTP/1.1"),
    "fragment": get(start=b"GET /v1/models#a HTTP/1.1"),
    "target-empty": get(start=b"GET  HTTP/1.1"),
    "target-with-space": get(start=b"GET /a b HTTP/1.1"),
    "target-hides-request": get(start=b"GET /a HTTP/1.1\r\nX: HTTP/1.1"),
    "target-with-tab": get(start=b"GET\t/a\tHTTP/1.1"),
    "target-with-nul": get(start=b"GET /a\0b HTTP/1.1"),
    "target-with-cr": get(start=b"GET /a\rb HTTP/1.1"),
    "target-with-lf": get(start=b"GET /a\nb HTTP/1.1"),
    "target-with-8-bits": get(start="GET /ü HTTP/1.1".encode()),
    "target-with-del": get(start=b"GET /a\x7f HTTP/1.1"),
    "target-long": get(start=b"GET /" + b"a" * 100_000 + b" HTTP/1.1"),
    "version-0.9": b"GET /v1/models\r\n\r\n",
    "version-0.9-written": get(start=b"GET /v1/models HTTP/0.9"),
    "version-1.0": get(start=b"GET /v1/models HTTP/1.0"),
    "version-1.2": get(start=b"GET /v1/models HTTP/1.2"),
    "version-2.0": get(start=b"GET /v1/models HTTP/2.0"),
    "version-1.10": get(start=b"GET /v1/models HTTP/1.10"),
    "version-1.-1": get(start=b"GET /v1/models HTTP/1.-1"),
    "version-lower-case": get(start=b"GET /v1/models http/1.1"),
    "version-rtsp": get(start=b"GET /v1/models RTSP/1.1"),
    "version-icy": get(start=b"GET /v1/models ICE/1.1"),
    "version-none": get(start=b"GET /v1/models "),
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0",
    "tls-hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
    "method-lower-case": get(start=b"get /v1/models HTTP/1.1"),
    "method-unknown": get(start=b"SMUGGLE /v1/models HTTP/1.1"),
    "method-odd": get(start=b"GE(T /v1/models HTTP/1.1"),
    "method-long": get(start=b"G" * 100_000 + b" /v1/models HTTP/1.1"),
    "connect": get(start=b"CONNECT other.invalid:443 HTTP/1.1"),
    "connect-with-length": get(b"Content-Length: 5", start=b"CONNECT other.invalid:443 HTTP/1.1"),
    "connect-1.0": get(start=b"CONNECT other.invalid:443 HTTP/1.0"),
    "empty-lines-first": b"\r\n\r\n" + get(),
    "empty-lf-first": b"\n" + get(),
    "lf-only": get().replace(b"\r\n", b"\n"),
    "lf-in-start": get().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
    "lf-in-end": get().replace(b"\r\n\r\n", b"\r\n\n"),
    "cr-only": get().replace(b"\r\n", b"\r") + b"\r\n\r\n",
    "cr-cr-lf": get(b"X: a\r"),
    "name-nul": get(b"X\0Y: a"),
    "value-nul": get(b"X: a\0b"),
    "value-lf": get(b"X: a\nHidden: b"),
    "value-cr": get(b"X: a\rHidden: b"),
    "value-del": get(b"X: a\x7fb"),
    "value-bell": get(b"X: a\x07b"),
    "value-8-bits": get(b"X: caf\xe9 \xff"),
    "name-empty": get(b": a"),
    "name-space": get(b"X Y: a"),
    "name-8-bits": get(b"X\xe9: a"),
    "name-bracket": get(b"X(y): a"),
    "name-slash": get(b"X/y: a"),
    "name-at": get(b"X@y: a"),
    "name-quote": get(b'"X": a'),
    "name-every-token-character": get(b"!#$%&'*+-.^_`|~09AZaz: a"),
    "name-long": get(b"X" * 100_000 + b": a"),
    "no-colon": get(b"nothing"),
    "obs-fold": get(b"X: a", b" b"),
    "obs-fold-tab": get(b"X: a", b"\tb"),
    "obs-fold-empty": get(b"X: a", b"  "),
    "fields-1000": get(*(b"X-%d: a" % n for n in range(1000))),
    "fields-20000": get(*(b"X-%d: a" % n for n in range(20_000))),
    "field-1-mib": get(b"X: " + b"a" * (1 << 20)),
    "expect-other": get(b"Expect: 200-maybe"),
    "connection-names-all": get(b"Connection: host, x-a, authorization", b"X-A: 1", b"Authorization: Bearer x"),
}


def judged(name: str, ears: Ears, answers: list[Heard], closed: bool, body: bytes | None) -> None:
    """Refused and closed; or understood as one request with this body, and HIDDEN as a request of its own after it."""
    assert not ears.malformed, f"{name}: what reached the engine has more than one meaning: {ears.malformed}"
    ours = [heard for heard in ears.heard if heard.target != b"/smuggled"]
    hidden = [heard for heard in ears.heard if heard.target == b"/smuggled"]
    if answers and 400 <= answers[0].status < 600 and answers[0].one(b"content-type") == b"application/problem+json":
        assert closed, f"{name}: refused, but the connection stays open"
        assert len(answers) == 1, f"{name}: something was read after what could not be read"
        assert 400 <= answers[0].status < 500 or answers[0].status in (501, 505), f"{name}: {answers[0].start!r}"
        assert answers[0].one(b"connection") == b"close"
        assert not [heard for heard in ears.heard if heard.whole], f"{name}: refused, yet the engine has heard of it"
    elif not answers:
        assert closed or name in UNENDED, f"{name}: neither answered nor closed"
        assert not [heard for heard in ears.heard if heard.whole], f"{name}: not answered, but forwarded"
    else:
        assert body is not None, f"{name}: {answers[0].start!r}, but nobody can know what it means"
        (request,) = ours
        assert request.whole, f"{name}: half a request"
        assert bytes(request.body) == body, f"{name}: the engine's body is not ours"
        assert len(hidden) <= 1
        assert closed or name != "te-in-1.0"
        assert [bytes(a.body) for a in answers if a.body] == [b"answer to " + heard.target for heard in ears.heard]


# Those whose meaning is beyond doubt by RFC 9112, and what their body is then. All others must not be forwarded.
CLEAR: dict[str, bytes] = {
    "te-upper-case": b"",
    "te-tab-after-colon": b"",
    "te-trailing-tab": b"",
    "te-named-in-connection": b"",
    "te-underscore+cl": NO_BODY,
    "cl-named-in-connection": b"hello",
    "host-named-in-connection": b"hello",
    "cl-twice-the-same": b"hello",
    "cl-list-the-same": b"hello",
    "cl-octal": b"hello",
    "get-with-body": b"hello",
    "delete-with-chunks": b"hello",
    "trace-with-body": b"hello",
    "upgrade-with-body": b"hello",
    "upgrade-with-chunks": b"hello",
    "te-in-1.0": b"",  # if the connection is closed then, as it is after any request in HTTP/1.0
    "te-chunked-comma": b"",
    "te-comma-chunked": b"",
}
UNENDED = {"size-ffffffffffffffff", "http2-preface"}  # a chunk may go on for long; HTTP/2 waits for its first call
CLEAR_CHUNKS = {
    "size-many-zeros",
    "ext",
    "ext-huge",
    "trailer-te",
    "trailer-cl",
    "trailer-host",
    "trailer-huge",
    "trailers-many",
    "size-space-after",
    "size-tab-after",
}
CLEAR_HEADS = {
    "host-missing", "host-empty", "host-list", "absolute-form", "absolute-form-other-host", "absolute-form-https",
    "absolute-form-no-path", "absolute-form-query", "absolute-form-in-path", "absolute-form-user", "double-slash",
    "asterisk", "asterisk-get", "target-hides-request", "version-1.0", "empty-lines-first", "empty-lf-first",
    "value-8-bits", "name-every-token-character", "fields-1000", "expect-other", "connection-names-all",
    "host-with-path", "host-with-user",
}  # fmt: skip


HEAVY = {b"transfer-encoding", b"content-length", b"host"}  # fields that a trailer must not bring (RFC 9110 6.5.1)


@pytest.mark.parametrize("name", LENGTHS)
def test_a_body_has_one_end(rig: Rig, name: str) -> None:
    answers, closed = rig.tried(LENGTHS[name] + HIDDEN)
    judged(name, rig.ears, answers, closed, CLEAR.get(name))


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_has_one_end(rig: Rig, name: str) -> None:
    answers, closed = rig.tried(body_of(CHUNKS[name], b"Transfer-Encoding: chunked") + HIDDEN)
    judged(name, rig.ears, answers, closed, b"hello" if name in CLEAR_CHUNKS else None)
    assert not [heard for heard in rig.ears.heard if {field.lower() for field, _ in heard.trailers} & HEAVY]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_one_meaning(rig: Rig, name: str) -> None:
    answers, closed = rig.tried(HEADS[name])
    judged(name, rig.ears, answers, closed, b"" if name in CLEAR_HEADS else None)


def attack_of(name: str) -> bytes:
    return LENGTHS.get(name) or HEADS.get(name) or body_of(CHUNKS[name], b"Transfer-Encoding: chunked")


async def with_a_victim(proxy: Proxy, attack: bytes) -> list[Heard]:
    """An attacker who would swallow the next request's line, and the answers to another client."""
    async with connect(proxy.port) as attacker, connect(proxy.port) as victim:
        attacker.writer.write(attack + b"GET /smuggled HTTP/1.1\r\nX: ")
        answers = []
        for number in range(3):
            await victim.send(b"GET /mine/%d HTTP/1.1\r\nHost: e\r\n\r\n" % number)
            answers.append(await hear_answer(victim.reader))
    return answers


@pytest.mark.parametrize("name", [*LENGTHS, *CHUNKS])
def test_an_attack_does_not_reach_the_next_client(rig: Rig, name: str) -> None:
    """However the first client's bytes were read: the answer to another client's request is that client's."""
    rig.ears.forget()
    answers = rig.portal.call(with_a_victim, rig.proxy, attack_of(name))
    assert [bytes(answer.body) for answer in answers] == [b"answer to /mine/%d" % number for number in range(3)]


async def byte_by_byte(proxy: Proxy, attack: bytes) -> None:
    async with connect(proxy.port) as client:
        for at in range(len(attack)):
            if client.reader.at_eof() or client.writer.is_closing():
                break
            client.writer.write(attack[at : at + 1])
            await anyio.lowlevel.checkpoint()
    await until(lambda: not proxy.listener.connections)
    for _ in range(50):
        await anyio.lowlevel.checkpoint()  # until the engine has read what was on its way


@pytest.mark.parametrize("name", [*LENGTHS, *CHUNKS, *HEADS])
def test_an_attack_byte_by_byte_is_none_either(rig: Rig, name: str) -> None:
    rig.ears.forget()
    rig.portal.call(byte_by_byte, rig.proxy, attack_of(name)[:600])
    assert not rig.ears.malformed
    assert len([heard for heard in rig.ears.heard if heard.whole]) <= 1


# no open proxy


@pytest.mark.parametrize(
    "attack",
    [
        b"GET http://%b/secret HTTP/1.1\r\nHost: %b\r\n\r\n",
        b"GET http://%b/secret HTTP/1.1\r\nHost: engine\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: %b\r\n\r\n",
        b"GET //%b/secret HTTP/1.1\r\nHost: engine\r\n\r\n",
        b"GET @%b/secret HTTP/1.1\r\nHost: engine\r\n\r\n",
        b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n",
        b"CONNECT %b HTTP/1.0\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: engine\r\nX-Forwarded-Host: %b\r\nForwarded: host=%b\r\n\r\n",
        b"POST http://%b/v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\n\r\n{}",
        b"GET http://%b/ HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_no_request_leads_anywhere_but_to_the_engine(attack: bytes) -> None:
    reached = 0

    async def elsewhere(_: Wire) -> None:
        nonlocal reached
        reached += 1

    async with upstream(elsewhere) as other, ears_and_sidecar() as (ears, proxy):
        address = b"127.0.0.1:%d" % other.port
        await heard_back(proxy, attack.replace(b"%b", address))
        assert reached == 0
        assert not ears.malformed


async def test_the_host_of_an_absolute_target_is_the_host_that_the_engine_hears() -> None:
    """RFC 9112 section 3.2.2: the target's host replaces the field, or the two could be told apart later."""
    async with ears_and_sidecar() as (ears, proxy):
        answers, _ = await heard_back(proxy, b"GET http://real/a HTTP/1.1\r\nHost: other\r\n\r\n")
        if answers[0].status == 200:
            (heard,) = ears.heard
            assert heard.all(b"host") == [b"real"]
            assert heard.target == b"/a"


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/%63ompletions",
        b"/v1/chat/completions#x",
        b"/v1/chat/completions?x=/health",
        b"/v1%2Fchat/completions",
    ],
)
async def test_no_spelling_of_a_path_dodges_the_meter(target: bytes) -> None:
    """Engines decode a path before they look it up: what they serve as a chat is measured as one, or refused."""
    body = b'{"model":"m","choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    async with upstream(repeat(whole(body))) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST %b HTTP/1.1\r\nHost: e\r\nContent-Length: 13\r\n\r\n" % target + b'{"model":"m"}')
        if (await hear_answer(client.reader)).status == 200:
            assert (await record(proxy)).usage.output_tokens == 2


async def test_a_refused_client_leaves_no_record_and_no_connection() -> None:
    async with ears_and_sidecar() as (ears, proxy):
        answers, closed = await heard_back(proxy, LENGTHS["cl+te"])
        assert (answers[0].status, closed) == (400, True)
        await until(lambda: not proxy.listener.connections)
        assert not proxy.forwarder.active
        assert (ears.connections, events(proxy)) == (0, ())


async def test_what_the_client_sent_first_is_answered_before_the_refusal() -> None:
    """A good request before a bad one on the same connection loses nothing by it."""
    good = b"POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\n\r\n{}"
    async with ears_and_sidecar() as (ears, proxy):
        answers, closed = await heard_back(proxy, good + LENGTHS["cl+te"] + HIDDEN)
        assert closed
        assert answers[0].status == 200
        assert len(answers) <= 2
        assert [heard.target for heard in ears.heard] == [b"/v1/completions"]


async def test_a_refusal_arrives_though_the_client_goes_on_sending() -> None:
    """Bytes that wait unread at the close would make the kernel take the refusal back (RFC 9112 section 9.6)."""
    async with ears_and_sidecar() as (_, proxy), connect(proxy.port) as client:
        client.writer.write(LENGTHS["cl+te"] + b"x" * 300_000)
        answer = await hear_answer(client.reader)
        assert answer.status == 400
        assert await closed_by_peer(client)


def test_the_engine_of_these_tests_would_notice() -> None:
    """The strict reader is what all depends on: it must refuse each kind of doubt."""

    async def read(data: bytes) -> str:
        here, there = socket.socketpair()
        here.sendall(data)
        here.close()
        reader, writer = await asyncio.open_connection(sock=there)
        try:
            heard = await hear_request(reader)
        except Malformed:
            return "malformed"
        finally:
            writer.close()
        return "whole" if heard and heard.whole else "partial"

    async def all_of_them() -> list[str]:
        return [await read(data) for data in DOUBTS]

    assert set(anyio.run(all_of_them)) == {"malformed"}


DOUBTS = [
    LENGTHS["cl+te"],
    LENGTHS["cl-twice-the-same"],
    LENGTHS["cl-plus"],
    LENGTHS["te-chunked-twice"],
    LENGTHS["te-after-bare-lf"],
    LENGTHS["te-after-bare-cr"],
    LENGTHS["te-folded"],
    LENGTHS["te-in-1.0"],
    HEADS["host-twice-the-same"],
    HEADS["host-missing"],
    HEADS["value-nul"],
    HEADS["value-bell"],
    HEADS["name-space"],
    HEADS["target-with-space"],
    body_of(CHUNKS["ext-bare-lf"], b"Transfer-Encoding: chunked"),
    body_of(CHUNKS["size-0x"], b"Transfer-Encoding: chunked"),
    body_of(CHUNKS["size-too-small"], b"Transfer-Encoding: chunked"),
]
