"""How far the ledger reaches, from its rows and its state."""

from agent.core.cost.closed import Amount
from agent.ledger.kept import read_kept
from tests.support.booked import M0, booked, forget, place


def test_what_there_is_to_read() -> None:
    rows = [(M0 + 5, place("gap"), Amount(1)), (M0 + 3000, place("gap"), Amount(1))]
    with booked(rows, rolled=M0 + 2000) as connection:
        kept = read_kept(connection)
        assert (kept.first, kept.end, kept.rolled) == (M0 - 480, M0 + 3001, M0 + 2000)  # the day begins at midnight
        forget(connection, M0 + 1000, M0 + 900)
        kept = read_kept(connection)
        assert (kept.minutes_from, kept.hours_from, kept.first) == (M0 + 1000, M0 + 900, M0 - 480)


def test_a_ledger_without_rows_reaches_nowhere() -> None:
    with booked() as connection:
        assert read_kept(connection)[:5] == (0, 0, 0, 0, 0)
    with booked([(M0, place("gap"), Amount(1))]) as connection:
        assert read_kept(connection)[:3] == (M0, M0 + 1, 0)
