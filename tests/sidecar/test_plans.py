"""What a head decides, and what differs from one request to the next."""

import pytest

from agent.sidecar.asks import Caller
from agent.sidecar.ids import uuid7
from agent.sidecar.plans import Plan, is_recorded
from agent.sidecar.wire import EngineHead, RequestHead, cut_request

CHAT = "/v1/chat/completions"
ID = uuid7(1_800_000_000 * 10**9, 7)
Field = tuple[bytes, bytes]


def plan(*fields: Field, until_ns: int | None = None, upgrade: bool = False, http10: bool = False) -> Plan:
    head = RequestHead(b"POST", CHAT.encode(), list(fields))

    def make_head(host: bytes, rewrite_host: bool) -> EngineHead:
        return head.for_engine(peer="10.0.0.1", scheme=b"http", upgrade=upgrade, host=host, rewrite_host=rewrite_host)

    caller = Caller("team", "key", until_ns)
    return Plan(head, make_head, caller, 3, peer="10.0.0.1", keep_alive=True, upgrade=upgrade, http10=http10)


def test_the_length_of_each_request_is_its_own() -> None:
    made = plan((b"Host", b"h"), (b"Content-Length", b"5"), (b"X-A", b"1"))
    for length in (0, 5, 123456):
        lines = made.head_for_engine(ID, length, None, b"engine:8000").split(b"\r\n")
        assert lines[:3] == [b"POST /v1/chat/completions HTTP/1.1", b"Host: h", b"Content-Length: %d" % length]
        assert b"X-A: 1" in lines
        assert lines[-2:] == [b"", b""]


def test_ids_are_added_where_none_came() -> None:
    own = plan().head_for_engine(ID, 0, None, b"engine:8000")
    assert b"\r\nx-request-id: %b\r\n" % ID.text.encode() in own
    assert f"\r\ntraceparent: 00-{ID.hex}-{ID.span_id}-01\r\n".encode() in own
    theirs = (b"X-Request-ID", b"7"), (b"traceparent", b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01")
    given = plan(*theirs)
    assert given.trace_id == "ab" * 16
    sent = given.head_for_engine(ID, 0, None, b"engine:8000")
    assert ID.text.encode() not in sent
    assert ID.hex.encode() not in sent


def test_a_traceparent_that_is_none_is_passed_on_and_not_used() -> None:
    made = plan((b"traceparent", b"no"))
    assert made.trace_id is None
    assert b"\r\ntraceparent: no\r\n" in made.head_for_engine(ID, 0, None, b"engine:8000")
    assert made.head_for_engine(ID, 0, None, b"engine:8000").count(b"traceparent") == 1


@pytest.mark.parametrize(
    ("fields", "more", "repeats"),
    [
        ([(b"Content-Length", b"3")], {}, True),
        ([], {}, True),
        ([(b"Transfer-Encoding", b"chunked")], {}, False),
        ([(b"Expect", b"100-continue")], {}, False),
        ([(b"X-Request-Id", b"7")], {}, False),
        ([(b"traceparent", b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01")], {}, False),
        ([(b"Upgrade", b"websocket")], {"upgrade": True}, False),
        ([], {"http10": True}, False),
    ],
)
def test_which_heads_may_be_taken_without_parsing(fields: list[Field], more: dict[str, bool], repeats: bool) -> None:
    assert plan(*fields, **more).repeats is repeats  # type: ignore[arg-type] # from a table


def test_what_is_known_of_a_caller_ends() -> None:
    assert plan().holds(3, 10**30)
    assert not plan().holds(4, 0)
    assert plan(until_ns=50).holds(3, 49)
    assert not plan(until_ns=50).holds(3, 50)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"POST / HTTP/1.1\r\nHost: a", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ((b"GET / HTTP/1.1\r\nHost: a", b""), 27, 0, b"")),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 12\r\nA: b\r\n\r\nbody",
            ((b"POST / HTTP/1.1\r\ncontent-length: ", b"\r\nA: b"), 45, 12, b"12"),
        ),
        # A length in a body, or in a value, is none.
        (b"POST / HTTP/1.1\r\nA: b\r\n\r\n\r\nContent-Length: 5\r\n", ((b"POST / HTTP/1.1\r\nA: b", b""), 25, 0, b"")),
    ],
)
def test_a_request_is_cut_at_its_length(data: bytes, expected: object) -> None:
    assert cut_request(data) == expected


@pytest.mark.parametrize(
    ("method", "path", "recorded"),
    [
        (b"POST", CHAT, True),
        (b"POST", "/v1/embeddings", True),
        (b"PUT", "/anything", True),
        (b"GET", CHAT, False),
        (b"HEAD", "/", False),
        (b"OPTIONS", CHAT, False),
        (b"POST", "/health", False),
        (b"POST", "/metrics", False),
        (b"POST", "/v1/models", False),
    ],
)
def test_what_is_recorded(method: bytes, path: str, recorded: bool) -> None:
    assert is_recorded(method, path) is recorded
