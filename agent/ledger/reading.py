"""Questions in, reports out: all from what was booked, and the bill recomputed from prices and time alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, and_, func, literal, select

from agent.core.cost.accounts import Account
from agent.core.cost.money import split
from agent.core.cost.prices import BillLine
from agent.core.cost.reports import (
    Reconciliation,
    Report,
    ReportQuery,
    ReportRow,
    RequestCost,
    SlotReconciliation,
)
from agent.ledger.tables import accounts, entries, price_segments, requests

NS = 1_000_000_000
ACTIVE = ("request", "unattributed")
# Dimensions that are columns, under the names that they have there.
BOOKED = {
    "gpu": "gpu",
    "slot": "slot",
    "state": "state",
    "reason": "reason",
    "engine": "engine",
    "group": "engine_group",
    "model": "model",
    "tenant": "tenant",
    "outcome": "outcome",
}


def currency_of(connection: Connection) -> str | None:
    """The currency of the newest priced account: that of the reports."""
    newest = select(accounts.c.currency).where(accounts.c.currency.is_not(None)).order_by(accounts.c.from_ns.desc())
    found = connection.execute(newest.limit(1)).scalar()
    return None if found is None else str(found)


def read_accounts(connection: Connection) -> list[tuple[Account, int, bool]]:
    """Every account with its prices, how far it is booked, and whether it is open."""
    segments: dict[tuple[str, int], list[tuple[int, Fraction]]] = {}
    for row in connection.execute(select(price_segments).order_by(price_segments.c.at_ns)):
        price = Fraction(int(row.numerator), int(row.denominator))
        segments.setdefault((row.gpu, row.account_ns), []).append((row.at_ns, price))
    found = []
    for row in connection.execute(select(accounts).order_by(accounts.c.gpu, accounts.c.from_ns)):
        priced = segments.get((row.gpu, row.from_ns))
        line = BillLine(priced) if priced else None
        account = Account(row.gpu, row.gpu_model, row.from_ns, row.currency, line)
        found.append((account, int(row.through_ns), bool(row.is_open)))
    return found


def reconcile(connection: Connection, node: str) -> Reconciliation:
    """Booked parts beside price x wall time, for each account. Parts of other currencies are in their slots only."""
    booked: dict[tuple[str, int], list[Any]] = {}
    sums = select(
        entries.c.gpu,
        entries.c.account_ns,
        entries.c.state,
        func.sum(entries.c.gpu_ns).label("gpu_ns"),
        func.sum(entries.c.nano).label("nano"),
    ).group_by(entries.c.gpu, entries.c.account_ns, entries.c.state)
    for row in connection.execute(sums.order_by(entries.c.state)):
        booked.setdefault((row.gpu, row.account_ns), []).append(row)
    currency = currency_of(connection)
    slots = []
    bill: int | None = None
    parts: dict[str, int] = {}
    for account, through_ns, _ in read_accounts(connection):
        slot = _reconcile_slot(account, through_ns, booked.pop((account.gpu, account.from_ns), []))
        slots.append(slot)
        if account.currency == currency and slot.bill_nano is not None:
            bill = (bill or 0) + slot.bill_nano
            for state, nano in slot.parts_nano.items():
                parts[state] = parts.get(state, 0) + nano
    # What is left is booked to no account: requests whose GPUs are unknown. They must not carry time or money.
    stray = any(row.gpu_ns or row.nano for rows in booked.values() for row in rows)
    return Reconciliation(
        node=node,
        currency=currency,
        slots=tuple(slots),
        bill_nano=bill,
        parts_nano=parts,
        reconciles=not stray and all(slot.reconciles for slot in slots),
    )


def _reconcile_slot(account: Account, through_ns: int, rows: Iterable[Any]) -> SlotReconciliation:
    parts_ns = {}
    parts_nano = {}
    for row in rows:
        parts_ns[row.state] = int(row.gpu_ns)
        if account.currency is not None:
            parts_nano[row.state] = int(row.nano)
    wall_ns = through_ns - account.from_ns
    bill = account.line.nano(through_ns) if account.line else None
    return SlotReconciliation(
        gpu=account.gpu,
        gpu_model=account.gpu_model,
        from_ns=account.from_ns,
        to_ns=through_ns,
        wall_ns=wall_ns,
        parts_ns=parts_ns,
        bill_nano=bill,
        parts_nano=parts_nano,
        reconciles=sum(parts_ns.values()) == wall_ns and (bill is None or sum(parts_nano.values()) == bill),
    )


@dataclass(slots=True)
class _Line:
    """One group of entries before it is put under the dimensions that were asked for."""

    start_ns: int
    slot: tuple[str, int, str]  # GPU, account, slot
    names: dict[str, str]
    gpu_ns: int
    nano: int
    priced: bool
    requests: int
    input_tokens: int
    output_tokens: int


def report(connection: Connection, query: ReportQuery, node: str) -> Report:
    """Rows of `query`, in order of time and group."""
    currency = currency_of(connection)
    lines = _lines(connection, query, node, currency)
    if query.basis == "allocation":
        lines = _allocate(lines)
    if query.tenant is not None:
        # Only now: what is idle is spread over the work of all tenants.
        lines = [line for line in lines if line.names["tenant"] == query.tenant]
    groups: dict[tuple[int, tuple[str, ...]], list[_Line]] = {}
    for line in lines:
        key = (line.start_ns, tuple(line.names[dimension] for dimension in query.aggregate))
        groups.setdefault(key, []).append(line)
    rows = tuple(_row(query, key, groups[key]) for key in sorted(groups))
    rows = tuple(row for row in rows if row.gpu_ns or row.cost_nano or row.requests)
    costs = [row.cost_nano for row in rows if row.cost_nano is not None]
    return Report(
        query=query,
        currency=currency,
        rows=rows,
        total_gpu_ns=sum(row.gpu_ns for row in rows),
        total_cost_nano=sum(costs) if costs else None,
    )


def _row(query: ReportQuery, key: tuple[int, tuple[str, ...]], lines: list[_Line]) -> ReportRow:
    start, names = key
    end = query.end_ns if query.step_seconds is None else min(query.end_ns, start + query.step_seconds * NS)
    return ReportRow(
        start_ns=start,
        end_ns=end,
        group=dict(zip(query.aggregate, names, strict=True)),
        gpu_ns=sum(line.gpu_ns for line in lines),
        cost_nano=sum(line.nano for line in lines if line.priced) if any(line.priced for line in lines) else None,
        requests=sum(line.requests for line in lines),
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
    )


def _lines(connection: Connection, query: ReportQuery, node: str, currency: str | None) -> list[_Line]:
    e, a = entries.c, accounts.c
    start: Any = literal(query.start_ns)
    if query.step_seconds is not None:
        step = query.step_seconds * NS
        start = e.bucket_ns - (e.bucket_ns - query.start_ns) % step
    start = start.label("start_ns")
    names = [e.account_ns, *(e[column] for column in BOOKED.values())]
    amounts = [e.gpu_ns, e.nano, e.requests, e.input_tokens, e.output_tokens]
    statement = (
        select(start, *names, a.gpu_model, a.currency, *(func.sum(column).label(column.name) for column in amounts))
        .select_from(entries.outerjoin(accounts, and_(e.gpu == a.gpu, e.account_ns == a.from_ns)))
        .where(e.bucket_ns >= query.start_ns, e.bucket_ns < query.end_ns)
        .group_by(*([start] if query.step_seconds is not None else []), *names, a.gpu_model, a.currency)
    )
    found = []
    for row in connection.execute(statement):
        labels = {name: getattr(row, column) for name, column in BOOKED.items()}
        labels |= {"gpu_model": row.gpu_model or "", "node": node}
        priced = row.currency is not None and row.currency == currency
        slot = (row.gpu, row.account_ns, row.slot)
        counts = (row.requests, row.input_tokens, row.output_tokens)
        found.append(_Line(row.start_ns, slot, labels, int(row.gpu_ns), int(row.nano), priced, *map(int, counts)))
    return found


def _allocate(lines: list[_Line]) -> list[_Line]:
    """Spread what is not active over what is, slot by slot and step by step, in proportion to GPU time."""
    slots: dict[tuple[int, tuple[str, int, str]], list[_Line]] = {}
    for line in lines:
        slots.setdefault((line.start_ns, line.slot), []).append(line)
    kept = []
    for group in slots.values():
        active = sorted(
            (line for line in group if line.names["state"] in ACTIVE), key=lambda line: sorted(line.names.items())
        )
        weights = [max(0, line.gpu_ns) for line in active]
        if not any(weights):
            kept += group
            continue
        rest = [line for line in group if line.names["state"] not in ACTIVE]
        times = split(sum(line.gpu_ns for line in rest), weights)
        moneys = split(sum(line.nano for line in rest), weights)
        for line, ns, nano in zip(active, times, moneys, strict=True):
            line.gpu_ns += ns
            line.nano += nano
        kept += active
    return kept


def request_cost(connection: Connection, request_id: str) -> RequestCost | None:
    """One request, or None when the ledger does not know it."""
    row = connection.execute(select(requests).where(requests.c.id == request_id)).one_or_none()
    if row is None:
        return None
    priced = row.currency is not None and not row.unpriced
    return RequestCost(
        id=row.id,
        engine=row.engine,
        model=row.model,
        tenant=row.tenant,
        outcome=row.outcome,
        started_at_ns=row.started_ns,
        ended_at_ns=row.ended_ns,
        gpu_ns=row.gpu_ns,
        cost_nano=row.nano if priced else None,
        currency=row.currency if priced else None,
        settled=row.settled,
        input_tokens=row.input_tokens,
        input_cached_tokens=row.input_cached_tokens,
        output_tokens=row.output_tokens,
    )
