"""A ledger's tables filled by hand with what was booked in minutes, rolled up and forgotten as settlement would."""

import functools
import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, create_engine, delete, insert, update
from sqlalchemy.pool import StaticPool

from agent.core.cost.accounts import Account, open_account
from agent.core.cost.allocating import ACTIVE
from agent.core.cost.closed import Amount
from agent.core.cost.prices import PriceBook
from agent.core.cost.reports import SHARED_STATES
from agent.ledger.rollup import read_eras, roll
from agent.ledger.tables import HOUR, MINUTE, accounts, calendars, entries, metadata, node_state, places, price_segments
from tests.support.money import MODEL, NS

MINUTE_NS = 60 * NS
M0 = 30_000_000  # Unix minute: 2027-01-15 08:00 UTC
T0 = M0 * MINUTE_NS
HOUR_NS = 60 * MINUTE_NS


class Place(NamedTuple):
    """Everything that a booking is under, but its time."""

    state: str
    gpu: str = "GPU-0"
    account_ns: int = T0
    slot: str = "GPU-0"
    reason: str = ""
    engine: str = ""
    engine_group: str = ""
    model: str = ""
    tenant: str = ""
    outcome: str = ""
    namespace: str = ""
    pod: str = ""


Booked = Sequence[tuple[int, Place, Amount]]  # (Unix minute, place, amount)


def place(state: str, gpu: str = "GPU-0", **fields: Any) -> Place:
    return Place(**{"state": state, "gpu": gpu, "slot": gpu, **fields})


def account(gpu: str = "GPU-0", prices: PriceBook | None = None, from_ns: int = T0, gpu_model: str = MODEL) -> Account:
    opened = open_account(prices, gpu, MODEL, from_ns)
    opened.gpu_model = gpu_model
    return opened


@contextmanager
def booked(
    rows: Booked = (),
    found: Iterable[Account] = (),
    *,
    through_ns: int = T0,
    energy: dict[str, int] | None = None,
    zones: Sequence[tuple[int, str]] = ((0, "UTC"),),
    rolled: int | None = None,
) -> Iterator[Connection]:
    """The tables, in memory: minutes as given, and rolled up before the minute `rolled`, era by era."""
    engine = create_engine("sqlite://", creator=_empty, poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            state = {"id": 1, "node": "node-a", "boot_id": "b", "anchor_unix_ns": 0, "anchor_boot_ns": 0, "step": 1}
            connection.execute(insert(node_state), [{**state, "through_ns": through_ns}])
            connection.execute(insert(calendars), [{"from_minute": at, "time_zone": zone} for at, zone in zones])
            _accounts(connection, found, through_ns, energy or {})
            book(connection, rows)
            if rolled is not None:
                roll(connection, read_eras(connection), 0, rolled)
            yield connection
    finally:
        engine.dispose()


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(_template())
    return connection


@functools.cache
def _template() -> bytes:
    """A database with the tables and no rows: making them takes longer than most tests."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    with engine.connect() as connection:
        made: bytes = connection.connection.driver_connection.serialize()  # type: ignore[union-attr]
    engine.dispose()
    return made


def book(connection: Connection, rows: Booked) -> None:
    """Add minutes to places that are not there yet."""
    ids: dict[Place, int] = {}
    sums: dict[tuple[int, Place], Amount] = {}
    for minute, where, amount in rows:
        total = sums.setdefault((minute, where), Amount())
        for name in Amount.__slots__:
            setattr(total, name, getattr(total, name) + getattr(amount, name))
        ids.setdefault(where, len(ids) + 1)
    if not sums:
        return
    connection.execute(insert(places), [{"id": number, **where._asdict()} for where, number in ids.items()])
    connection.execute(
        insert(entries),
        [
            {
                "grain": MINUTE,
                "minute": minute,
                "place": ids[where],
                **{name: getattr(a, name) for name in Amount.__slots__},
            }
            for (minute, where), a in sums.items()
        ],
    )


def forget(connection: Connection, minutes_from: int, hours_from: int = 0) -> None:
    """As retention does: minutes before one, hours before another."""
    for grain, before in ((MINUTE, minutes_from), (HOUR, hours_from)):
        connection.execute(delete(entries).where(entries.c.grain == grain, entries.c.minute < before))
    connection.execute(update(node_state).values(minutes_from=minutes_from, hours_from=hours_from))


def _accounts(connection: Connection, found: Iterable[Account], through_ns: int, energy: dict[str, int]) -> None:
    for one in found:
        connection.execute(
            insert(accounts),
            [
                {
                    "gpu": one.gpu,
                    "from_ns": one.from_ns,
                    "gpu_model": one.gpu_model,
                    "currency": one.currency,
                    "through_ns": max(one.from_ns, through_ns),
                    "is_open": True,
                    "energy_uj": energy.get(one.gpu, 0),
                }
            ],
        )
        for at_ns, price in one.line.segments if one.line else ():
            key = {"gpu": one.gpu, "account_ns": one.from_ns, "at_ns": at_ns}
            fraction = {"numerator": str(price.numerator), "denominator": str(price.denominator)}
            connection.execute(insert(price_segments), [key | fraction])


NAMES = ("acme", "zeta", "", "a'b", 'q"uote', "100%", "under_score", "Ä\u0000nul", "東京", "-1+1", "\\", "ACME")


def random_rows(dice: random.Random, count: int, minutes: int, *, negative: bool = True) -> list[Any]:
    """Minutes of a node with three GPUs, of which the third has no price and some work has no GPU at all."""
    rows = []
    for _ in range(count):
        state = dice.choice(("request", "request", "request", *ACTIVE, "other_workload", *SHARED_STATES))
        gpu = dice.choice(("GPU-0", "GPU-0", "GPU-1", "GPU-2"))
        fields: dict[str, Any] = {"slot": dice.choice((gpu, "MIG-a"))}
        if state in ("request", "unattributed", "loaded_idle", "warmup"):
            fields |= {"engine": dice.choice("ab"), "model": dice.choice(("m1", "m2", "m1", "")), "reason": "process"}
            fields["engine_group"] = dice.choice(("", "g"))
        if state != "unallocated":
            fields |= {"namespace": dice.choice(("", "prod")), "pod": dice.choice(("", "p-0"))}
        if state == "request":
            fields["tenant"] = dice.choice(NAMES)
            fields["outcome"] = dice.choice(("ok", "ok", "error", "client_abort", "in_flight", "lost_record"))
        where = place(state, gpu, **fields)
        ns = dice.choice((0, 1, dice.randrange(10**12), dice.randrange(10**16)))
        metered = dice.choice((0, ns))
        amount = Amount(
            ns,
            0 if gpu == "GPU-2" else dice.choice((0, 1, dice.randrange(10**14))),
            metered_ns=metered,
            energy_uj=dice.randrange(10**9) if metered else 0,
        )
        if state == "request":
            amount.requests, amount.output_tokens = dice.randrange(3), dice.randrange(99)
            amount.input_tokens, amount.input_cached_tokens = dice.randrange(50, 99), dice.randrange(50)
            amount.work_ns = dice.randrange(ns + 1)
            if dice.random() < 0.05:  # of an engine whose GPUs are unknown
                where = where._replace(gpu="", slot="", account_ns=0)
                amount = Amount(requests=1)
        if negative and dice.random() < 0.05:
            amount = Amount(*(-getattr(amount, name) for name in Amount.__slots__))
        rows.append((M0 + dice.randrange(minutes), where, amount))
    return rows
