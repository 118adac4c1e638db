"""HTTP/1.1 heads: parsed request → head for the engine, raw response head → head for the client. Pure.

Hop-by-hop fields (RFC 9110 section 7.6.1) end here; every other field keeps its order, name and value.
"""

import json
import re
from typing import NamedTuple

MAX_HEAD_BYTES = 64 * 1024
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"))
_READ = HOP_BY_HOP | {
    b"transfer-encoding", b"content-length", b"host", b"x-request-id", b"traceparent", b"x-forwarded-for",
    b"x-forwarded-proto", b"x-forwarded-host", b"content-encoding",
}  # fmt: skip
_DROPPED = HOP_BY_HOP | {b"transfer-encoding", b"x-forwarded-for"}
_RESPONSE_HOPS = (b"\r\nconnection:", b"\r\nkeep-alive:", b"\r\nproxy-connection:", b"\r\nupgrade:")


class RequestHead:
    """One request's head. `fields`: lower-case name → value, repeats joined, of the fields that are read here."""

    __slots__ = ("_prefix", "chunked", "fields", "has_body", "lines", "method", "path", "target", "tenant")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], tenant_header: bytes) -> None:
        self.method = method
        self.target = target
        fields: dict[bytes, bytes] = {}
        lines = []
        self.tenant: bytes | None = None
        for name, value in headers:
            key = name.lower()
            if key in _READ:
                fields[key] = fields[key] + b", " + value if key in fields else value
                if key in _DROPPED:
                    continue
            elif key == tenant_header:
                self.tenant = value
            lines.append(b"%b: %b" % (name, value))
        if b"connection" in fields:
            named = tokens(fields[b"connection"]) - {b"close", b"keep-alive", b"upgrade", b"content-length", b"host"}
            if named:
                lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
        self.fields = fields
        self.lines = lines
        self.chunked = b"transfer-encoding" in fields
        self.has_body = self.chunked or fields.get(b"content-length", b"0") != b"0"
        self.path = target.partition(b"?")[0].decode("latin-1")
        self._prefix: bytes | None = None

    def for_engine(self, *, peer: str, request_id: str, traceparent: str, upgrade: bool, host: bytes) -> bytes:
        """The head to send: what came, less the hop-by-hop fields, with ids and the client's address."""
        if self._prefix is None:
            self._prefix = self._for_engine(peer, upgrade=upgrade, host=host)
        ids = b""
        if b"x-request-id" not in self.fields:
            ids = b"x-request-id: %b\r\n" % request_id.encode()
        if b"traceparent" not in self.fields:
            ids += b"traceparent: %b\r\n" % traceparent.encode()
        return b"%b%b\r\n" % (self._prefix, ids)

    def _for_engine(self, peer: str, *, upgrade: bool, host: bytes) -> bytes:
        """All lines but those that differ from one request of a client to its next."""
        fields = self.fields
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), *self.lines]
        if b"host" not in fields:
            lines.append(b"host: " + host)
        if self.chunked:
            lines.append(b"transfer-encoding: " + fields[b"transfer-encoding"])
        if upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: " + fields[b"upgrade"])
        earlier = fields.get(b"x-forwarded-for")
        lines.append(b"x-forwarded-for: " + (earlier + b", " if earlier else b"") + peer.encode())
        if b"x-forwarded-proto" not in fields:
            lines.append(b"x-forwarded-proto: http")
        if b"x-forwarded-host" not in fields and b"host" in fields:
            lines.append(b"x-forwarded-host: " + fields[b"host"])
        lines.append(b"")
        return b"\r\n".join(lines)


def tokens(value: bytes) -> set[bytes]:
    """A comma-separated field value as a set of lower-case tokens."""
    return {token.strip().lower() for token in value.split(b",")} - {b""}


def origin_form(target: bytes) -> bytes:
    """`/path?query` of a request target that may be absolute (`http://host/path`)."""
    if target.startswith(b"/") or target == b"*" or b"://" not in target:
        return target
    rest = target.partition(b"://")[2]
    path = rest[len(re.split(rb"[/?]", rest, maxsplit=1)[0]) :]
    return path if path.startswith(b"/") else b"/" + path


def field_of(raw: bytes, lower: bytes, name: bytes) -> str:
    """Value of a field (lower-case name) of a raw head and its lower-case copy, or an empty string."""
    at = lower.find(b"\r\n" + name + b":")
    if at < 0:
        return ""
    start = at + len(name) + 3
    return raw[start : raw.index(b"\r\n", start)].strip().decode("latin-1")


class ResponseHead(NamedTuple):
    """A response's head as it came, its lower-case copy, how its body ends, and what the meter asks for."""

    raw: bytes
    lower: bytes
    status: int
    until_close: bool
    chunked: bool
    content_type: str
    content_encoding: str
    plain: bool  # it can be passed on as it came

    @classmethod
    def read(cls, raw: bytes, status: int, *, to_head_request: bool) -> "ResponseHead":
        lower = raw.lower()
        chunked = b"\r\ntransfer-encoding:" in lower
        bodyless = to_head_request or status in (204, 304) or status < 200
        until_close = not bodyless and not chunked and b"\r\ncontent-length:" not in lower
        plain = raw.startswith(b"HTTP/1.1") and not any(hop in lower for hop in _RESPONSE_HOPS)
        kind, encoding = field_of(raw, lower, b"content-type"), field_of(raw, lower, b"content-encoding")
        return cls(raw, lower, status, until_close, chunked, kind, encoding, plain)

    def for_client(self, added: bytes, *, dechunk: bool = False, tunnel: bool = False) -> bytes:
        """The head to send; `added` is whole lines. With `dechunk` the body goes out without chunk framing."""
        raw = self.raw
        if self.plain and not dechunk:
            return b"%b%b\r\n" % (raw[:-2], added)
        if not tunnel:
            named = tokens(field_of(raw, self.lower, b"connection").encode("latin-1")) - {b"close", b"upgrade"}
            drop = (HOP_BY_HOP - {b"te", b"trailer"}) | named - {b"content-length", b"transfer-encoding"}
            if dechunk:
                drop |= {b"transfer-encoding", b"trailer"}
            first, *lines = raw[:-4].split(b"\r\n")
            raw = b"\r\n".join((first, *(x for x in lines if x.partition(b":")[0].lower() not in drop), b"", b""))
        if not raw.startswith(b"HTTP/1.1"):
            raw = b"HTTP/1.1" + raw[8:]
        return b"%b%b\r\n" % (raw[:-2], added)


def problem(status: int, title: str, detail: str, *, head_only: bool, added: bytes = b"") -> bytes:
    """A whole response of our own: ``application/problem+json`` (RFC 9457)."""
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    lines = (
        b"HTTP/1.1 %d %b" % (status, title.encode()),
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
    )
    return b"\r\n".join(lines) + b"\r\n" + added + b"\r\n" + (b"" if head_only else body)
