"""Metadata of calls → what the engine gets, and our own answers' fields."""

import pytest

from agent.sidecar.grpc.heads import (
    CallHead,
    fields_of,
    plain_refusal,
    pushback,
    read_head,
    trailers,
    trailers_only,
)

PAIRS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"engine:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]


def sent(head: CallHead, **changes: object) -> list[tuple[bytes, bytes]]:
    given = {"secure": False, "peer": b"10.0.0.7", "host": b"e", "request_id": b"rid", "traceparent": b"tp", **changes}
    return head.for_engine(**given)  # type: ignore[arg-type]


def test_what_comes_goes_on_in_its_order_with_ids_and_the_clients_address() -> None:
    more = [(b"x-a", b"1"), (b"x-bin", b"AAE"), (b"x-a", b"2")]
    assert sent(read_head([*PAIRS, *more])) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b":authority", b"engine:8001"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
        (b"traceparent", b"tp"),
        (b"x-request-id", b"rid"),
        (b"x-forwarded-for", b"10.0.0.7"),
    ]


def test_the_clients_own_ids_stay() -> None:
    own = [(b"traceparent", b"theirs"), (b"x-request-id", b"7")]
    found = sent(read_head([*PAIRS, *own]))
    assert [pair for pair in found if pair[0] in (b"traceparent", b"x-request-id")] == own


@pytest.mark.parametrize(
    ("earlier", "peer", "told"),
    [
        ([], b"::1", b"::1"),
        ([b"9.9.9.9"], b"::1", b"9.9.9.9, ::1"),
        ([b"9.9.9.9", b"8.8.8.8"], b"::1", b"9.9.9.9, 8.8.8.8, ::1"),
        ([b"9.9.9.9"], None, b"9.9.9.9"),
        ([], None, None),
    ],
)
def test_the_way_that_a_call_came(earlier: list[bytes], peer: bytes | None, told: bytes | None) -> None:
    found = sent(read_head([*PAIRS, *((b"x-forwarded-for", each) for each in earlier)]), peer=peer)
    assert [value for name, value in found if name == b"x-forwarded-for"] == ([] if told is None else [told])


def test_credentials_are_left_out_and_others_put_in() -> None:
    head = read_head([*PAIRS, (b"authorization", b"Bearer theirs")])
    found = sent(head, drop=frozenset((b"authorization",)), add=(b"Authorization: Bearer own", b"x-b:2"))
    assert [value for name, value in found if name == b"authorization"] == [b"Bearer own"]
    assert (b"x-b", b"2") in found


def test_scheme_and_authority_are_ours_to_say() -> None:
    without = [pair for pair in PAIRS if pair[0] != b":authority"]
    found = dict(sent(read_head(without), secure=True, host=b"engine:443"))
    assert (found[b":scheme"], found[b":authority"]) == (b"https", b"engine:443")
    assert dict(sent(read_head([*without, (b"host", b"h")])))[b":authority"] == b"h"


@pytest.mark.parametrize(
    ("field", "grpc"),
    [
        ((b"content-type", b"application/grpc"), True),
        ((b"content-type", b"application/grpc+proto"), True),
        ((b"content-type", b"application/json"), False),
        ((b":method", b"GET"), False),
    ],
)
def test_what_is_a_call(field: tuple[bytes, bytes], grpc: bool) -> None:
    head = read_head([*(pair for pair in PAIRS if pair[0] != field[0]), field])
    assert (head.refusal is None) == grpc
    assert grpc or "HTTP/1.1" in str(head.refusal)


def test_whether_messages_may_be_compressed() -> None:
    assert not read_head(PAIRS).compressed
    assert not read_head([*PAIRS, (b"grpc-encoding", b"identity")]).compressed
    assert read_head([*PAIRS, (b"grpc-encoding", b"gzip")]).compressed


def test_lines_of_a_head_become_fields() -> None:
    assert fields_of(b"X-A: 1\r\nx-b:two: 2 \r\n") == [(b"x-a", b"1"), (b"x-b", b"two: 2")]
    assert fields_of(b"") == []


def test_answers_of_ours() -> None:
    told = trailers(8, "voll · 100 %")
    assert told == [(b"grpc-status", b"8"), (b"grpc-message", b"voll %C2%B7 100 %25")]
    only = trailers_only(8, "voll · 100 %", pushback(1.25))
    assert only[:3] == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-retry-pushback-ms", b"1250"),
    ]
    assert only[3:] == told
    assert pushback(-1.0) == [(b"grpc-retry-pushback-ms", b"0")]
    head, body = plain_refusal("no gRPC")
    assert dict(head)[b":status"] == b"415"
    assert dict(head)[b"content-length"] == b"%d" % len(body)
