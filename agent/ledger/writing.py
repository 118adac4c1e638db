"""Settlement steps in, rows out. Every function here runs inside one transaction of its caller."""

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from agent.core.cost.accounts import Account
from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.ledger.tables import accounts, entries, node_state, price_segments, requests


def settle(connection: Connection, closed: Closed) -> None:
    """Write one settlement step. A step that is there already (its answer was lost) is left as it is."""
    moved = connection.execute(
        update(node_state)
        .where(node_state.c.step == closed.number - 1)
        .values(step=closed.number, through_ns=closed.through_ns)
    )
    if moved.rowcount != 1:
        step = connection.execute(select(node_state.c.step)).scalar()
        if step == closed.number:
            return
        raise RuntimeError(f"the ledger is at settlement step {step}, this process at {closed.number}: two writers?")
    for account in closed.changed_accounts:
        _write_account(connection, account)
    _write_through(connection, closed)
    _write_entries(connection, closed)
    _write_requests(connection, closed.requests.values(), set(closed.settled))


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
    opened = insert(accounts)
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
            insert(price_segments),
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


def _write_through(connection: Connection, closed: Closed) -> None:
    which = (accounts.c.gpu == bindparam("key")) & (accounts.c.from_ns == bindparam("begin"))
    if closed.accounts_through:
        connection.execute(
            update(accounts).where(which).values(through_ns=bindparam("through")),
            [{"key": gpu, "begin": at, "through": to} for (gpu, at), to in closed.accounts_through.items()],
        )
    if closed.retired:
        connection.execute(
            update(accounts).where(which).values(is_open=False),
            [{"key": gpu, "begin": at} for gpu, at in closed.retired],
        )


_new_entry = insert(entries)
_add_entry = _new_entry.on_conflict_do_update(
    index_elements=list(entries.primary_key.columns),
    set_={
        name: entries.c[name] + _new_entry.excluded[name]
        for name in ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
    },
)


def _write_entries(connection: Connection, closed: Closed) -> None:
    rows = [
        booking._asdict()
        | {
            "engine_group": booking.group,
            "gpu_ns": amount.gpu_ns,
            "nano": amount.nano,
            "requests": amount.requests,
            "input_tokens": amount.input_tokens,
            "output_tokens": amount.output_tokens,
        }
        for booking, amount in closed.entries.items()
    ]
    if rows:
        connection.execute(_add_entry, rows)


def _write_requests(connection: Connection, changed: Iterable[Live], settled: set[str]) -> None:
    rows = [
        {
            "key": request.id,
            "engine_name": request.engine,
            "ns": request.gpu_ns,
            "money": request.nano,
            "seen": request.seen_ns,
            "in_currency": request.currency,
            "no_price": request.unpriced,
            "is_settled": request.id in settled,
        }
        for request in changed
    ]
    if not rows:
        return
    statement = update(requests).where(requests.c.id == bindparam("key"))
    connection.execute(
        statement.values(
            engine=bindparam("engine_name"),
            gpu_ns=bindparam("ns"),
            nano=bindparam("money"),
            seen_ns=bindparam("seen"),
            currency=bindparam("in_currency"),
            unpriced=bindparam("no_price"),
            settled=bindparam("is_settled"),
        ),
        rows,
    )
