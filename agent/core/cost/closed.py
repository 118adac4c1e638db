"""What one settlement step decides: GPU time and money in, entries and the costs of requests out.

A request is booked as in flight until it ends; then what was booked moves to its outcome, so that sums stay the same.
"""

from dataclasses import dataclass, field

from agent.core.cost.accounts import Account
from agent.core.cost.live import Booking, Live

MINUTE_NS = 60 * 1_000_000_000
HOUR_NS = 60 * MINUTE_NS
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
    requests: dict[str, Live] = field(default_factory=dict)  # costs changed
    settled: list[str] = field(default_factory=list)  # ids: their cost is final

    def book(self, booking: Booking, gpu_ns: int, nano: int) -> None:
        """Add to one entry."""
        amount = self.entries.get(booking)
        if amount is None:
            amount = self.entries[booking] = Amount()
        amount.gpu_ns += gpu_ns
        amount.nano += nano

    def book_request(
        self, request: Live, account: Account, bucket_ns: int, slot: tuple[str, str, str], gpu_ns: int, nano: int
    ) -> None:
        """Add to the entry of a request, and to its own cost. While it runs, its outcome is `IN_FLIGHT`.

        `slot`: which one, why it counts as its engine's, and the engine's group.
        """
        outcome, engine = request.outcome or IN_FLIGHT, request.engine
        place = (bucket_ns, account.gpu, account.from_ns, "request", engine, request.model, request.tenant, outcome)
        booking = Booking(*place, *slot)
        self.book(booking, gpu_ns, nano)
        if request.outcome is None:
            before = request.provisional.get(booking, (0, 0))
            request.provisional[booking] = (before[0] + gpu_ns, before[1] + nano)
        request.last_booking = booking
        request.gpu_ns += gpu_ns
        request.nano += nano
        if account.currency is None:
            request.unpriced = True
        else:
            request.currency = account.currency
        self.requests[request.id] = request

    def finish(self, request: Live) -> None:
        """Give what was booked while it ran its outcome, and count it where its last GPU time was booked."""
        outcome = request.outcome or "error"
        for booking, (gpu_ns, nano) in request.provisional.items():
            self.book(booking, -gpu_ns, -nano)
            self.book(booking._replace(outcome=outcome), gpu_ns, nano)
        request.provisional = {}
        end = request.ended_ns or request.started_ns
        place = request.last_booking or Booking(
            end - end % MINUTE_NS, "", 0, "request", request.engine, request.model, request.tenant, outcome
        )
        place = place._replace(outcome=outcome)
        self.book(place, 0, 0)
        amount = self.entries[place]
        amount.requests += 1
        amount.input_tokens += (request.usage.input_tokens or 0) + (request.usage.input_cached_tokens or 0)
        amount.output_tokens += request.usage.output_tokens or 0
        self.requests[request.id] = request
        self.settled.append(request.id)
