"""Events numbered, encoded and handed to a stream: what is kept and what is counted when there is no room."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from agent.core.requests import RequestEnded, RequestEvent, RequestProgressed, RequestRecord, RequestStarted
from agent.sidecar.records.queue import RecordQueue, read_item

EPOCH = 1_795_000_000_123_456_789


@dataclass
class Room:
    """A stream with room for some items, whose disk may be full."""

    room: int
    blocked: str = ""
    items: list[bytes] = field(default_factory=list)

    def put(self, items: Sequence[bytes]) -> bool:
        if len(self.items) + len(items) > self.room:
            return False
        self.items.extend(items)
        return True

    @property
    def put_through(self) -> int:
        return len(self.items)


def started(sequence: int) -> RequestEvent:
    return RequestStarted(sequence=sequence, id="i", upstream="u", path="/", started_at_ns=1)


def progressed(sequence: int) -> RequestEvent:
    return RequestProgressed(sequence=sequence, id="i", at_ns=1, output_tokens=1)


def ended(sequence: int) -> RequestEvent:
    record = RequestRecord(id="i", upstream="u", path="/", started_at_ns=1, ended_at_ns=2, outcome="ok")
    return RequestEnded(sequence=sequence, record=record)


def kept(stream: Room) -> list[RequestEvent]:
    spooled = [read_item(item) for item in stream.items]
    assert {(item.epoch, item.sidecar) for item in spooled} <= {(EPOCH, "me")}
    return [msgspec.msgpack.decode(item.event, type=RequestEvent) for item in spooled]


def test_events_come_back_as_they_were_with_their_epoch() -> None:
    stream = Room(10)
    queue = RecordQueue(stream, EPOCH, "me")
    for make in (started, progressed, ended):
        queue.put(make)
    assert kept(stream) == [started(1), progressed(2), ended(3)]
    assert queue.dropped == {"start": 0, "progress": 0, "end": 0}


def test_open_requests_are_those_that_started_and_did_not_end() -> None:
    queue = RecordQueue(Room(10), EPOCH, "me")
    queue.put(started)
    assert queue.open == 1
    queue.put(ended)
    assert queue.open == 0


def test_what_finds_no_room_is_counted_and_numbers_go_on() -> None:
    stream = Room(2)
    queue = RecordQueue(stream, EPOCH, "me")
    for make in (started, progressed, progressed, ended):
        queue.put(make)
    stream.room = 3
    queue.put(ended)
    assert [event.sequence for event in kept(stream)] == [1, 2, 5]
    assert queue.dropped == {"start": 0, "progress": 1, "end": 1}


def test_while_the_disk_takes_nothing_the_room_in_memory_is_for_ends() -> None:
    stream = Room(10, blocked="the disk is full")
    queue = RecordQueue(stream, EPOCH, "me")
    for make in (started, progressed, ended):
        queue.put(make)
    assert kept(stream) == [ended(3)]
    assert queue.dropped == {"start": 1, "progress": 1, "end": 0}


@pytest.mark.parametrize("item", [b"", b"\x93", b"\x01", b"\x93\xa1x\xa1x\x01", b"\x92\x01\x02"])
def test_bytes_that_are_no_event_are_refused_with_a_value_error(item: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_item(item)
