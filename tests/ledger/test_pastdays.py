"""Sums of past days: what reports read instead of rows, thrown away when such a day changes after all."""

import random
from typing import Any, get_args

import pytest
from sqlalchemy import Connection, func, select, update

from agent.core.cost.calendar import HOUR_NS, Calendar
from agent.core.cost.closed import Amount
from agent.core.cost.reports import Dimension, Report, ReportQuery, Term
from agent.ledger.pastdays import PastDays, past_days
from agent.ledger.reporting import report
from agent.ledger.tables import DAY, HOUR, MINUTE, entries
from tests.support.booked import M0, MINUTE_NS, T0, account, booked, place, random_rows
from tests.support.money import book

ZONE = "Europe/Berlin"
BERLIN = Calendar(ZONE)
DAYS = tuple(BERLIN.date_start(BERLIN.local_date(T0 + day * 24 * HOUR_NS)) // MINUTE_NS for day in range(6))
FOUND = (account(prices=book()), account("GPU-1", book(currency="USD")), account("GPU-2"))
MINUTES = 5 * 1440
ROLLED = M0 + MINUTES - 100  # in the afternoon of the last day


def filled(past: PastDays, connection: Connection, most: int = 100) -> list[int]:
    look = past.look()
    made = past.fill(connection, most)
    past.keep(look, made)
    return sorted(made)


def six_days(count: int = 300) -> Any:
    rows = random_rows(random.Random(7), count, MINUTES)
    return booked(rows, FOUND, through_ns=T0 + MINUTES * MINUTE_NS, zones=((0, ZONE),), rolled=ROLLED)


def ask(connection: Connection, past: PastDays | None, *aggregate: Dimension, **more: Any) -> Report:
    query = {"start_ns": T0 - 5 * HOUR_NS, "end_ns": T0 + 200 * HOUR_NS, "aggregate": aggregate, **more}
    return report(connection, ReportQuery(**query), "node-a", (), past)


def test_days_that_are_over_are_summed_up_newest_first_and_once() -> None:
    past = PastDays()
    with six_days() as connection:
        assert filled(past, connection, 2) == [*DAYS[3:5]]
        assert filled(past, connection) == [*DAYS[:3]]
        assert filled(past, connection) == []
        assert [day for day, _ in past.known(past.look())] == [*DAYS[:5]]
        rows = connection.execute(select(func.count()).select_from(past_days)).scalar_one()
        everything = select(func.count()).select_from(entries).where(entries.c.grain == DAY)
        assert 0 < rows < connection.execute(everything).scalar_one()
        assert filled(PastDays(), connection, 1) == [DAYS[4]]  # what another one left there is nobody's
        assert set(connection.execute(select(past_days.c.day)).scalars()) == {DAYS[4]}


@pytest.mark.parametrize("dimension", get_args(Dimension))
@pytest.mark.parametrize("basis", ["usage", "allocation"])
def test_reports_say_the_same_with_them_and_without(dimension: Dimension, basis: str) -> None:
    past = PastDays()
    edges = BERLIN.edges(T0 - 5 * HOUR_NS, T0 + 200 * HOUR_NS, "day")
    terms = (Term("tenant", "is_not", ("acme", "\0", "\ud800")), Term("state", "is", ("request", "gap")))
    with six_days() as connection:
        filled(past, connection)
        with past.changing(DAYS[3]):
            for more in ({}, {"edges": edges}, {"edges": edges, "filter": terms}, {"tenant": "zeta"}):
                plain = ask(connection, None, dimension, basis=basis, **more)
                assert ask(connection, past, dimension, basis=basis, **more) == plain
                assert ask(connection, past, dimension, "tenant" if dimension != "tenant" else "node", **more)


def test_they_are_what_is_read() -> None:
    """Rows of a day are spoilt behind its back: who reads the sums does not see it."""
    past = PastDays()
    with six_days() as connection:
        right = ask(connection, None, "tenant")
        filled(past, connection)
        over = (entries.c.grain == DAY) & (entries.c.minute < DAYS[5])
        finer = entries.c.grain.in_((HOUR, MINUTE)) & (entries.c.minute >= DAYS[0])
        connection.execute(update(entries).where(over | (finer & (entries.c.minute < DAYS[5]))).values(gpu_ns=0))
        start = {"start_ns": DAYS[0] * MINUTE_NS}
        assert ask(connection, past, "tenant", **start).total_gpu_ns == right.total_gpu_ns
        assert ask(connection, None, "tenant", **start).total_gpu_ns != right.total_gpu_ns
        assert ask(connection, past, "gpu", **start).total_gpu_ns != right.total_gpu_ns  # not told by GPU


def test_a_day_that_changes_is_read_from_its_rows_until_it_is_summed_up_again() -> None:
    past = PastDays()
    with six_days() as connection:
        filled(past, connection)
        before = past.look()
        with past.changing(DAYS[2] + 5):
            during = past.look()
            assert [day for day, _ in past.known(before)] == [*DAYS[:2]]
            assert [day for day, _ in past.known(during)] == [*DAYS[:2]]
            key = (entries.c.grain == DAY) & (entries.c.minute == DAYS[2])
            connection.execute(update(entries).where(key).values(gpu_ns=entries.c.gpu_ns + 1))
        # Who began before or during the change cannot know which side of it his rows are of.
        assert past.known(before) == past.known(during) == []
        assert [day for day, _ in past.known(past.look())] == [*DAYS[:2]]
        plain = ask(connection, None, "tenant")
        assert ask(connection, past, "tenant") == plain
        assert filled(past, connection) == [*DAYS[2:5]]
        assert ask(connection, past, "tenant") == plain


def test_what_was_summed_up_while_something_changed_does_not_count() -> None:
    past = PastDays()
    with six_days() as connection:
        look = past.look()
        made = past.fill(connection)
        with past.changing(DAYS[1]):
            pass
        past.keep(look, made)
        assert past.known(past.look()) == []
        with past.changing(DAYS[1]):
            look = past.look()
            past.keep(look, past.fill(connection))
            assert [day for day, _ in past.known(past.look())] == [DAYS[0]]
        assert [day for day, _ in past.known(past.look())] == [DAYS[0]]
        try:
            with past.changing(DAYS[0]):
                raise TimeoutError
        except TimeoutError:  # given up: it may be written all the same
            assert past.known(past.look()) == []


def test_a_young_or_empty_ledger_has_no_past() -> None:
    past = PastDays()
    with booked() as connection:
        assert filled(past, connection) == []
        assert ask(connection, past, "tenant").rows == ()
    with booked([(M0, place("gap"), Amount(1))], FOUND, rolled=M0 + 1) as connection:
        assert filled(past, connection) == []
