"""What one settlement step decides: GPU time and money in, entries and the costs of requests out.

A request is booked as in flight until it ends; then what was booked moves to its outcome, so that sums stay the same.
"""

from dataclasses import dataclass, field

from agent.core.cost.accounts import Account
from agent.core.cost.energy import Reading
from agent.core.cost.live import Booking, Live, Parts

MINUTE_NS = 60 * 1_000_000_000
IN_FLIGHT = "in_flight"  # outcome under which a request is booked until it ends


@dataclass(slots=True)
class Amount:
    """What is booked: quantities first, the money they cost, and the requests that came to their end there.

    `work_ns` is the part of `gpu_ns` that was charged for prefill and decode work; `energy_uj` (microjoules) was drawn
    in `metered_ns` of it: time without a reading has no energy, rather than 0. `input_tokens` holds the cached ones.
    """

    gpu_ns: int = 0
    nano: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_cached_tokens: int = 0
    work_ns: int = 0
    energy_uj: int = 0
    metered_ns: int = 0


@dataclass(slots=True)
class Closed:
    """What one settlement step decided; the ledger writes it as one transaction."""

    number: int
    from_ns: int
    through_ns: int
    entries: dict[Booking, Amount] = field(default_factory=dict)
    changed_accounts: list[Account] = field(default_factory=list)  # opened, or priced anew
    currencies: dict[tuple[str, int], str | None] = field(default_factory=dict)  # (gpu, from_ns) -> of the account
    accounts_through: dict[tuple[str, int], int] = field(default_factory=dict)  # (gpu, from_ns) -> closed up to
    retired: list[tuple[str, int]] = field(default_factory=list)  # (gpu, from_ns) of accounts that end here
    # (gpu, from_ns) -> microjoules by the GPU's meter in this step; not in it: nothing of it was metered
    energy: dict[tuple[str, int], int] = field(default_factory=dict)
    meters: dict[str, Reading] = field(default_factory=dict)  # gpu -> its meter at `through_ns`, for a restart
    requests: dict[str, Live] = field(default_factory=dict)  # costs changed
    settled: list[str] = field(default_factory=list)  # ids: their cost is final

    def book(
        self, booking: Booking, gpu_ns: int, nano: int, work_ns: int = 0, energy_uj: int = 0, metered_ns: int = 0
    ) -> Amount:
        """Add to one entry, and answer it."""
        amount = self.entries.get(booking)
        if amount is None:
            amount = self.entries[booking] = Amount()
        amount.gpu_ns += gpu_ns
        amount.nano += nano
        amount.work_ns += work_ns
        amount.energy_uj += energy_uj
        amount.metered_ns += metered_ns
        return amount

    def move(self, booking: Booking, outcome: str, parts: Parts) -> None:
        """What was booked as in flight has an outcome now; sums stay the same."""
        self.book(booking, *[-part for part in parts])
        self.book(booking._replace(outcome=outcome), *parts)

    def finish(self, request: Live) -> None:
        """Give what it carries along its outcome, and count it where its last GPU time was booked."""
        outcome = request.outcome or "error"
        for booking, parts in request.provisional.items():
            self.move(booking, outcome, parts)
        request.provisional = {}
        place = request.last_booking
        if place is None:
            end = request.ended_ns or request.started_ns
            minute = end - end % MINUTE_NS
            place = Booking(minute, "", 0, "request", request.engine, request.model, request.tenant, outcome)
        elif place.outcome != outcome:
            place = place._replace(outcome=outcome)
        amount = self.entries.get(place)
        if amount is None:
            amount = self.entries[place] = Amount()
        usage = request.usage
        cached = usage.input_cached_tokens or 0
        amount.requests += 1
        amount.input_tokens += (usage.input_tokens or 0) + cached
        amount.input_cached_tokens += cached
        amount.output_tokens += usage.output_tokens or 0
        self.requests[request.id] = request
        self.settled.append(request.id)
