"""A request's head → everything about its way that is the same for each request with this head. Pure."""

from collections.abc import Callable

from agent.sidecar.asks import Caller, Refusal
from agent.sidecar.ids import RequestId, trace_id_of
from agent.sidecar.meter.attempts import MULTIPART, attempt_of
from agent.sidecar.wire import EngineHead, RequestHead

PRIORITY_HEADER = b"x-engineroom-priority"
UNRECORDED_PATHS = frozenset(("/health", "/metrics", "/v1/models", "/ping", "/version", "/load", "/props", "/slots"))
UNRECORDED_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"))


def is_recorded(method: bytes, path: str) -> bool:
    """Whether a request is work for the engine; probes, scrapes and listings are forwarded only."""
    return method not in UNRECORDED_METHODS and path not in UNRECORDED_PATHS


class Plan:
    """Found once for a head, used for each request that says it again.

    `caller_version` is that of its credentials. `make_head`: the Host, and whether it replaces the client's → the head.
    """

    __slots__ = (
        "_heads",
        "_make_head",
        "attempt",
        "caller",
        "caller_version",
        "chunked",
        "expects",
        "has_text",
        "has_trace",
        "head",
        "http10",
        "keep_alive",
        "path",
        "peer",
        "priority",
        "readable",
        "recorded",
        "refusal",
        "sends_request_id",
        "trace_id",
        "upgrade",
    )

    def __init__(
        self,
        head: RequestHead,
        make_head: Callable[[bytes, bool], EngineHead],
        caller: Caller | Refusal,
        caller_version: int,
        *,
        peer: str,
        keep_alive: bool,
        upgrade: bool,
        http10: bool,
    ) -> None:
        self.head = head
        self._make_head = make_head
        self._heads: dict[bytes, EngineHead] = {}
        self.caller = caller if isinstance(caller, Caller) else Caller()
        self.refusal = caller if isinstance(caller, Refusal) else None
        self.caller_version = caller_version
        self.peer = peer
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.http10 = http10
        self.path = head.path
        self.chunked = head.chunked
        self.recorded = not upgrade and is_recorded(head.method, head.path)
        self.readable = head.fields.get(b"content-encoding", b"identity") == b"identity"
        self.has_text = not head.fields.get(b"content-type", b"").startswith(MULTIPART)
        self.attempt = attempt_of(head.fields)
        self.expects = b"expect" in head.fields
        priority = head.fields.get(PRIORITY_HEADER)
        self.priority = None if priority is None else priority.decode("latin-1")
        self.sends_request_id = b"x-request-id" in head.fields
        given = head.fields.get(b"traceparent")
        self.has_trace = given is not None
        self.trace_id = trace_id_of(given.decode("latin-1")) if given is not None else None

    @property
    def repeats(self) -> bool:
        """Whether the next request with this head may be taken by it alone, without parsing."""
        if self.refusal is not None:
            return False  # each is counted, and none is said for long
        if self.has_trace or self.sends_request_id:
            return False  # no two requests have the same ids
        return not (self.chunked or self.upgrade or self.http10 or self.expects)

    def holds(self, caller_version: int, now_ns: int) -> bool:
        """Whether what is known of the caller still holds."""
        until_ns = self.caller.valid_until_ns
        return caller_version == self.caller_version and (until_ns is None or now_ns < until_ns)

    def head_for_engine(self, request_id: RequestId, length: int, host: bytes | None, authority: bytes) -> bytes:
        """The whole head of one request. `length` is that of its body, where it says one.

        The engine gets `host` as its Host; if that is None the client's, and `authority` where the client said none.
        """
        made = self._heads.get(authority)
        if made is None:
            made = self._heads[authority] = self._make_head(host or authority, host is not None)
        before, after = made
        ids = b""
        if not self.sends_request_id:
            ids = b"x-request-id: %b\r\n" % request_id.text.encode()
        if not self.has_trace:
            trace = request_id.hex
            ids += f"traceparent: 00-{trace}-{trace[16:]}-01\r\n".encode()
        if after:
            return b"%b%d%b%b\r\n" % (before, length, after, ids)
        return b"%b%b\r\n" % (before, ids)
