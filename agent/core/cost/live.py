"""A request between its first event and its settlement: intervals, tokens over time, what it cost so far."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.core.requests import Usage, Witness

NO_USAGE = Usage()


class Booking(NamedTuple):
    """Under what GPU time is booked. `bucket_ns`: the minute's start; a long quiet stretch is in its first minute."""

    bucket_ns: int
    gpu: str
    account_ns: int
    state: str
    engine: str
    model: str
    tenant: str
    outcome: str
    slot: str = ""  # the GPU itself, a MIG device or a share of one; '' where there is no GPU
    reason: str = ""
    group: str = ""  # of an engine that runs over several nodes
    namespace: str = ""  # of whoever holds the slot; '' for nobody, and for several
    pod: str = ""


class Parts(NamedTuple):
    """What is booked of one request under one `Booking`: the exact quantities of an `Amount`."""

    gpu_ns: int
    nano: int
    work_ns: int = 0
    energy_uj: int = 0
    metered_ns: int = 0


@dataclass(slots=True, eq=False)
class Live:
    """A request that is not settled. Instants are on the bill's clock; `ended_ns` None while it is in flight."""

    id: str
    upstream: str
    engine: str
    started_ns: int
    model: str = ""
    tenant: str = ""
    ended_ns: int | None = None
    outcome: str | None = None
    first_token_ns: int | None = None
    usage: Usage = NO_USAGE
    points: list[tuple[int, int]] = field(default_factory=list)  # (instant, output tokens so far), ascending
    gpu_ns: int = 0
    nano: int = 0
    seen_ns: int = 0  # in-flight time for which its GPUs were known
    currency: str | None = None
    unpriced: bool = False
    # Booked as in flight, as far as it is not in a row of `in_flight.InFlight`.
    provisional: dict[Booking, Parts] = field(default_factory=dict)
    last_booking: Booking | None = None
    seen_by: Witness = "sidecar"
    input_estimate: int | None = None  # tokens, until `usage` is known
    max_output_tokens: int | None = None
    attempt: int = 0  # 1: the client's first retry
    work_ns: int = 0  # of `gpu_ns`: charged for its own prefill and decode
    energy_uj: int = 0
    metered_ns: int = 0  # of `gpu_ns`: with an energy reading
    row: int = -1  # in `in_flight.InFlight`

    @property
    def model_is_booked(self) -> bool:
        """True once time was booked: from then on model and tenant stay as they were first told."""
        return self.last_booking is not None

    @property
    def cost_nano(self) -> int | None:
        """None when no GPU of it is known, or one of them has no price."""
        return None if self.unpriced or self.currency is None else self.nano

    def overlap(self, start_ns: int, end_ns: int) -> tuple[int, int] | None:
        """In-flight interval within [start, end). A rejected request never ran."""
        if self.outcome == "rejected":
            return None
        start = max(start_ns, self.started_ns)
        end = end_ns if self.ended_ns is None else min(end_ns, self.ended_ns)
        return (start, end) if start < end else None

    def forget_points(self, before_ns: int, least: int) -> None:
        """Drop progress of before, but for the first two events and the last one, if that is `least` events or more."""
        last = bisect_left(self.points, (before_ns,)) - 1
        if last - 2 >= least:
            del self.points[2:last]

    def is_silent(self, at_ns: int) -> bool:
        """Open at `at_ns`, and no word of how many tokens it has."""
        return self.ended_ns is None and not self.points and self.started_ns < at_ns

    def tokens_at(self, at_ns: int) -> int:
        """Output tokens by `at_ns`: straight lines between first token, progress events and end."""
        if self.ended_ns is not None and at_ns >= self.ended_ns:
            return self.usage.output_tokens or (self.points[-1][1] if self.points else 0)
        before = (self.first_token_ns or self.started_ns, 0)
        marks = list(self.points)
        if self.ended_ns is not None:
            marks.append((self.ended_ns, self.usage.output_tokens or (marks[-1][1] if marks else 0)))
        for mark in marks:
            if at_ns < mark[0]:
                if at_ns <= before[0]:
                    return before[1]
                return before[1] + (mark[1] - before[1]) * (at_ns - before[0]) // (mark[0] - before[0])
            before = mark
        return before[1]
