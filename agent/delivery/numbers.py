"""States of streams and of their destinations in, samples under the catalogue's names out: did I lose anything?"""

from collections.abc import Iterator

from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.samples import Labels, Sample
from agent.delivery.queue import QueueState
from agent.spool.batch import StreamState
from agent.spool.stream import age_seconds


def stream_samples(node: str, state: StreamState, now_ns: int) -> Iterator[Sample]:
    """One stream. `now_ns` is the wall clock, which is on the items."""
    base: Labels = (("node", node), ("stream", state.name))
    yield from gauge("engineroom_delivery_accepted_items_total", state.accepted, base)
    yield from gauge("engineroom_delivery_waiting_items", state.waiting, base)
    yield from labelled("engineroom_delivery_items_total", {"delivered": 0} | state.results, "result", base)
    yield from gauge("engineroom_delivery_oldest_age_seconds", age_seconds(state, now_ns), base)
    yield from gauge("engineroom_spool_used_bytes", state.used_bytes, base)
    yield from gauge("engineroom_spool_limit_bytes", state.limit_bytes, base)
    yield from gauge("engineroom_spool_blocked", bool(state.blocked), base)
    yield from gauge("engineroom_spool_sync_seconds", state.sync_seconds, base)
    yield from gauge("engineroom_spool_syncs_total", state.syncs, base)
    yield from gauge("engineroom_spool_damaged_frames_total", state.damaged_frames, base)
    yield from gauge("engineroom_spool_retired_segments_total", state.retired_segments, base)


def queue_samples(node: str, stream: str, state: QueueState) -> Iterator[Sample]:
    """One destination of a stream."""
    base: Labels = (("node", node), ("stream", stream), ("destination", state.destination))
    yield from gauge("engineroom_delivery_up", None if state.ok is None else float(state.ok), base)
    yield from gauge("engineroom_delivery_paused", state.paused, base)
    yield from gauge("engineroom_delivery_attempts_total", state.attempts, base)
    yield from gauge("engineroom_delivery_retries_total", state.retries, base)
    yield from gauge("engineroom_delivery_concurrency", state.concurrency, base)
