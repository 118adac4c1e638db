"""The accounts as the ledger holds them: prices, currencies, and how far each is booked."""

from fractions import Fraction
from typing import NamedTuple

from sqlalchemy import Connection, select

from agent.core.cost.accounts import Account
from agent.core.cost.prices import BillLine
from agent.ledger.tables import accounts, price_segments

AccountKey = tuple[str, int]  # gpu, from_ns


class Bill(NamedTuple):
    """An account, how far it is booked, whether it is open, and the energy its meter told of that time."""

    account: Account
    through_ns: int
    is_open: bool
    energy_uj: int

    @property
    def key(self) -> AccountKey:
        """By which places refer to it."""
        return self.account.gpu, self.account.from_ns


def currency_of(connection: Connection) -> str | None:
    """The currency of the newest priced account: that of the reports."""
    newest = select(accounts.c.currency).where(accounts.c.currency.is_not(None)).order_by(accounts.c.from_ns.desc())
    found = connection.execute(newest.limit(1)).scalar()
    return None if found is None else str(found)


def read_bills(connection: Connection, gpu: str | None = None) -> list[Bill]:
    """Every account, or those of one GPU, by GPU and time."""
    prices = select(price_segments).order_by(price_segments.c.at_ns)
    booked = select(accounts).order_by(accounts.c.gpu, accounts.c.from_ns)
    if gpu is not None:
        prices, booked = prices.where(price_segments.c.gpu == gpu), booked.where(accounts.c.gpu == gpu)
    segments: dict[AccountKey, list[tuple[int, Fraction]]] = {}
    for row in connection.execute(prices):
        price = Fraction(int(row.numerator), int(row.denominator))
        segments.setdefault((row.gpu, row.account_ns), []).append((row.at_ns, price))
    found = []
    for row in connection.execute(booked):
        priced = segments.get((row.gpu, row.from_ns))
        line = BillLine(priced) if priced else None
        account = Account(row.gpu, row.gpu_model, row.from_ns, row.currency, line)
        found.append(Bill(account, int(row.through_ns), bool(row.is_open), int(row.energy_uj)))
    return found
