"""Places once, entries by minute, hour and day; open requests apart from settled ones, which take a fifth of the room.

All of it is moved: every nanosecond and nano-unit is in each of the three grains afterwards.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy
from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
)

from agent.ledger.ids import to_key
from agent.ledger.settled import Figures, pack

revision = "0005"
down_revision = "0004"

_MINUTE_NS = 60_000_000_000
_PLACE = (
    "gpu", "account_ns", "slot", "state", "reason", "engine", "engine_group", "model", "tenant", "outcome",
    "namespace", "pod",
)  # fmt: skip
_OLD_PLACE = ", ".join(_PLACE[:-2])
_AMOUNTS = ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
_NEW_AMOUNTS = ("input_cached_tokens", "work_ns", "energy_uj", "metered_ns")
_ROWS = 5000


def upgrade() -> None:
    """From 0004. Hours and days of before are those of UTC."""
    connection = op.get_bind()
    _add_columns()
    _make_tables()
    _move_entries(connection)
    _move_settled(connection)
    _move_open(connection)
    for name in ("entries_0004", "requests_0004"):
        op.drop_table(name)


def _add_columns() -> None:
    op.add_column("node_state", Column("rolled_minute", Integer))
    for name in ("minutes_from", "hours_from"):
        op.add_column("node_state", Column(name, Integer, nullable=False, server_default="0"))
    op.add_column("node_state", Column("ended", BigInteger, nullable=False, server_default="0"))
    op.add_column("accounts", Column("energy_uj", BigInteger, nullable=False, server_default="0"))


def _make_tables() -> None:
    op.create_table(
        "meters",
        Column("gpu", String, primary_key=True),
        Column("at_ns", BigInteger, nullable=False),
        Column("total_uj", BigInteger, nullable=False),
        Column("source", String, nullable=False),
    )
    op.drop_index("requests_open", "requests")
    for name in ("entries", "requests"):
        op.rename_table(name, f"{name}_0004")
    op.create_table(
        "calendars",
        Column("from_minute", Integer, primary_key=True, autoincrement=False),
        Column("time_zone", String, nullable=False),
    )
    numbers = ("account_ns",)
    op.create_table(
        "places",
        Column("id", Integer, primary_key=True, autoincrement=False),
        *(Column(name, BigInteger if name in numbers else String, nullable=False) for name in _PLACE),
        UniqueConstraint(
            "gpu", "account_ns", "slot", "state", "reason", "engine", "engine_group", "model", "tenant", "outcome",
            "namespace", "pod",
            name="places_key",
        ),
    )  # fmt: skip
    op.create_table(
        "entries",
        Column("grain", SmallInteger, primary_key=True, autoincrement=False),
        Column("minute", Integer, primary_key=True, autoincrement=False),
        Column("place", Integer, primary_key=True, autoincrement=False),
        *(
            Column(name, BigInteger, nullable=False)
            for name in (
                "gpu_ns", "nano", "requests", "input_tokens", "input_cached_tokens", "output_tokens", "work_ns",
                "energy_uj", "metered_ns",
            )
        ),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "requests",
        Column("id", LargeBinary, primary_key=True),
        Column("sidecar", String, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("sender", String, nullable=False),
        Column("upstream", String, nullable=False),
        Column("engine", String, nullable=False),
        Column("model", String),
        Column("tenant", String),
        Column("started_ns", BigInteger, nullable=False),
        Column("first_token_ns", BigInteger),
        Column("ended_ns", BigInteger),
        Column("outcome", String),
        Column("input_tokens", BigInteger),
        Column("input_cached_tokens", BigInteger),
        Column("output_tokens", BigInteger),
        Column("seen_by", String, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("max_output_tokens", BigInteger),
        Column("input_estimate", BigInteger),
        Column("progress_ns", BigInteger),
        Column("progress_tokens", BigInteger),
        Column("gpu_ns", BigInteger, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("work_ns", BigInteger, nullable=False),
        Column("energy_uj", BigInteger, nullable=False),
        Column("metered_ns", BigInteger, nullable=False),
        Column("seen_ns", BigInteger, nullable=False),
        Column("currency", String),
        Column("unpriced", Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settled_requests",
        Column("id", LargeBinary, primary_key=True),
        Column("place", Integer, nullable=False),
        Column("gpu_ns", BigInteger, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("figures", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tellers",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("sidecar", String, nullable=False),
        Column("sender", String, nullable=False),
        UniqueConstraint("sidecar", "sender", name="tellers_key"),
    )
    _make_invoices()


def _make_invoices() -> None:
    op.create_table(
        "invoices",
        Column("id", String, primary_key=True),
        Column("source", String, nullable=False),
        Column("line", Integer, nullable=False),
        Column("day", String, nullable=False),
        Column("time_zone", String, nullable=False),
        Column("sku", String, nullable=False),
        Column("currency", String, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("quantity", Text),
        Column("unit", String),
        Column("kind", String, nullable=False, server_default=""),
        Column("imported_ns", BigInteger, nullable=False),
    )
    op.create_index("invoices_day", "invoices", ["day", "sku"])
    op.create_index("invoices_source", "invoices", ["source"])


def _move_entries(connection: Connection) -> None:
    """A bucket becomes the minute in which it began, also one that was an hour of quiet."""
    run = connection.exec_driver_sql
    run("INSERT INTO calendars VALUES (0, 'UTC')")
    run(
        f"INSERT INTO places (id, {_OLD_PLACE}, namespace, pod)"
        f" SELECT row_number() OVER (ORDER BY {_OLD_PLACE}), {_OLD_PLACE}, '', ''"
        f" FROM (SELECT DISTINCT {_OLD_PLACE} FROM entries_0004)"
    )
    same = " AND ".join(f"e.{name} = p.{name}" for name in _PLACE[:-2])
    columns = ", ".join(("grain", "minute", "place", *_AMOUNTS, *_NEW_AMOUNTS))
    sums = ", ".join([*(f"sum(e.{name})" for name in _AMOUNTS), *("0" for _ in _NEW_AMOUNTS)])
    run(
        f"INSERT INTO entries ({columns}) SELECT 0, e.bucket_ns / {_MINUTE_NS}, p.id, {sums}"
        f" FROM entries_0004 e JOIN places p ON {same} GROUP BY 2, 3"
    )
    run(f"UPDATE node_state SET rolled_minute = through_ns / {_MINUTE_NS}")
    anything = " OR ".join(f"sum({name}) != 0" for name in _AMOUNTS)
    sums = ", ".join([*(f"sum({name})" for name in _AMOUNTS), *("0" for _ in _NEW_AMOUNTS)])
    for grain, minutes in ((1, 60), (2, 24 * 60)):
        run(
            f"INSERT INTO entries ({columns}) SELECT {grain}, minute - minute % {minutes}, place, {sums} FROM entries"
            " WHERE grain = 0 AND minute < (SELECT coalesce(rolled_minute, 0) FROM node_state)"
            f" GROUP BY 2, 3 HAVING {anything}"
        )


def _move_settled(connection: Connection) -> None:
    """The row did not say on which GPU: a place that fits what it says, for its currency."""
    run = connection.exec_driver_sql
    run("UPDATE node_state SET ended = (SELECT count(*) FROM requests_0004 WHERE ended_ns IS NOT NULL)")
    whose = "SELECT DISTINCT sidecar, sender FROM requests_0004 WHERE settled = 1 ORDER BY sidecar, sender"
    tellers = {tuple(row): number for number, row in enumerate(run(whose))}
    for (sidecar, sender), number in tellers.items():
        run("INSERT INTO tellers VALUES (?, ?, ?)", (number, sidecar, sender))
    finder = _Places(connection)
    for rows in _chunks(connection):
        moved = []
        for row in rows:
            key = to_key(row.id)
            ended = row.started_ns if row.ended_ns is None else row.ended_ns
            figures = Figures(
                started_ns=row.started_ns,
                ended_ns=ended,
                teller=tellers[row.sidecar, row.sender],
                input_tokens=row.input_tokens,
                input_cached_tokens=row.input_cached_tokens,
                output_tokens=row.output_tokens,
                seen_ns=row.seen_ns,
                priced=row.currency is not None,
                unpriced=bool(row.unpriced),
            )
            moved.append((key, finder.of(row, ended), row.gpu_ns, row.nano, pack(key, row.gpu_ns, figures)))
        moved.sort()
        run("INSERT INTO settled_requests VALUES (?, ?, ?, ?, ?)", moved)


def _chunks(connection: Connection) -> Iterator[Sequence[Any]]:
    after = ""
    question = sqlalchemy.text("SELECT * FROM requests_0004 WHERE settled = 1 AND id > :after ORDER BY id LIMIT :rows")
    while rows := connection.execute(question, {"after": after, "rows": _ROWS}).all():
        yield rows
        after = rows[-1].id


class _Places:
    """Finds the place of a settled request, or makes one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        found = connection.exec_driver_sql(f"SELECT {', '.join(_PLACE)}, id FROM places ORDER BY account_ns")
        self._ids = {tuple(row[:-1]): int(row[-1]) for row in found}
        self._next = 1 + max(self._ids.values(), default=0)
        self._by_names: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
        for place in self._ids:
            gpu, _, _, state, _, engine, _, model, tenant, *_ = place
            if gpu and state == "request":
                self._by_names.setdefault((engine, model, tenant), []).append(place)
        rows = connection.exec_driver_sql("SELECT gpu, from_ns, currency FROM accounts ORDER BY from_ns")
        self._currencies = {(row.gpu, row.from_ns): row.currency for row in rows}

    def of(self, row: Any, ended_ns: int) -> int:
        """The number of the place."""
        engine, model, tenant = row.engine, row.model or "", row.tenant or ""
        best: tuple[Any, ...] = ("", 0, "", "request", "", engine, "", model, tenant, "", "", "")
        if row.currency is not None or row.gpu_ns:
            fitting = [
                place
                for place in self._by_names.get((engine, model, tenant), ())
                if self._currencies.get(place[:2]) == row.currency and place[1] <= ended_ns
            ]
            # Booked under another name: its currency is what counts.
            keys = [key for key, currency in self._currencies.items() if currency == row.currency]
            if fitting:
                best = max(fitting, key=lambda place: (place[9] == row.outcome, place[1]))
            elif keys:
                gpu, account_ns = max(keys, key=lambda key: (key[1] <= ended_ns, key[1]))
                best = (gpu, account_ns, gpu, *best[3:])
        return self._number((*best[:9], row.outcome or "error", *best[10:]))

    def _number(self, place: tuple[Any, ...]) -> int:
        number = self._ids.get(place)
        if number is None:
            number = self._ids[place] = self._next
            self._next += 1
            marks = ", ".join("?" * (1 + len(_PLACE)))
            self._connection.exec_driver_sql(
                f"INSERT INTO places (id, {', '.join(_PLACE)}) VALUES ({marks})", (number, *place)
            )
        return number


def _move_open(connection: Connection) -> None:
    kept = (
        "sidecar", "epoch", "sender", "upstream", "engine", "model", "tenant", "started_ns", "first_token_ns",
        "ended_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens", "progress_ns",
        "progress_tokens", "gpu_ns", "nano", "seen_ns", "currency", "unpriced",
    )  # fmt: skip
    names = ", ".join(kept)
    rows = connection.exec_driver_sql(f"SELECT id, {names} FROM requests_0004 WHERE settled = 0").all()
    marks = ", ".join("?" * (1 + len(kept)))
    if rows:
        connection.exec_driver_sql(
            f"INSERT INTO requests (id, {names}, seen_by, attempt, work_ns, energy_uj, metered_ns)"
            f" VALUES ({marks}, 'sidecar', 0, 0, 0, 0)",
            [(to_key(row[0]), *row[1:]) for row in rows],
        )
