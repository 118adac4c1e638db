"""The proof: what was booked beside price x wall time and the meter's energy, account by account."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, select

from agent.core.cost.reports import Reconciliation, SlotReconciliation
from agent.ledger.bills import AccountKey, Bill, currency_of, read_bills
from agent.ledger.kept import read_kept
from agent.ledger.tables import DAY, entries, places
from agent.ledger.windows import whole

_AMOUNTS = ("gpu_ns", "nano", "energy_uj", "metered_ns")


def reconcile(connection: Connection, node: str, finest: int = DAY) -> Reconciliation:
    """Booked parts beside the bill, for each account. Parts of other currencies are in their slots only.

    `finest`: the grain (`tables.DAY`, `HOUR`, `MINUTE`) that is read as far back as it is kept; what is older, or not
    rolled up yet, comes from the grain that has it.
    """
    booked = _booked(connection, finest)
    currency = currency_of(connection)
    slots = []
    bill: int | None = None
    parts: dict[str, int] = {}
    for found in read_bills(connection):
        slot = _reconcile_slot(found, booked.pop(found.key, {}))
        slots.append(slot)
        if found.account.currency == currency and slot.bill_nano is not None:
            bill = (bill or 0) + slot.bill_nano
            for state, nano in slot.parts_nano.items():
                parts[state] = parts.get(state, 0) + nano
    # What is left is booked to no account: requests whose GPUs are unknown. They must not carry time, money or energy.
    stray = any(any(sums) for states in booked.values() for sums in states.values())
    return Reconciliation(
        node=node,
        currency=currency,
        slots=tuple(slots),
        bill_nano=bill,
        parts_nano=parts,
        reconciles=not stray and all(slot.reconciles for slot in slots),
    )


def _booked(connection: Connection, finest: int) -> dict[AccountKey, dict[str, list[int]]]:
    """Account -> state -> sums of `_AMOUNTS`."""
    sums: dict[int, list[int]] = {}
    e = entries.c
    for piece in whole(read_kept(connection), finest):
        statement = select(e.place, *(func.sum(e[name]) for name in _AMOUNTS)).group_by(e.place)
        within = (e.grain == piece.grain) & (e.minute >= piece.first) & (e.minute < piece.end)
        for place, *values in connection.execute(statement.where(within)):
            _add(sums, place, values)
    booked: dict[AccountKey, dict[str, list[int]]] = {}
    p = places.c
    for row in connection.execute(select(p.id, p.gpu, p.account_ns, p.state).order_by(p.state)):
        amounts = sums.get(row.id)
        if amounts is not None:
            _add(booked.setdefault((row.gpu, row.account_ns), {}), row.state, amounts)
    return booked


def _add(sums: dict[Any, list[int]], key: Any, values: Iterable[Any]) -> None:
    before = sums.get(key)
    numbers = [int(value) for value in values]
    sums[key] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]


def _reconcile_slot(bill: Bill, booked: dict[str, list[int]]) -> SlotReconciliation:
    account = bill.account
    wall_ns = bill.through_ns - account.from_ns
    money = account.line.nano(bill.through_ns) if account.line else None
    parts_ns = {state: sums[0] for state, sums in booked.items()}
    parts_nano = {state: sums[1] for state, sums in booked.items()}
    parts_uj = {state: sums[2] for state, sums in booked.items()}
    metered_ns = sum(sums[3] for sums in booked.values())
    is_metered = bool(metered_ns or bill.energy_uj or any(parts_uj.values()))
    same_money = money is None or sum(parts_nano.values()) == money
    return SlotReconciliation(
        gpu=account.gpu,
        gpu_model=account.gpu_model,
        from_ns=account.from_ns,
        to_ns=bill.through_ns,
        wall_ns=wall_ns,
        parts_ns=parts_ns,
        bill_nano=money,
        parts_nano=parts_nano if account.currency is not None else {},
        reconciles=sum(parts_ns.values()) == wall_ns and same_money and sum(parts_uj.values()) == bill.energy_uj,
        energy_uj=bill.energy_uj if is_metered else None,
        parts_uj=parts_uj if is_metered else {},
        metered_ns=metered_ns,
    )
