"""States of streams and destinations as samples: every name is in the catalogue, every number is where it belongs."""

from agent.core.catalogue import BY_NAME
from agent.core.metrics.samples import Sample
from agent.delivery.numbers import queue_samples, stream_samples
from agent.delivery.queue import QueueState
from agent.spool.batch import StreamState

NOW_NS = 1_800_000_000_000_000_000
STREAM = StreamState(
    name="records",
    accepted=10,
    waiting=3,
    pending=1,
    results={"delivered": 5, "dead": 1, "dropped:damaged": 1},
    used_bytes=4096,
    limit_bytes=8192,
    oldest_at_ns=NOW_NS - 2_500_000_000,
    blocked="the disk is full",
    sync_seconds=0.25,
    syncs=7,
    damaged_frames=1,
    retired_segments=2,
)
QUEUE = QueueState(
    destination="agent",
    ok=False,
    reason="HTTP 401",
    paused=True,
    in_flight=0,
    concurrency=1,
    batch_bytes=1,
    held=3,
    attempts=9,
    retries=4,
    last_confirmed_boot_ns=None,
)


def values(samples: list[Sample]) -> dict[str, float]:
    return {f"{key.name}:{key.get('result')}".rstrip(":"): value for key, value in samples}


def test_every_name_and_label_is_in_the_catalogue() -> None:
    for key, _ in [*stream_samples("n", STREAM, NOW_NS), *queue_samples("n", "records", QUEUE)]:
        assert {name for name, _ in key.labels} <= set(BY_NAME[key.name].labels)
        assert key.get("stream") == "records"
        assert key.get("node") == "n"


def test_a_stream() -> None:
    found = values(list(stream_samples("n", STREAM, NOW_NS)))
    assert found == {
        "engineroom_delivery_accepted_items_total": 10,
        "engineroom_delivery_waiting_items": 3,
        "engineroom_delivery_items_total:delivered": 5,
        "engineroom_delivery_items_total:dead": 1,
        "engineroom_delivery_items_total:dropped:damaged": 1,
        "engineroom_delivery_oldest_age_seconds": 2.5,
        "engineroom_spool_used_bytes": 4096,
        "engineroom_spool_limit_bytes": 8192,
        "engineroom_spool_blocked": 1,
        "engineroom_spool_sync_seconds": 0.25,
        "engineroom_spool_syncs_total": 7,
        "engineroom_spool_damaged_frames_total": 1,
        "engineroom_spool_retired_segments_total": 2,
    }


def test_a_stream_that_never_synced_tells_no_sync_time() -> None:
    fresh = StreamState(name="logs", accepted=0, waiting=0, pending=0)
    found = values(list(stream_samples("n", fresh, NOW_NS)))
    assert "engineroom_spool_sync_seconds" not in found
    assert found["engineroom_delivery_oldest_age_seconds"] == 0


def test_a_destination() -> None:
    assert values(list(queue_samples("n", "records", QUEUE))) == {
        "engineroom_delivery_up": 0,
        "engineroom_delivery_paused": 1,
        "engineroom_delivery_attempts_total": 9,
        "engineroom_delivery_retries_total": 4,
        "engineroom_delivery_concurrency": 1,
    }
