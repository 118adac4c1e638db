"""Record events from the request path, numbered and encoded, into the spool. Never waits.

An item of the stream is msgpack ``[epoch, sidecar, event]``: what an earlier start of this sidecar has left keeps its
epoch, and the name under which the agent knows its requests.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from agent.core.requests import RequestEnded, RequestEvent, RequestStarted

log = structlog.get_logger()

_encoder = msgspec.msgpack.Encoder()


class SpooledEvent(msgspec.Struct, frozen=True, array_like=True):
    """One item: the event stays as it was encoded."""

    epoch: int
    sidecar: str
    event: msgspec.Raw


_decoder = msgspec.msgpack.Decoder(SpooledEvent)


def read_item(item: bytes) -> SpooledEvent:
    """An item of the stream. Raises `ValueError` when it is none."""
    return _decoder.decode(item)


class EventStream(Protocol):
    """What is needed of a stream."""

    @property
    def blocked(self) -> str: ...
    def put(self, items: Sequence[bytes]) -> bool: ...
    @property
    def put_through(self) -> int: ...


class RecordQueue:
    """Events of one start of the sidecar, in the order of their numbers.

    What finds no room is dropped and counted by kind. While the disk takes nothing, the room in memory is kept for
    ends, which tell everything that starts and progresses tell.
    """

    def __init__(self, stream: EventStream, epoch: int, sidecar: str) -> None:
        self.epoch = epoch
        self.sequence = 0
        self.dropped: dict[str, int] = {"start": 0, "progress": 0, "end": 0}
        self._stream = stream
        self._open: set[str] = set()
        self._dropping = False
        self._prefix = b"\x93" + _encoder.encode(epoch) + _encoder.encode(sidecar)  # the beginning of a list of three

    @property
    def open(self) -> int:
        """Requests that were told to have started and not yet to have ended."""
        return len(self._open)

    def put(self, make: Callable[[int], RequestEvent]) -> int:
        """Number the event that `make` builds and hand it on: the number of its item, or 0 where it found no room.

        Never blocks, never raises for want of room.
        """
        self.sequence += 1
        event = make(self.sequence)
        is_end = isinstance(event, RequestEnded)
        if isinstance(event, RequestStarted):
            self._open.add(event.id)
        elif isinstance(event, RequestEnded):
            self._open.discard(event.record.id)
        item = self._prefix + _encoder.encode(event)
        if (is_end or not self._stream.blocked) and self._stream.put((item,)):
            if self._dropping and is_end:
                self._dropping = False
                log.info("record_events_fit_again", dropped=sum(self.dropped.values()))
            return self._stream.put_through
        self.dropped[str(event.__struct_config__.tag)] += 1
        if is_end and not self._dropping:
            self._dropping = True
            log.error("record_events_dropped", reason=self._stream.blocked or "more than the disk can take")
        return 0
