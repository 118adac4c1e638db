"""Settlement steps in, rows out. Every function here runs inside one transaction of its caller."""

from typing import Any

from sqlalchemy import Connection, Executable, bindparam, delete, false, select, update

from agent.core.cost.accounts import Account
from agent.core.cost.calendar import MINUTE_NS
from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.ledger import moving
from agent.ledger.dialects import Many, insert
from agent.ledger.memory import Memory
from agent.ledger.places import Places, key_of
from agent.ledger.rollup import Eras, add_entries, roll
from agent.ledger.tables import DAY, HOUR, MINUTE, accounts, meters, node_state, price_segments, requests

Row = tuple[Any, ...]


def settle(connection: Connection, closed: Closed, memory: Memory, eras: Eras) -> None:
    """Write one settlement step. A step that is there already (its answer was lost) is left as it is."""
    moved = connection.execute(
        update(node_state)
        .where(node_state.c.step == closed.number - 1)
        .values(step=closed.number, through_ns=closed.through_ns)
    )
    state = connection.execute(select(node_state)).one()
    if moved.rowcount != 1:
        if state.step == closed.number:
            return
        raise RuntimeError(
            f"the ledger is at settlement step {state.step}, this process at {closed.number}: two writers?"
        )
    for account in closed.changed_accounts:
        _write_account(connection, account)
    _write_through(connection, closed)
    rolled = closed.from_ns // MINUTE_NS if state.rolled_minute is None else state.rolled_minute
    kept = (state.minutes_from, state.hours_from)
    _write_entries(connection, closed, memory.places, eras, rolled, kept)
    to = closed.through_ns // MINUTE_NS
    if to > rolled or state.rolled_minute is None:
        roll(connection, eras, rolled, max(rolled, to))
    _write_requests(connection, closed, memory)


def _write_account(connection: Connection, account: Account) -> None:
    connection.execute(
        update(accounts)
        .where(accounts.c.gpu == account.gpu, accounts.c.from_ns < account.from_ns)
        .values(is_open=False)
    )
    row = {
        "gpu": account.gpu,
        "from_ns": account.from_ns,
        "gpu_model": account.gpu_model,
        "currency": account.currency,
        "through_ns": account.from_ns,
        "is_open": True,
    }
    # There already: priced anew, or another currency took over before anything was booked.
    opened = insert(connection, accounts)
    opened = opened.on_conflict_do_update(
        index_elements=["gpu", "from_ns"], set_={"currency": opened.excluded.currency}
    )
    connection.execute(opened, [row])
    connection.execute(
        delete(price_segments).where(
            price_segments.c.gpu == account.gpu, price_segments.c.account_ns == account.from_ns
        )
    )
    if account.line is not None:
        connection.execute(
            insert(connection, price_segments),
            [
                {
                    "gpu": account.gpu,
                    "account_ns": account.from_ns,
                    "at_ns": at_ns,
                    "numerator": str(price.numerator),
                    "denominator": str(price.denominator),
                }
                for at_ns, price in account.line.segments
            ],
        )


def _account(values: dict[str, Any]) -> Executable:
    which = (accounts.c.gpu == bindparam("key")) & (accounts.c.from_ns == bindparam("begin"))
    return update(accounts).where(which).values(values)


_through = Many(("through", "key", "begin"), lambda _: _account({"through_ns": bindparam("through")}))
_retire = Many(("key", "begin"), lambda _: _account({"is_open": false()}))
_energy = Many(("more", "key", "begin"), lambda _: _account({"energy_uj": accounts.c.energy_uj + bindparam("more")}))


def _show(dialect: str) -> Executable:
    shown = insert(dialect, meters)
    new = {name: shown.excluded[name] for name in ("at_ns", "total_uj", "source")}
    return shown.values({column.name: bindparam(column.name) for column in meters.c}).on_conflict_do_update(
        index_elements=["gpu"], set_=new
    )


_meters = Many(("gpu", "at_ns", "total_uj", "source"), _show)


def _write_through(connection: Connection, closed: Closed) -> None:
    _through.run(connection, [(to, gpu, at) for (gpu, at), to in closed.accounts_through.items()])
    _retire.run(connection, closed.retired)
    _meters.run(connection, [(gpu, *reading) for gpu, reading in closed.meters.items()])
    _energy.run(connection, [(more, gpu, at) for (gpu, at), more in closed.energy.items() if more])


def _write_entries(
    connection: Connection, closed: Closed, places: Places, eras: Eras, rolled: int, kept: tuple[int, int]
) -> None:
    """Minutes, and where they are rolled up already, their hours and days too. What is forgotten is not begun anew."""
    numbers = places.ids(connection, (key_of(booking) for booking in closed.entries))
    minutes_from, hours_from = kept
    rows: list[Row] = []
    for booking, a in closed.entries.items():
        counts = (a.requests, a.input_tokens, a.input_cached_tokens, a.output_tokens)
        amounts = (a.gpu_ns, a.nano, *counts, a.work_ns, a.energy_uj, a.metered_ns)
        if not any(amounts):
            continue
        minute, place = booking.bucket_ns // MINUTE_NS, numbers[booking[1:]]
        if minute >= minutes_from:
            rows.append((MINUTE, minute, place, *amounts))
        if minute < rolled:
            hour = eras.hour(minute)[0]
            if hour >= hours_from:
                rows.append((HOUR, hour, place, *amounts))
            rows.append((DAY, eras.day(minute)[0], place, *amounts))
    add_entries.run(connection, rows)


_RUNNING = ("engine", "gpu_ns", "nano", "work_ns", "energy_uj", "metered_ns", "seen_ns", "currency", "unpriced")
_running = Many(
    (*(f"new_{name}" for name in _RUNNING), "key"),
    lambda _: (
        update(requests)
        .where(requests.c.id == bindparam("key"))
        .values({name: bindparam(f"new_{name}") for name in _RUNNING})
    ),
)


def _write_requests(connection: Connection, closed: Closed, memory: Memory) -> None:
    final = set(closed.settled)
    told = memory.requests.rows(connection)
    running: list[Row] = []
    settled: list[Live] = []
    for r in closed.requests.values():
        if r.id in final:
            settled.append(r)
            continue
        row = told.get(r.id)
        if row is None:
            continue  # nobody told of it: it has its entries only
        running.append(
            (r.engine, r.gpu_ns, r.nano, r.work_ns, r.energy_uj, r.metered_ns, r.seen_ns, r.currency, r.unpriced,
             row.key)
        )  # fmt: skip
    _running.run(connection, running)
    moving.settle(connection, settled, memory)
