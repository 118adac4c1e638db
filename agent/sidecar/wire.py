"""HTTP/1.1 heads: parsed request → head for the engine, raw response head → head for the client. Pure.

Hop-by-hop fields (RFC 9110 section 7.6.1) end here; every other field keeps its order, name and value.
"""

import json
import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import unquote

MAX_HEAD_BYTES = 64 * 1024
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"))
_DROPPED = HOP_BY_HOP | {b"transfer-encoding", b"x-forwarded-for"}
_NOT_NAMED = frozenset((b"close", b"keep-alive", b"upgrade", b"content-length", b"host"))
_RESPONSE_HOPS = (b"\r\nconnection:", b"\r\nkeep-alive:", b"\r\nproxy-connection:", b"\r\nupgrade:")
_FRAMING = _DROPPED | {
    b"content-length", b"host", b"content-encoding", b"content-type", b"content-range", b"authorization", b"expect",
}  # fmt: skip
_ABSOLUTE = re.compile(rb"https?://(?:[^/?#@]*@)?([^/?#@]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE)


class RequestHead:
    """One request's head. `fields`: lower-case name → value, repeats joined."""

    __slots__ = ("chunked", "fields", "has_body", "headers", "length", "method", "path", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            key = name.lower()
            fields[key] = fields[key] + b", " + value if key in fields else value
        self.fields = fields
        self.chunked = b"transfer-encoding" in fields
        self.length = int(fields.get(b"content-length", b"0"))
        self.has_body = self.chunked or self.length > 0
        path = target.partition(b"?")[0].decode("latin-1")
        self.path = unquote(path, "latin-1") if "%" in path else path  # servers read %63 as c

    def fault(self) -> str:
        """Why this request cannot be passed on without another server perhaps reading it differently; or nothing."""
        if self.chunked and self.fields[b"transfer-encoding"].strip().lower() != b"chunked":
            return "the transfer coding is not `chunked`, said once"
        if self.chunked and b"content-length" in self.fields:
            return "it has both a transfer coding and a content length"
        if sum(name.lower() == b"host" for name, _ in self.headers) > 1:
            return "it has more than one Host"
        if b"#" in self.target:
            return "its target has a fragment"
        if not self.target.startswith(b"/") and self.target != b"*":
            return "its target is neither a path nor an http address"
        return ""

    def size(self) -> int:
        """Bytes of its lines, about."""
        return len(self.target) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def joined(self, names: Collection[bytes], separator: bytes) -> dict[bytes, bytes]:
        """Fields of these lower-case names, repeats joined by a separator that no value can hold."""
        found: dict[bytes, bytes] = {}
        for name, value in self.headers:
            key = name.lower()
            if key in names:
                found[key] = found[key] + separator + value if key in found else value
        return found

    def for_engine(
        self,
        *,
        peer: str | None,
        scheme: bytes,
        upgrade: bool,
        host: bytes,
        rewrite_host: bool = False,
        dropped: Collection[bytes] = (),
        added: bytes = b"",
    ) -> "EngineHead":
        """What came, less the hop-by-hop fields and those to be `dropped`, with the client's address; `added` is whole
        lines. `host` is sent where the client says none, or always.
        """
        fields = self.fields
        kept = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        named = tokens(fields[b"connection"]) - _NOT_NAMED if b"connection" in fields else ()
        for name, value in self.headers:
            key = name.lower()
            if key in _DROPPED or key in named or key in dropped or (rewrite_host and key == b"host"):
                continue
            kept.append(b"%b: %b" % (name, value))
        if rewrite_host or b"host" not in fields:
            kept.append(b"host: " + host)
        if self.chunked:
            kept.append(b"transfer-encoding: " + fields[b"transfer-encoding"])
            if b"trailer" in fields:
                kept.append(b"trailer: " + fields[b"trailer"])
        if b"trailers" in tokens(fields.get(b"te", b"")):
            kept.append(b"te: trailers")
        if upgrade:
            kept.append(b"connection: upgrade\r\nupgrade: " + fields[b"upgrade"])
        earlier = fields.get(b"x-forwarded-for")
        came = [each for each in (earlier, peer.encode() if peer else None) if each]
        if came:
            kept.append(b"x-forwarded-for: " + b", ".join(came))
        if b"x-forwarded-proto" not in fields:
            kept.append(b"x-forwarded-proto: " + scheme)
        if b"x-forwarded-host" not in fields and b"host" in fields:
            kept.append(b"x-forwarded-host: " + fields[b"host"])
        whole = b"\r\n".join(kept) + b"\r\n" + added
        found = _LENGTH.search(whole)
        return EngineHead(whole[: found.start(1)], whole[found.end(1) :]) if found else EngineHead(whole, b"")


class EngineHead(NamedTuple):
    """All lines of a head for the engine but the ids, in two parts around the content length, if it has one."""

    before: bytes
    after: bytes


class Cut(NamedTuple):
    """A raw request: its head without the digits of the content length, where the body begins, and how long it is."""

    key: tuple[bytes, bytes]
    body_at: int
    length: int
    says: bytes  # the digits; empty when it says no length


def cut_request(data: bytes) -> Cut | None:
    """The beginning of a request, when its head is whole and says a length at all (or has no body)."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _LENGTH.search(data, 0, end + 2)
    if found is None:
        return Cut((data[:end], b""), end + 4, 0, b"")
    return Cut((data[: found.start(1)], data[found.end(1) : end]), end + 4, int(found[1]), found[1])


def trailer_lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Fields after a chunked body, without those that may not stand there (RFC 9110 section 6.5.1)."""
    return b"".join(b"%b: %b\r\n" % field for field in fields if field[0].lower() not in _FRAMING)


def tokens(value: bytes) -> set[bytes]:
    """A comma-separated field value as a set of lower-case tokens."""
    return {token.strip().lower() for token in value.split(b",")} - {b""}


def origin_form(target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """`/path?query` of a target that may be absolute (`http://host/path`).

    The host of such a target takes the place of the one in `headers` (RFC 9112 section 3.2.2).
    """
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    headers[:] = [(name, value) for name, value in headers if name.lower() != b"host"]
    headers.insert(0, (b"Host", found[1]))
    path = target[found.end() :]
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
    fault: str  # why clients could read it differently from us; or nothing

    @classmethod
    def read(cls, raw: bytes, status: int, *, to_head_request: bool) -> "ResponseHead":
        lower = raw.lower()
        chunked = b"\r\ntransfer-encoding:" in lower
        bodyless = to_head_request or status in (204, 304) or status < 200
        until_close = not bodyless and not chunked and b"\r\ncontent-length:" not in lower
        plain = raw.startswith(b"HTTP/1.1") and not any(hop in lower for hop in _RESPONSE_HOPS)
        kind, encoding = field_of(raw, lower, b"content-type"), field_of(raw, lower, b"content-encoding")
        fault = ""
        if chunked and (
            lower.count(b"\r\ntransfer-encoding:") > 1
            or field_of(raw, lower, b"transfer-encoding").lower() != "chunked"
        ):
            fault = "its transfer coding is not `chunked`, said once"
        elif chunked and b"\r\ncontent-length:" in lower:
            fault = "it has both a transfer coding and a content length"
        return cls(raw, lower, status, until_close, chunked, kind, encoding, plain, fault)

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
