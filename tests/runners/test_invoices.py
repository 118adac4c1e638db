"""An invoice that was imported into a real ledger beside the bill of it: by local day and SKU, to the nano-unit."""

from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import pytest

from agent.core.cost.calendar import Calendar
from agent.core.cost.invoices import BilledDay
from agent.core.cost.prices import HOUR_NS, Part, PriceBook, PriceRow
from agent.core.cost.variance import VarianceRow
from agent.ledger.invoices import import_days
from agent.ledger.ledger import Ledger
from agent.runners.invoices import Invoices
from agent.runners.settlement import Settlement
from tests.support.ledger import opened
from tests.support.money import MODEL, NS, HandClock, engine, expected_bill, gpus

ZONE = "Asia/Shanghai"
CALENDAR = Calendar(ZONE)
T0 = 1_800_000_000 * NS  # 16:00 in Shanghai
MIDNIGHT = CALENDAR.day_bounds(T0)[1]
END = MIDNIGHT + 2 * HOUR_NS
FIRST, SECOND = (CALENDAR.local_date(at).isoformat() for at in (T0, END))
PRICE = Fraction(25, 2)


def book(sku: str = "gpu.h100") -> PriceBook:
    return PriceBook("CNY", (PriceRow("NVIDIA H100*", (Part("rent", PRICE),), sku=sku),))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Two GPUs from 16:00 on, over midnight, until 2:00."""
    ledger = await opened(tmp_path / "ledger.sqlite", unix=T0, time_zone=ZONE)
    clock = HandClock(T0)
    settlement = Settlement(ledger, book(), "node-a", clock, watermark_seconds=0)
    while clock.at_ns < END:
        settlement.observe_gpus(gpus(clock.at_ns, 2))
        settlement.observe_engine(engine(clock.at_ns))
        clock.at_ns += 900 * NS
        await settlement.step()
    await settlement.drain()
    async with ledger:
        yield ledger


def invoices(ledger: Ledger, prices: PriceBook | None = None, through_ns: int | None = END) -> Invoices:
    return Invoices(ledger, prices or book(), CALENDAR, lambda: through_ns)


def billed(day: str, nano: int, sku: str = "GPU.H100 ", currency: str = "CNY") -> BilledDay:
    return BilledDay(source="march", day=day, sku=sku, currency=currency, nano=nano)


async def compared(found: Invoices) -> tuple[dict[tuple[str, str], VarianceRow], tuple[VarianceRow, ...]]:
    told = await found.variance(MIDNIGHT - 24 * HOUR_NS, MIDNIGHT + 24 * HOUR_NS)
    return {(row.day, row.sku): row for row in told.rows}, told.totals


async def test_each_local_day_and_sku_beside_the_invoice(ledger: Ledger) -> None:
    bill = {
        FIRST: 2 * expected_bill(T0, MIDNIGHT, PRICE),
        SECOND: 2 * (expected_bill(T0, END, PRICE) - expected_bill(T0, MIDNIGHT, PRICE)),
    }
    assert (FIRST, SECOND) == ("2027-01-15", "2027-01-16")
    import_days(ledger.path, [billed(FIRST, bill[FIRST] + 5), billed("2027-01-14", 9)], ZONE, END)
    import_days(ledger.path, [billed(FIRST, 3, "egress")], ZONE, END)
    rows, totals = await compared(invoices(ledger))
    assert {(row.billed_nano, row.ours_nano, row.difference_nano) for row in rows.values()} == {
        (bill[FIRST] + 5, bill[FIRST], 5),
        (3, None, None),
        (None, bill[SECOND], None),
    }
    (agreed,) = [row for row in rows.values() if row.difference_nano == 5]
    assert (agreed.day, agreed.sku.strip().casefold()) == (FIRST, "gpu.h100"), "by the price book's name for it"
    assert agreed.ratio == pytest.approx(1, abs=1e-9)
    assert "the day is not complete in our bill" in agreed.notes, "the agent began at 16:00"
    total = next(row for row in totals if row.sku == agreed.sku)
    assert (total.billed_nano, total.ours_nano) == (bill[FIRST] + 5, bill[FIRST])
    both = await ledger.reconcile()
    assert sum(bill.values()) == both.bill_nano


async def test_without_a_sku_in_the_book_it_is_the_models_name(ledger: Ledger) -> None:
    import_days(ledger.path, [billed(FIRST, 7, MODEL)], ZONE, END)
    rows, _ = await compared(invoices(ledger, book(sku="")))
    assert rows[FIRST, MODEL].billed_nano == 7
    assert rows[FIRST, MODEL].ours_nano is not None
    rows, _ = await compared(Invoices(ledger, None, CALENDAR, lambda: END))
    assert rows[FIRST, MODEL].billed_nano == 7


async def test_another_currency_is_never_converted(ledger: Ledger) -> None:
    import_days(ledger.path, [billed(FIRST, 7, "gpu.h100", "USD")], ZONE, END)
    found = await invoices(ledger).variance(MIDNIGHT - 24 * HOUR_NS, MIDNIGHT)
    assert {(row.currency, row.difference_nano) for row in found.rows} == {("CNY", None), ("USD", None)}


async def test_a_day_that_is_not_settled_to_its_end_says_so(ledger: Ledger) -> None:
    rows, _ = await compared(invoices(ledger, through_ns=MIDNIGHT + HOUR_NS))
    assert "the day is not complete in our bill" in rows[SECOND, "gpu.h100"].notes


def test_gpus_without_a_price_are_named_with_the_reason_once_for_each_model(tmp_path: Path) -> None:
    class Unused:
        """Findings need no ledger."""

    two_models = gpus(T0, 2)
    others = gpus(T0, 2, model="NVIDIA L4")
    seen = two_models.__class__(read_at_ns=T0, driver="ok", gpus=(*two_models.gpus, *others.gpus))
    found = Invoices(Unused(), book(), CALENDAR, lambda: None)  # type: ignore[arg-type]
    (missing,) = found.unpriced(seen, T0)
    assert (missing.name, missing.enabled) == ("prices of NVIDIA L4", False)
    assert missing.reason == "no row of the price book matches NVIDIA L4"
    assert list(found.unpriced(two_models, T0)) == []
    assert list(found.unpriced(None, T0)) == []
    assert list(Invoices(Unused(), None, CALENDAR, lambda: None).unpriced(seen, T0)) == []  # type: ignore[arg-type]
