"""Our own bill beside invoices: everything once, and why sides differ."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import Calendar
from agent.core.cost.invoices import BilledDay
from agent.core.cost.prices import Choice, PriceBook, PriceRow
from agent.core.cost.reports import Report, ReportQuery, ReportRow
from agent.core.cost.variance import OurDay, our_days, variance

NS = 10**9
HOUR = 3600 * NS


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def billed(day: str, nano: int, sku: str = "h100", currency: str = "USD", **fields: Any) -> BilledDay:
    return BilledDay(source="i", day=day, sku=sku, currency=currency, nano=nano, **fields)


def ours(day: str, nano: int | None, sku: str = "h100", currency: str | None = "USD", **fields: Any) -> OurDay:
    return OurDay(day=day, sku=sku, currency=currency, nano=nano, **fields)


def test_both_sides_by_day_and_sku() -> None:
    found = variance(
        [ours("2026-03-01", 90), ours("2026-03-02", 100, "H100 "), ours("2026-03-01", 7, "l4")],
        [billed("2026-03-01", 60), billed("2026-03-01", 39), billed("2026-03-02", 100)],
    )
    first, second, third = found.rows
    assert (first.billed_nano, first.ours_nano, first.difference_nano, first.ratio) == (99, 90, 9, 1.1)
    assert (second.day, second.sku, third.day) == ("2026-03-01", "l4", "2026-03-02")
    assert (second.billed_nano, second.difference_nano, second.ratio) == (None, None, None)
    assert "no line of an imported invoice" in second.notes[0]
    assert (third.difference_nano, third.ratio, third.notes) == (0, 1.0, ())
    total, alone = found.totals
    assert (total.billed_nano, total.ours_nano, total.difference_nano) == (199, 190, 9)
    assert total.notes == ("over 2 days that both sides have",)
    assert alone.notes == ("1 more days ours, without an invoice",)


@pytest.mark.parametrize(
    ("our", "their", "note"),
    [
        ([], [billed("d", 1)], "the agent was not there, or the SKU has another name"),
        ([ours("d", None, currency=None, gpu_ns=9)], [billed("d", 1)], "our GPU time of that day had no price"),
        ([ours("d", 5, unpriced_ns=3)], [billed("d", 1)], "some of our GPU time had no price"),
        ([ours("d", 5, is_complete=False)], [billed("d", 1)], "not complete"),
        ([ours("d", 5)], [billed("d", 1, kind="correction")], "with corrections"),
        ([ours("d", 5, currency="CNY")], [billed("d", 1)], "the other side is in CNY"),
    ],
)
def test_notes_say_why(our: list[OurDay], their: list[BilledDay], note: str) -> None:
    assert any(note in told for row in variance(our, their).rows for told in row.notes)


def test_two_currencies_never_meet() -> None:
    found = variance([ours("d", 700, currency="CNY")], [billed("d", 100)])
    assert [(row.currency, row.billed_nano, row.ours_nano, row.difference_nano) for row in found.rows] == [
        ("CNY", None, 700, None),
        ("USD", 100, None, None),
    ]
    assert [(row.currency, row.difference_nano) for row in found.totals] == [("CNY", None), ("USD", None)]


def test_nothing_compared_with_nothing() -> None:
    assert variance([], []).rows == ()
    assert variance([ours("d", 0)], [billed("d", 0)]).rows[0].ratio is None


def test_a_report_by_days_is_our_side() -> None:
    begin, day = at("2026-02-28T16:00"), 24 * HOUR  # midnight in Shanghai
    cells = [(0, "H100", "GPU-0", 50), (0, "H100", "GPU-1", 40), (1, "H100", "GPU-0", 60), (1, "L4", "GPU-2", None)]
    rows = tuple(
        ReportRow(
            start_ns=begin + number * day,
            end_ns=begin + (number + 1) * day,
            group={"gpu_model": model, "gpu": gpu},
            gpu_ns=7,
            cost_nano=nano,
        )
        for number, model, gpu, nano in cells
    )
    report = Report(
        query=ReportQuery(start_ns=begin, end_ns=begin + 2 * day, aggregate=("gpu_model", "gpu")),
        currency="USD",
        rows=rows,
        total_gpu_ns=28,
        total_cost_nano=150,
    )
    priced = [PriceRow("H100", (), sku="p5"), PriceRow("H100", (), sku="old")]
    book = PriceBook("USD", priced, gpus={"GPU-1": Choice(sku="old")})
    days = our_days(report, Calendar("Asia/Shanghai"), book.sku_of, since_ns=begin + 1, through_ns=begin + 2 * day)
    assert [(d.day, d.sku, d.currency, d.nano, d.unpriced_ns, d.is_complete) for d in days] == [
        ("2026-03-01", "p5", "USD", 50, 0, False),
        ("2026-03-01", "old", "USD", 40, 0, False),
        ("2026-03-02", "p5", "USD", 60, 0, True),
        ("2026-03-02", "L4", None, None, 7, True),
    ]
    found = variance(days, [billed("2026-03-02", 66, "P5"), billed("2026-03-02", 5, "l4")])
    assert [(row.day, row.sku, row.difference_nano) for row in found.rows if row.difference_nano] == [
        ("2026-03-02", "P5", 6)
    ]
    assert "our GPU time of that day had no price" in [note for row in found.rows for note in row.notes]


amounts = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.integers(-(10**18), 10**18))


@given(st.lists(amounts, max_size=20), st.lists(amounts, max_size=20))
def test_rows_hold_everything_once(our: list[tuple[str, str, int]], their: list[tuple[str, str, int]]) -> None:
    found = variance([ours(d, n, s) for d, s, n in our], [billed(d, n, s) for d, s, n in their])
    assert sum(row.ours_nano or 0 for row in found.rows) == sum(nano for *_, nano in our)
    assert sum(row.billed_nano or 0 for row in found.rows) == sum(nano for *_, nano in their)
    differences = [row.difference_nano for row in found.rows if row.difference_nano is not None]
    assert sum(total.difference_nano or 0 for total in found.totals) == sum(differences)
