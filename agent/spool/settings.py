"""Bounds of a spool, and how its streams gather what they write."""

from msgspec import Struct
from pydantic import Field

from agent.settings import Section

MIB = 1 << 20


class SpoolSettings(Section):
    """How much a spool may hold. When it is full, whoever writes has to wait or to drop, and counts it."""

    max_bytes: int = Field(1024 * MIB, ge=MIB, description="Most bytes on disk for all streams of the spool.")
    min_free_bytes: int = Field(
        1024 * MIB,
        ge=0,
        description="Bytes that must stay free on the volume, whatever `max_bytes` says; below it the spool stops "
        "growing and gives back what it holds in reserve.",
    )
    segment_bytes: int = Field(
        8 * MIB, ge=64 << 10, le=1024 * MIB, description="Size of one file. No item may be larger."
    )
    group_seconds: float = Field(
        0.05, ge=0, le=5, description="Longest wait for more items to be written to the disk together."
    )


class StreamLimits(Struct, frozen=True, kw_only=True):
    """One stream's own numbers. `weight` is its share of what is guaranteed."""

    weight: float = 1.0
    group_bytes: int = MIB
    group_seconds: float = 0.2
    pending_bytes: int = 8 * MIB  # put and not yet durable; more is refused
    save_seconds: float = 0.5
    max_segments: int = 65_536
