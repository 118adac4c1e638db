"""What was booked of traffic past the sidecar, for requests that a span tells of later."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, or_, select

from agent.core.cost.closed import MINUTE_NS, Amount
from agent.core.cost.live import Booking
from agent.ledger.tables import MINUTE, accounts, entries, places


@dataclass(slots=True)
class Unattributed:
    """Entries of minutes, and the currencies of their accounts (gpu, from_ns)."""

    entries: dict[Booking, Amount] = field(default_factory=dict)
    currencies: dict[tuple[str, int], str | None] = field(default_factory=dict)


def read_unattributed(connection: Connection, minutes: Mapping[str, Collection[int]]) -> Unattributed:
    """`minutes`: engine -> starts of minutes (Unix ns). What is not kept by the minute any more is not found."""
    found = Unattributed()
    wanted = {engine: {minute // MINUTE_NS for minute in of} for engine, of in minutes.items() if of}
    if not wanted:
        return found
    spans = [
        and_(places.c.engine == engine, entries.c.minute.between(min(of), max(of))) for engine, of in wanted.items()
    ]
    statement = (
        select(entries, places, accounts.c.currency)
        .join_from(entries, places, entries.c.place == places.c.id)
        .outerjoin(accounts, and_(accounts.c.gpu == places.c.gpu, accounts.c.from_ns == places.c.account_ns))
        .where(entries.c.grain == MINUTE, places.c.state == "unattributed", or_(*spans))
    )
    for row in connection.execute(statement):
        if row.minute not in wanted[row.engine]:
            continue
        booking = Booking(
            row.minute * MINUTE_NS,
            row.gpu,
            row.account_ns,
            row.state,
            row.engine,
            row.model,
            row.tenant,
            row.outcome,
            row.slot,
            row.reason,
            row.engine_group,
            row.namespace,
            row.pod,
        )
        found.entries[booking] = Amount(
            gpu_ns=row.gpu_ns,
            nano=row.nano,
            work_ns=row.work_ns,
            energy_uj=row.energy_uj,
            metered_ns=row.metered_ns,
            output_tokens=row.output_tokens,
        )
        found.currencies[row.gpu, row.account_ns] = row.currency
    return found
