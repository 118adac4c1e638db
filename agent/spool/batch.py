"""What a stream hands out, and the numbers it is judged by: values only."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct, field


class Batch(NamedTuple):
    """Items with their sequence numbers, in order. Numbers grow by one for each item of a stream, for ever."""

    sequences: Sequence[int]
    items: Sequence[bytes]


class StreamState(Struct, frozen=True, kw_only=True):
    """One stream at one instant, in items. accepted = waiting + the sum of `results`, always.

    `results`: delivered, duplicate, refused_kept, dead, dropped:<reason>. They go on over restarts.
    """

    name: str
    accepted: int  # durable since the stream was made
    waiting: int  # accepted and not settled
    pending: int  # put, not durable yet; not part of the identity
    results: dict[str, int] = field(default_factory=dict)
    used_bytes: int = 0  # of the volume, free segments included
    limit_bytes: int = 0
    oldest_at_ns: int | None = None  # wall clock; when the oldest waiting item was written; None: nothing waits
    blocked: str = ""  # why nothing can be written, or read, now; empty when all is well
    sync_seconds: float | None = None  # the last fdatasync
    syncs: int = 0
    damaged_frames: int = 0
    retired_segments: int = 0
