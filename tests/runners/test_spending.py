from agent.core.cost.reports import Report, ReportQuery
from agent.runners.spending import TRIES, grown, read
from tests.support.budgets import FakeLedger

KEY = ("request", "acme", "m", "CNY")
QUERY = ReportQuery(start_ns=0, end_ns=1)


class Busy(FakeLedger):
    """Books something while it is asked, the first `times` times."""

    times = 1

    async def report(self, query: ReportQuery, /) -> Report:
        found = await super().report(query)
        if len(self.asked) <= self.times:
            self.book(0, 5)
        return found


async def test_a_report_during_which_something_was_booked_is_asked_again():
    ledger = Busy()
    found = await read(ledger, ledger.cost_nano, QUERY)
    assert (found.counters, found.report.total_cost_nano, len(ledger.asked)) == ({KEY: 5}, 5, 2)


async def test_what_is_booked_all_the_time_counts_twice_rather_than_never():
    ledger = Busy()
    ledger.times = 99
    found = await read(ledger, ledger.cost_nano, QUERY)
    assert len(ledger.asked) == TRIES
    assert found.counters[KEY] <= (found.report.total_cost_nano or 0) <= ledger.cost_nano[KEY]


def test_what_grew():
    other = ("request", "zeta", "m", "USD")
    assert list(grown({KEY: 5}, {KEY: 7, other: 3})) == [(KEY, 2), (other, 3)]
    assert list(grown({KEY: 5}, {KEY: 5})) == []
