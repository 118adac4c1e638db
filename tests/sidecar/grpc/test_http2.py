"""One connection of HTTP/2 beside the plain h2 library: same events from the same bytes, and where it differs."""

import random
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.grpc.http2 import CONNECTION_WINDOW_BYTES, LAST_STREAM_ID, MAX_HEADER_BYTES, Http2
from tests.support.http2 import ANSWER, CALL, OK

WINDOW = 100_000
HEAD = [(name.encode(), value.encode()) for name, value in CALL]


def library(*, client: bool) -> H2Connection:
    made = H2Connection(H2Configuration(client_side=client, header_encoding=None))
    made.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
    made.local_settings.acknowledge()
    made.initiate_connection()
    return made


def pair(streams: int = 100) -> tuple[H2Connection, Http2]:
    """The library as a client and ours as a server, after their greetings."""
    client, ours = library(client=True), Http2(client_side=False, streams=streams, window=WINDOW)
    for _ in range(2):
        ours.receive_data(client.data_to_send())
        client.receive_data(ours.data_to_send())
    return client, ours


def calling() -> tuple[Http2, H2Connection]:
    """Ours as a client and the library as a server, after their greetings."""
    ours, server = Http2(client_side=True, streams=0, window=WINDOW), library(client=False)
    for _ in range(2):
        server.receive_data(ours.data_to_send())
        ours.receive_data(server.data_to_send())
    return ours, server


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """What matters of calls' events; an end is told with what it came with, or by itself."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, DataReceived):
            piece = ("data", event.stream_id, bytes(event.data), event.flow_controlled_length)
            if found and found[-1][:2] == piece[:2]:  # what comes in how many pieces does not matter
                piece = (*piece[:2], found[-1][2] + piece[2], found[-1][3] + piece[3])
                found.pop()
            found.append(piece)
        elif isinstance(event, RequestReceived | ResponseReceived | TrailersReceived):
            found.append((type(event).__name__, event.stream_id, tuple(map(tuple, event.headers))))
        elif isinstance(event, StreamReset):
            found.append(("reset", event.stream_id, event.error_code))
        if getattr(event, "stream_ended", None) is not None:
            found.append(("end", event.stream_id))
    return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.lists(st.sampled_from(["x-a", "x-b-bin", "authorization"]), max_size=3)),
        st.tuples(st.just("data"), st.integers(0, 2000)),
        st.tuples(st.just("padded"), st.integers(0, 200)),
        st.tuples(st.just("end"), st.sampled_from(["data", "trailers", "empty"])),
        st.tuples(st.just("reset"), st.just(0)),
        st.tuples(st.just("ping"), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_the_same_bytes_tell_the_same_in_any_pieces(steps: list[tuple[str, Any]], chance: random.Random) -> None:
    client = library(client=True)
    open_now: list[int] = []
    for what, more in steps:
        if what == "open":
            stream_id = client.get_next_available_stream_id()
            client.send_headers(stream_id, [*CALL, *((name, "v") for name in more)])
            open_now.append(stream_id)
        elif what == "ping":
            client.ping(b"12345678")
        elif open_now:
            stream_id = chance.choice(open_now)
            if what == "data":
                client.send_data(stream_id, bytes(more))
            elif what == "padded":
                client.send_data(stream_id, b"x" * more, pad_length=more % 200)
            else:
                open_now.remove(stream_id)
                if what == "reset":
                    client.reset_stream(stream_id, ErrorCodes.CANCEL)
                elif more == "trailers":
                    client.send_headers(stream_id, [("x-last", "1")], end_stream=True)
                else:
                    client.send_data(stream_id, b"last" if more == "data" else b"", end_stream=True)
    wire = client.data_to_send()
    plain, ours = library(client=False), Http2(client_side=False, streams=100, window=WINDOW)
    expected = told(plain.receive_data(wire))
    found: list[Event] = []
    at = 0
    while at < len(wire):
        size = chance.choice((1, 3, 9, 50, 1000, 10_000))
        found += ours.receive_data(wire[at : at + size])
        at += size
    assert ours.failure is None
    assert told(found) == expected


@given(st.binary(max_size=300), st.integers(0, 100))
def test_what_is_no_frame_is_a_failure_and_no_crash(junk: bytes, cut: int) -> None:
    client, ours = pair()
    client.send_headers(1, CALL)
    client.send_data(1, b"abc")
    good = client.data_to_send()
    ours.receive_data(good[: max(1, len(good) - cut)])
    ours.receive_data(junk)
    if ours.failure is not None:
        assert b"\x07\x00\x00\x00\x00\x00" in ours.data_to_send()  # a GOAWAY


def test_answers_as_the_library_reads_them() -> None:
    client, ours = pair()
    for stream_id in (1, 3):
        client.send_headers(stream_id, CALL, end_stream=True)
    ours.receive_data(client.data_to_send())
    long = (b"x-long", b"v" * 50_000)  # longer than a frame
    for stream_id in (1, 3):
        ours.head(stream_id, [(b":status", b"200"), (b"x-a", b"1"), long])
        assert ours.send(stream_id, b"hello", end=False) == 5
        ours.head(stream_id, [(b"grpc-status", b"0"), (b"grpc-message", b"")], end=True)
        seen = told(client.receive_data(ours.data_to_send()))
        assert seen == [
            ("ResponseReceived", stream_id, ((b":status", b"200"), (b"x-a", b"1"), long)),
            ("data", stream_id, b"hello", 5),
            ("TrailersReceived", stream_id, ((b"grpc-status", b"0"), (b"grpc-message", b""))),
            ("end", stream_id),
        ]
        ours.forget(stream_id)
    assert ours.streams == {}


def test_calls_as_the_library_reads_them() -> None:
    ours, server = calling()
    stream_id = ours.get_next_available_stream_id()
    ours.head(stream_id, HEAD)
    ours.send(stream_id, b"question", end=True)
    assert told(server.receive_data(ours.data_to_send())) == [
        ("RequestReceived", 1, tuple(HEAD)),
        ("data", 1, b"question", 8),
        ("end", 1),
    ]
    server.send_headers(1, ANSWER)
    server.send_data(1, b"answer")
    server.send_headers(1, OK, end_stream=True)
    assert [each[0] for each in told(ours.receive_data(server.data_to_send()))] == [
        "ResponseReceived",
        "data",
        "TrailersReceived",
        "end",
    ]
    assert ours.alive(1) is None


def test_sending_keeps_to_both_windows() -> None:
    client, ours = pair()
    for stream_id in (1, 3):
        client.send_headers(stream_id, CALL, end_stream=True)
    ours.receive_data(client.data_to_send())
    for stream_id in (1, 3):
        ours.head(stream_id, [(b":status", b"200")])
    assert ours.send(1, bytes(60_000), end=True) == 60_000
    assert ours.send(3, bytes(60_000), end=True) == 5_535  # the connection's 65,535 are used up
    assert ours.send(3, b"x", end=True) == 0
    assert ours.send(3, b"", end=False) == 0
    events = client.receive_data(ours.data_to_send())
    assert ("end", 1) in told(events)
    assert ("end", 3) not in told(events)
    client.increment_flow_control_window(70_000)
    events = ours.receive_data(client.data_to_send())
    assert [type(event) for event in events] == [WindowUpdated]
    assert ours.send(3, bytes(54_465), end=True) == 54_465
    assert ("end", 3) in told(client.receive_data(ours.data_to_send()))
    assert ours.send(3, b"to a stream that is gone", end=True) == 24


def test_the_connection_opens_as_bytes_come_a_stream_as_they_are_taken() -> None:
    client, ours = pair()
    assert client.outbound_flow_control_window == CONNECTION_WINDOW_BYTES
    client.send_headers(1, CALL)
    for _ in range(6):
        client.send_data(1, bytes(16_000))
        (event, *_) = [e for e in ours.receive_data(client.data_to_send()) if isinstance(e, DataReceived)]
        ours.arrived(event.flow_controlled_length)
        client.receive_data(ours.data_to_send())
    assert client.local_flow_control_window(1) == WINDOW - 96_000
    ours.taken(1, 96_000)
    client.receive_data(ours.data_to_send())
    assert client.local_flow_control_window(1) == WINDOW
    ours.taken(7, 1000)  # there is no such stream: nothing happens
    assert ours.waiting == 0


def test_a_client_that_sends_more_than_it_may_is_cut() -> None:
    client, ours = pair()
    client.send_headers(1, CALL)
    ours.receive_data(client.data_to_send())
    for _ in range(8):
        ours.receive_data(b"\0\x40\0\0\0\0\0\0\1" + bytes(16384))
    assert ours.failure is not None
    terminated = [e for e in client.receive_data(ours.data_to_send()) if isinstance(e, ConnectionTerminated)]
    assert terminated[0].error_code == ErrorCodes.FLOW_CONTROL_ERROR


def test_a_stream_too_many_is_refused_and_its_fields_are_still_learnt() -> None:
    client, ours = pair(streams=2)
    client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
    client.remote_settings.acknowledge()
    for stream_id in (1, 3, 5):
        client.send_headers(stream_id, [*CALL, ("x-new", f"in {stream_id}")])
    events = ours.receive_data(client.data_to_send())
    assert [type(event) for event in events] == [RequestReceived, RequestReceived, StreamReset]
    refused = client.receive_data(ours.data_to_send())
    assert [(e.stream_id, e.error_code) for e in refused if isinstance(e, StreamReset)] == [(5, 7)]
    ours.reset(1, ErrorCodes.CANCEL)
    client.receive_data(ours.data_to_send())
    client.send_headers(7, [*CALL, ("x-new", "in 5")])  # which is in the table since
    (event,) = ours.receive_data(client.data_to_send())
    assert (b"x-new", b"in 5") in event.headers
    client.send_data(7, b"late")
    assert told(ours.receive_data(client.data_to_send())) == [("data", 7, b"late", 4)]


def test_after_a_goaway_the_calls_under_way_go_on() -> None:
    ours, server = calling()
    for _ in range(2):
        ours.head(ours.get_next_available_stream_id(), HEAD)
    server.receive_data(ours.data_to_send())
    server.send_headers(1, ANSWER)
    server.close_connection(last_stream_id=1)
    events = ours.receive_data(server.data_to_send())
    (goaway,) = (event for event in events if isinstance(event, ConnectionTerminated))
    assert goaway.last_stream_id == 1
    wire = b"\0\0\3\0\1\0\0\0\1end"  # the library itself would not send it any more
    assert told(ours.receive_data(wire)) == [("data", 1, b"end", 3), ("end", 1)]
    assert ours.send(1, b"more", end=True) == 4


def test_goaways_of_ours() -> None:
    client, ours = pair()
    ours.goaway(LAST_STREAM_ID)
    ours.goaway(code=ErrorCodes.ENHANCE_YOUR_CALM, reason=b"calm")
    first, second = (e for e in client.receive_data(ours.data_to_send()) if isinstance(e, ConnectionTerminated))
    assert (first.last_stream_id, first.error_code) == (LAST_STREAM_ID, 0)
    assert (second.last_stream_id, second.error_code, second.additional_data) == (0, 11, b"calm")


def test_streams_are_forgotten_only_when_they_have_ended() -> None:
    client, ours = pair()
    client.send_headers(1, CALL)
    ours.receive_data(client.data_to_send())
    ours.forget(1)
    assert ours.alive(1) is not None
    ours.reset(1, ErrorCodes.NO_ERROR)
    assert (ours.alive(1), ours.streams) == (None, {})
    ours.reset(1, ErrorCodes.NO_ERROR)  # nothing is left to be reset
    client.send_data(1, b"that was on its way", end_stream=True)
    late = ours.receive_data(client.data_to_send())
    assert told(late) == []
    assert ours.failure is None


def test_fields_of_any_number_are_refused_by_their_size() -> None:
    client, ours = pair()
    client.send_headers(1, [*CALL, *((f"x-{number}", "v" * 1000) for number in range(MAX_HEADER_BYTES // 1000))])
    ours.receive_data(client.data_to_send())
    assert ours.failure is not None


@pytest.mark.parametrize("field", [("X-Upper", "v"), ("connection", "close"), (":path", "/other"), ("te", "gzip")])
def test_fields_are_checked_also_of_heads_that_came_before(field: tuple[str, str]) -> None:
    client, ours = pair()
    client.config.validate_outbound_headers = client.config.normalize_outbound_headers = False
    client.send_headers(1, [*CALL, field])
    ours.receive_data(client.data_to_send())
    assert ours.failure is not None


def test_a_content_length_must_be_true() -> None:
    for length, good in (("5", True), ("4", False), ("6", False)):
        client, ours = pair()
        client.send_headers(1, [*CALL, ("content-length", length)])
        client.send_data(1, b"hello", end_stream=True)
        events = ours.receive_data(client.data_to_send())
        assert (ours.failure is None) == good, length
        assert (StreamEnded in {type(getattr(event, "stream_ended", None)) for event in events}) == good


def test_small_pieces_that_come_at_once_go_on_as_one() -> None:
    client, ours = pair()
    client.send_headers(1, CALL)
    for _ in range(300):
        client.send_data(1, b"x" * 100)
    client.send_data(1, b"", end_stream=True)
    _, *pieces = ours.receive_data(client.data_to_send())
    assert [len(piece.data) for piece in pieces if isinstance(piece, DataReceived)] == [16_300, 13_700, 0]
    assert [getattr(piece, "stream_ended", None) is not None for piece in pieces] == [False, False, True]
