"""Metadata of a call → what is read of it, and the fields for the engine; our own answers' fields. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.sidecar.grpc.status import encode_message
from agent.sidecar.tenancy.hops import REPEATED

Fields = list[tuple[bytes, bytes]]
# A client may not say these of itself; `te: trailers` stays, servers of gRPC ask for it.
_OWN = frozenset((b":method", b":scheme", b":authority", b":path", b"x-forwarded-for"))
CONTENT_TYPE = (b"content-type", b"application/grpc")
_STATUS = (b":status", b"200")


class CallHead(NamedTuple):
    """What a client asked for. `fields`: name → value, repeats joined; with the pseudo-fields."""

    path: str
    fields: Mapping[bytes, bytes]
    pairs: Fields  # as they came

    @property
    def refusal(self) -> str | None:
        """Why this is no call of gRPC; None when it is one."""
        fields = self.fields
        if fields.get(b":method") != b"POST" or not fields.get(b"content-type", b"").startswith(CONTENT_TYPE[1]):
            return (
                "this address takes HTTP/2 for gRPC only, which is POST with content-type application/grpc; "
                "send other requests in HTTP/1.1"
            )
        return None

    @property
    def compressed(self) -> bool:
        """Whether messages may be compressed; each says by itself whether it is."""
        return self.fields.get(b"grpc-encoding", b"identity") != b"identity"

    def for_engine(
        self,
        *,
        secure: bool,
        peer: bytes | None,
        host: bytes,
        request_id: bytes,
        traceparent: bytes,
        drop: frozenset[bytes] = frozenset(),
        add: tuple[bytes, ...] = (),
    ) -> Fields:
        """The fields to send: what came, with ids and the client's address (None: it has none). `add`: whole lines."""
        fields = self.fields
        earlier = fields.get(b"x-forwarded-for")
        out = [
            (b":method", b"POST"),
            (b":scheme", b"https" if secure else b"http"),
            (b":path", fields[b":path"]),
            (b":authority", fields.get(b":authority") or fields.get(b"host") or host),
        ]
        out += [pair for pair in self.pairs if pair[0] not in _OWN and pair[0] not in drop]
        for line in add:
            out += fields_of(line)
        if b"traceparent" not in fields:
            out.append((b"traceparent", traceparent))
        if b"x-request-id" not in fields:
            out.append((b"x-request-id", request_id))
        way = [] if earlier is None else [earlier.replace(REPEATED, b", ")]
        if peer is not None:
            way.append(peer)
        if way:
            out.append((b"x-forwarded-for", b", ".join(way)))
        return out


def read_head(pairs: Iterable[tuple[bytes, bytes]]) -> CallHead:
    """The head of a call from its fields."""
    kept = list(pairs)
    fields = dict(kept)
    if len(fields) != len(kept):
        fields.clear()
        for name, value in kept:
            fields[name] = fields[name] + REPEATED + value if name in fields else value
    return CallHead(fields.get(b":path", b"").decode("latin-1"), fields, kept)


def fields_of(lines: bytes) -> Fields:
    """Whole lines of a head in HTTP/1.1 as fields of HTTP/2."""
    found: Fields = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.strip().lower(), value.strip()))
    return found


def trailers_only(status: int, message: str, more: Fields) -> Fields:
    """A whole answer without a message."""
    return [_STATUS, CONTENT_TYPE, *more, *trailers(status, message)]


def pushback(wait_seconds: float) -> Fields:
    """When the client may try again: read by gRPC's own retries (gRFC A6)."""
    return [(b"grpc-retry-pushback-ms", b"%d" % max(0, round(wait_seconds * 1000)))]


def trailers(status: int, message: str) -> Fields:
    """The end of an answer."""
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", encode_message(message))]


def plain_refusal(message: str) -> tuple[Fields, bytes]:
    """Head and body for what is not gRPC: 415, as grpc/doc/PROTOCOL-HTTP2.md asks."""
    body = message.encode()
    head = [
        (b":status", b"415"),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    return head, body
