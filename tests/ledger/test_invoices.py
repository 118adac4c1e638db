"""Invoices into a ledger that an agent has open: once, corrected by new rows, and refused whole or not at all."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from agent.core.cost.invoices import BilledDay
from agent.core.ports import ConfigError, TryLater
from agent.ledger.invoices import Differs, Import, import_days, read_days
from agent.ledger.ledger import Ledger
from agent.ledger.schema import HEAD, connect

NOW = 1_800_000_000 * 10**9


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """The ledger of an agent that is running."""
    file = tmp_path / "ledger.sqlite"
    ledger = await Ledger.open(file, "node")
    yield file
    ledger.close()


def day(nano: int, date: str = "2026-03-01", sku: str = "h100", source: str = "march", **fields: object) -> BilledDay:
    return msgspec.structs.replace(
        BilledDay(source=source, day=date, sku=sku, currency="USD", nano=nano, line=2), **fields
    )


def there(path: Path) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    engine = connect(path, read_only=True)
    with engine.begin() as connection:
        for one in read_days(connection, "2026-03-01", "2026-03-31"):
            found[one.source, one.day] = found.get((one.source, one.day), 0) + one.nano
    engine.dispose()
    return found


async def test_importing_twice_changes_nothing(path: Path) -> None:
    days = [day(5), day(7, "2026-03-02"), day(-1, kind="correction"), day(2, "2026-04-01")]
    assert import_days(path, days, "UTC", NOW) == Import(added=4, same=0, corrected=0, nano={"USD": 13})
    assert import_days(path, days, "UTC", NOW + 1) == Import(added=0, same=3, corrected=0, nano={})
    assert there(path) == {("march", "2026-03-01"): 4, ("march", "2026-03-02"): 7}
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT line, time_zone, kind, imported_ns FROM invoices ORDER BY nano").fetchall()
    connection.close()
    assert rows[0] == (2, "UTC", "correction", NOW)
    assert len(rows) == 4


async def test_more_days_of_the_same_invoice_are_added(path: Path) -> None:
    import_days(path, [day(5)], "UTC", NOW)
    done = import_days(path, [day(5), day(6, "2026-03-02"), day(9, sku="l4")], "UTC", NOW)
    assert (done.added, done.same) == (2, 1)


async def test_another_amount_is_refused_unless_it_corrects(path: Path) -> None:
    import_days(path, [day(5), day(6, "2026-03-02"), day(7, "2026-03-03")], "UTC", NOW)
    with pytest.raises(Differs) as refused:
        import_days(path, [day(8), day(1, "2026-03-04")], "UTC", NOW)
    assert (refused.value.days, refused.value.first.day, refused.value.before_nano) == (1, "2026-03-01", 5)
    assert sum(there(path).values()) == 18
    new = [day(3), day(6, "2026-03-02"), day(1, "2026-03-04")]
    done = import_days(path, new, "UTC", NOW, corrects=True)
    assert done == Import(added=1, same=1, corrected=2, nano={"USD": 1 - 2 - 7})
    assert there(path) == {("march", f"2026-03-0{at}"): nano for at, nano in ((1, 3), (2, 6), (3, 0), (4, 1))}
    assert import_days(path, new, "UTC", NOW, corrects=True).corrected == 0
    # And once more, back again: a correction of a correction is a row of its own.
    assert import_days(path, [day(5), *new[1:]], "UTC", NOW, corrects=True).corrected == 1
    assert there(path)["march", "2026-03-01"] == 5


async def test_two_invoices_do_not_touch_each_other(path: Path) -> None:
    import_days(path, [day(5)], "UTC", NOW)
    import_days(path, [day(9, source="other")], "UTC", NOW, corrects=True)
    assert there(path) == {("march", "2026-03-01"): 5, ("other", "2026-03-01"): 9}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.integers(1, 5), st.integers(-(10**12), 10**12), min_size=1), max_size=5))
async def test_the_last_truth_is_what_the_rows_add_up_to(path: Path, truths: list[dict[int, int]]) -> None:
    for truth in truths:
        days = [day(nano, f"2026-03-0{date}", source="truth") for date, nano in truth.items()]
        import_days(path, days, "UTC", NOW, corrects=True)
        found = {int(date[-1]): nano for (source, date), nano in there(path).items() if source == "truth" and nano}
        assert found == {date: nano for date, nano in truth.items() if nano}


async def test_exact_quantities_come_back(path: Path) -> None:
    from fractions import Fraction

    import_days(path, [day(5, quantity=Fraction(73, 3), unit="Hours")], "Asia/Shanghai", NOW)
    engine = connect(path, read_only=True)
    with engine.begin() as connection:
        (found,) = read_days(connection, "2026-03-01", "2026-03-01")
        assert read_days(connection, "2026-03-02", "2026-03-31") == []
    engine.dispose()
    assert (found.quantity, found.unit, found.line) == (Fraction(73, 3), "Hours", 2)


async def test_a_ledger_that_another_process_keeps_locked(path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TryLater, match=r"database is locked.*nothing was imported"):
            import_days(path, [day(5)], "UTC", NOW, lock_seconds=0.05)
        holder.execute("ROLLBACK")
    finally:
        holder.close()
    assert import_days(path, [day(5)], "UTC", NOW).added == 1


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no ledger at .*--data-dir"):
        import_days(tmp_path / "ledger.sqlite", [day(5)], "UTC", NOW)
    assert list(tmp_path.iterdir()) == []  # none is made
    empty = tmp_path / "empty.sqlite"
    create_engine(f"sqlite:///{empty}").connect().close()
    empty.touch()
    with pytest.raises(ConfigError, match="is no ledger yet; start `engineroom run`"):
        import_days(empty, [day(5)], "UTC", NOW)
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to be looked at " * 40)
    with pytest.raises(ConfigError, match="cannot be used as a ledger"):
        import_days(text, [day(5)], "UTC", NOW)


@pytest.mark.parametrize(
    ("version", "told"),
    [("0004", f"of schema 0004; restart `engineroom run`, which brings it to {HEAD}"), ("9999", "newer")],
)
async def test_a_ledger_of_another_version_is_left_alone(path: Path, version: str, told: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()
    with pytest.raises(ConfigError, match=told):
        import_days(path, [day(5)], "UTC", NOW)
