"""What a killed sidecar left in flight, less what its spool still tells → end events of outcome `lost_record`."""

from collections.abc import Callable, Iterable, Iterator

import msgspec
import structlog

from agent.core.metrics.published import gauge
from agent.core.metrics.samples import Sample
from agent.core.requests import RequestEnded, RequestEvent, RequestRecord
from agent.sidecar.records.inflight import InFlight, LostRequest
from agent.sidecar.records.queue import read_item
from agent.spool.stream import Stream

log = structlog.get_logger()

EventMaker = Callable[[int], RequestEvent]

LOST_ERROR = "the sidecar was killed while this request ran"
LOOK_BYTES = 1 << 20


async def tell_lost(inflight: InFlight, stream: Stream, put: Callable[[EventMaker], int], upstream: str) -> int:
    """Put an end event for each request that a predecessor left without one; how many that were.

    To be called before anything of `stream` is delivered: its ends are looked for where they must still be, after
    `released_through`. `put` gives the number of the item, or 0 when it was dropped. It speaks for the sidecar
    `inflight.left_by`: the agent does not take the end of a request from another one.
    """
    if not inflight.left:
        return 0
    told = await _ended_after(stream, inflight.released_through)
    lost = [request for request in inflight.left if request.id not in told]
    for request in inflight.left:
        if request.id in told:
            inflight.ended(request.slot, 0)
    for request, make in zip(lost, lost_events(lost, upstream), strict=True):
        inflight.ended(request.slot, put(make))
    inflight.left = []
    if lost:
        log.warning("requests_lost", requests=len(lost), reason=LOST_ERROR)
    return len(lost)


async def _ended_after(stream: Stream, number: int) -> set[str]:
    """Requests whose end is among the items after `number`."""
    found: set[str] = set()
    at, following = number, number + 1
    try:
        while at < following:
            at = following
            batch, following = await stream.look(at, LOOK_BYTES)
            for item in batch.items:
                if (request_id := _id_of_end(item)) is not None:
                    found.add(request_id)
    except OSError as error:  # then a request may be told twice; the agent takes the first
        log.error("inflight_spool_unreadable", stream=stream.name, reason=error.strerror)
    return found


class _Record(msgspec.Struct):
    id: str


class _Event(msgspec.Struct):
    type: str
    record: _Record | None = None  # an end has one


_event_decoder = msgspec.msgpack.Decoder(_Event)


def _id_of_end(item: bytes) -> str | None:
    try:
        event = _event_decoder.decode(read_item(item).event)
    except (ValueError, RecursionError):
        return None
    return event.record.id if event.record is not None else None


def inflight_samples(inflight: InFlight) -> Iterator[Sample]:
    """The file's numbers, for /metrics."""
    yield from gauge("engineroom_sidecar_inflight_slots", inflight.slots, ())
    yield from gauge("engineroom_sidecar_inflight_taken_slots", inflight.taken, ())
    yield from gauge("engineroom_sidecar_inflight_untracked_total", inflight.untracked, ())
    yield from gauge("engineroom_sidecar_inflight_unreadable_total", inflight.unreadable, ())


def lost_events(left: Iterable[LostRequest], upstream: str) -> list[EventMaker]:
    """What makes the end event of each, given its number. `upstream` is that of requests which had none yet."""
    return [_maker(request, upstream) for request in left]


def _maker(lost: LostRequest, upstream: str) -> EventMaker:
    record = RequestRecord(
        id=lost.id,
        upstream=lost.upstream or upstream,
        path=lost.path,
        started_at_ns=lost.started_at_ns,
        ended_at_ns=lost.ended_at_ns,
        outcome="lost_record",
        model=lost.model,
        tenant=lost.tenant,
        error=LOST_ERROR,
    )
    return lambda sequence: RequestEnded(sequence=sequence, record=record)
