"""A ledger that is opened in, what a settlement goes on from out: clock, accounts, open requests, totals."""

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from agent.clock import BillClock
from agent.core.cost.accounts import Account
from agent.core.cost.energy import Reading
from agent.core.cost.live import Live
from agent.core.requests import Usage
from agent.ledger.bills import read_bills
from agent.ledger.dialects import insert
from agent.ledger.numbering import Numbers
from agent.ledger.recovering import give_back
from agent.ledger.tables import DAY, MINUTE, entries, meters, node_state, places, requests, sidecars

CostKey = tuple[str, str, str, str]  # state, tenant, model, currency
SenderKey = tuple[str, str, int]  # sender, sidecar, epoch


@dataclass(slots=True)
class Opened:
    """Where the ledger ends: what a settlement goes on from."""

    accounts: list[Account] = field(default_factory=list)
    through_ns: int | None = None
    step: int = 0
    live: list[Live] = field(default_factory=list)
    senders: list[SenderKey] = field(default_factory=list)  # those that have open requests
    missing: dict[SenderKey, int] = field(default_factory=dict)  # event numbers that never came
    ended: int = 0  # ends of requests that were told since the ledger began
    cost_nano: dict[CostKey, int] = field(default_factory=dict)
    slot_ns: dict[tuple[str, str], int] = field(default_factory=dict)  # (gpu, state)
    energy_uj: dict[tuple[str, int], int] = field(default_factory=dict)  # (gpu, account) -> by its meter
    meters: dict[str, Reading] = field(default_factory=dict)  # gpu -> where `through_ns` is


def load(connection: Connection) -> Opened:
    """All that a settlement needs to know; called once, when the ledger was opened."""
    state = connection.execute(select(node_state)).one()
    found = Opened(through_ns=state.through_ns, step=state.step, ended=state.ended)
    bills = read_bills(connection)
    found.accounts = [bill.account for bill in bills if bill.is_open]
    found.energy_uj = {(bill.account.gpu, bill.account.from_ns): bill.energy_uj for bill in bills}
    found.meters = {row.gpu: Reading(row.at_ns, row.total_uj, row.source) for row in connection.execute(select(meters))}
    found.live = _open_requests(connection)
    give_back(connection, found.live)
    senders = select(requests.c.sender, requests.c.sidecar, requests.c.epoch).where(requests.c.outcome.is_(None))
    found.senders = [(row.sender, row.sidecar, row.epoch) for row in connection.execute(senders.distinct())]
    for row in connection.execute(select(sidecars).where(sidecars.c.holes.is_not(None))):
        found.missing[row.sender, row.sidecar, row.epoch] = Numbers(row.accepted_through, row.holes).missing
    _totals(connection, found, {(b.account.gpu, b.account.from_ns): b.account.currency for b in bills})
    return found


def go_on(connection: Connection, node: str, unix: int, boot: int, boot_name: str) -> BillClock:
    """The clock of this boot goes on exactly; after a reboot the wall clock, never before what is booked."""
    state = connection.execute(select(node_state)).one_or_none()
    if state is not None and state.boot_id == boot_name:
        return BillClock(state.anchor_unix_ns, state.anchor_boot_ns)
    anchor = unix if state is None or state.through_ns is None else max(unix, state.through_ns)
    row = {"id": 1, "node": node, "boot_id": boot_name, "anchor_unix_ns": anchor, "anchor_boot_ns": boot}
    changes = {name: row[name] for name in ("boot_id", "anchor_unix_ns", "anchor_boot_ns")}
    statement = insert(connection, node_state).on_conflict_do_update(index_elements=["id"], set_=changes)
    connection.execute(statement, [row | {"step": 0, "through_ns": None}])
    return BillClock(anchor, boot)


def _open_requests(connection: Connection) -> list[Live]:
    found = []
    for row in connection.execute(select(requests).order_by(requests.c.id)):
        live = Live(
            id=row.id,
            upstream=row.upstream,
            engine=row.engine,
            started_ns=row.started_ns,
            model=row.model or "",
            tenant=row.tenant or "",
            ended_ns=row.ended_ns,
            outcome=row.outcome,
            first_token_ns=row.first_token_ns,
            usage=Usage(
                input_tokens=row.input_tokens,
                input_cached_tokens=row.input_cached_tokens,
                output_tokens=row.output_tokens,
            ),
            gpu_ns=row.gpu_ns,
            nano=row.nano,
            seen_ns=row.seen_ns,
            currency=row.currency,
            unpriced=row.unpriced,
            seen_by=row.seen_by,
            input_estimate=row.input_estimate,
            max_output_tokens=row.max_output_tokens,
            attempt=row.attempt,
            work_ns=row.work_ns,
            energy_uj=row.energy_uj,
            metered_ns=row.metered_ns,
        )
        if row.progress_ns is not None:
            live.points.append((row.progress_ns, row.progress_tokens))
        found.append(live)
    return found


def _totals(connection: Connection, found: Opened, currencies: dict[tuple[str, int], str | None]) -> None:
    """Days, and the minutes that are in no day yet: together everything that was ever booked."""
    rolled = connection.execute(select(node_state.c.rolled_minute)).scalar()
    e, p = entries.c, places.c
    whole = (e.grain == DAY) | ((e.grain == MINUTE) & (e.minute >= (rolled or 0)))
    by_place = select(e.place, func.sum(e.nano).label("nano"), func.sum(e.gpu_ns).label("ns")).where(whole)
    sums = by_place.group_by(e.place).subquery()
    rows = select(p.gpu, p.account_ns, p.state, p.tenant, p.model, sums.c.nano, sums.c.ns)
    for row in connection.execute(rows.join_from(sums, places, sums.c.place == p.id)):
        if not row.gpu:
            continue
        slot = (row.gpu, row.state)
        found.slot_ns[slot] = found.slot_ns.get(slot, 0) + int(row.ns)
        currency = currencies.get((row.gpu, row.account_ns))
        if currency is not None:
            key = (row.state, row.tenant, row.model, currency)
            found.cost_nano[key] = found.cost_nano.get(key, 0) + int(row.nano)
