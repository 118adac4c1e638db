from datetime import datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.accounts import open_account, reprice
from agent.core.cost.energy_prices import EnergyTariff, Period
from agent.core.cost.exchange import Exchange, Rate
from agent.core.cost.prices import (
    HOUR_NS,
    SINCE_EVER_NS,
    BillLine,
    Choice,
    EnergyUse,
    Part,
    PastChange,
    PriceBook,
    PriceRow,
    purchase_parts,
)

DAY_NS = 24 * HOUR_NS
T0 = 1_800_000_000 * 10**9


def row(pattern: str, per_hour: str, from_ns: int = SINCE_EVER_NS) -> PriceRow:
    return PriceRow(pattern, (Part("rent", Fraction(per_hour)),), from_ns)


def test_a_purchase_is_spread_over_its_life_and_energy_is_added() -> None:
    parts = purchase_parts(
        price=Fraction(1_000_000),
        gpus=8,
        life_years=Fraction(5),
        salvage=Fraction(124_000),
        power_watts=Fraction(1000),
        pue=Fraction("1.5"),
        energy_price_per_kwh=Fraction("0.8"),
    )
    assert {part.name: part.per_hour for part in parts} == {
        "purchase": Fraction(876_000, 8 * 5 * 8760),
        "energy": Fraction("1.2"),
    }
    assert sum(part.per_hour for part in parts) == Fraction("3.7")


@pytest.mark.parametrize(
    ("model", "per_hour"),
    [
        ("NVIDIA H100 80GB HBM3", 3),
        ("nvidia h100 80gb hbm3", 3),
        ("NVIDIA A100-SXM4-40GB", 2),
        ("NVIDIA A100-PCIE-40GB", 2),
        ("NVIDIA A100-SXM4-80GB", 1),  # only the last pattern matches
        ("Tesla T4", None),
    ],
)
def test_the_first_matching_pattern_decides(model: str, per_hour: int | None) -> None:
    book = PriceBook("CNY", [row("NVIDIA H100*", "3"), row("NVIDIA A100-*-40GB", "2"), row("NVIDIA *", "1")])
    price = book.price_at(model, T0)
    assert price == (None if per_hour is None else Fraction(per_hour * 10**9, HOUR_NS))
    assert (book.bill(model, T0, T0 + HOUR_NS)) == (None if per_hour is None else per_hour * 10**9)
    shown = book.shown(model, T0)
    assert (shown.nano_per_hour if shown else None) == (None if per_hour is None else per_hour * 10**9)


def test_prices_take_effect_at_their_instant() -> None:
    book = PriceBook("CNY", [row("x", "2", T0 + DAY_NS), row("x", "1")])
    assert book.bill("x", T0, T0 + 2 * DAY_NS) == 24 * 3 * 10**9
    later = book.shown("x", T0 + DAY_NS)
    assert later is not None
    assert later.nano_per_hour == 2 * 10**9
    assert later.effective_from == "2027-01-16T08:00:00Z"


def test_time_before_the_first_price_has_no_price() -> None:
    book = PriceBook("CNY", [row("x", "2", T0)])
    assert book.price_at("x", T0 - 1) is None
    assert book.bill("x", T0 - 1, T0 + 1) is None
    assert book.bill("x", T0, T0 + HOUR_NS) == 2 * 10**9
    assert book.priced_from("x", 5) == T0
    assert book.priced_from("y", 5) is None


@given(st.lists(st.fractions(0, 1000, max_denominator=997), min_size=1, max_size=6))
def test_shown_parts_add_up(amounts: list[Fraction]) -> None:
    parts = tuple(Part(f"p{i}", amount) for i, amount in enumerate(amounts))
    shown = PriceBook("CNY", [PriceRow("*", parts)]).shown("x", 0)
    assert shown is not None
    assert sum(part.nano_per_hour for part in shown.parts) == shown.nano_per_hour
    assert shown.effective_from == "always"


# Kinds, regions, currencies, electricity by time of day


def priced(pattern: str, per_hour: str, **fields: Any) -> PriceRow:
    return PriceRow(pattern, (Part("rent", Fraction(per_hour)),), **fields)


KINDS = PriceBook(
    "USD",
    [
        priced("A*", "2"),
        priced("A*", "1", kind="spot"),
        priced("A*", "3", kind="spot", from_ns=T0),
        priced("A1", "9", kind="reserved", sku="term-1", region="eu"),
        priced("A1", "8", kind="reserved", region="us"),
    ],
)


@pytest.mark.parametrize(
    ("choice", "prices"),
    [
        (Choice(), (2, 2)),
        (Choice("spot"), (1, 3)),
        (Choice("reserved"), (9, 9)),
        (Choice("reserved", "us"), (8, 8)),
        (Choice("reserved", "cn"), (None, None)),
        (Choice(region="cn"), (2, 2)),  # rows without a region hold everywhere
        (Choice(sku="term-1"), (9, 9)),
        (Choice("owned"), (None, None)),
    ],
)
def test_kind_region_and_sku_choose_among_rows(choice: Choice, prices: tuple[int | None, int | None]) -> None:
    for book in (
        PriceBook("USD", KINDS.rows, choice=choice),
        PriceBook("USD", KINDS.rows, choice=Choice("spot"), gpus={"GPU-7": choice}),
    ):
        gpu = "GPU-7" if book.gpus else "GPU-1"
        found = tuple(book.price_at("A1", at, gpu) for at in (T0 - 1, T0))
        assert found == tuple(None if price is None else Fraction(price * 10**9, HOUR_NS) for price in prices)
        assert bool(book.why_unpriced("A1", T0, gpu)) == (prices[0] is None)


def test_what_focus_and_invoices_call_it() -> None:
    book = PriceBook("USD", KINDS.rows, choice=Choice("reserved"))
    row = book.row_at("A1", T0)
    assert row is not None
    assert (row.pricing_category, row.sku, row.region) == ("Committed", "term-1", "eu")
    assert book.sku_of("A1", T0) == "term-1"
    assert KINDS.sku_of("A1", T0) == "A1"
    assert KINDS.sku_of("unknown", T0) == "unknown"
    assert {kind: priced("x", "1", kind=kind).pricing_category for kind in ("on_demand", "spot", "owned")} == {
        "on_demand": "Standard",
        "spot": "Dynamic",
        "owned": "Standard",
    }


def test_the_first_of_two_rows_of_one_instant_counts() -> None:
    book = PriceBook("USD", [priced("A", "1", sku="a"), priced("A", "2", sku="b")])
    assert book.price_at("A", T0) == Fraction(10**9, HOUR_NS)


EXCHANGE = Exchange([Rate("USD", "CNY", Fraction("7.1"), T0), Rate("USD", "CNY", Fraction("7.3"), T0 + DAY_NS)])


def test_a_price_in_another_currency_is_converted_at_the_rate_of_the_day() -> None:
    book = PriceBook("CNY", [row("A", "1")], others=[("USD", [row("A", "5"), row("B", "2")])], exchange=EXCHANGE)
    assert book.bill("A", T0, T0 + HOUR_NS) == 10**9
    assert book.bill("B", T0, T0 + DAY_NS) == 24 * 2 * 7_100_000_000
    assert book.bill("B", T0, T0 + 2 * DAY_NS) == 24 * 2 * (7_100_000_000 + 7_300_000_000)
    assert book.segments("B", T0 + DAY_NS) == [(T0 + DAY_NS, Fraction("14.6") * 10**9 / HOUR_NS)]
    assert book.priced_from("B", 0) == T0
    assert book.price_at("B", T0 - 1) is None
    shown = book.shown("B", T0)
    assert shown is not None
    assert (shown.currency, shown.nano_per_hour, shown.parts[0].nano_per_hour) == (
        "CNY",
        14_200_000_000,
        14_200_000_000,
    )
    assert "from 2027-01-15T08:00:00Z on" in (book.why_unpriced("B", T0 - 1) or "")


def test_without_a_rate_there_is_no_price_and_that_is_said() -> None:
    book = PriceBook("CNY", [], others=[("USD", [row("B", "2")])], exchange=Exchange([Rate("EUR", "CNY", Fraction(8))]))
    assert book.price_at("B", T0) is None
    assert book.segments("B", T0) == []
    assert book.bill("B", T0, T0 + 1) is None
    assert book.shown("B", T0) is None
    assert book.priced_from("B", T0) is None
    assert book.rows_of("B") == ()
    assert "no exchange rate from USD to CNY" in (book.why_unpriced("B", T0) or "")
    assert "no row of the price book matches C" in (book.why_unpriced("C", T0) or "")


def test_mig_profiles_are_parts_of_the_gpu() -> None:
    book = PriceBook("USD", [priced("A", "1", mig=(("1g.10gb", Fraction(1, 7)), ("3g.40gb", Fraction(1, 2))))])
    found = book.row_at("A", T0)
    assert found is not None
    assert found.mig_weight(" 1G.10gb") == Fraction(1, 7)
    assert found.mig_weight("2g.20gb") is None


NIGHT = EnergyTariff("Asia/Shanghai", Fraction(1), (Period(22 * 60, 8 * 60, Fraction("0.4")),))


def metered(from_ns: int = SINCE_EVER_NS, tariff: EnergyTariff = NIGHT) -> PriceRow:
    return PriceRow("A", (Part("purchase", Fraction(1)),), from_ns, kind="owned", energy=EnergyUse(Fraction(2), tariff))


def test_electricity_by_time_of_day_makes_segments_for_weeks() -> None:
    book = PriceBook("CNY", [metered()])
    segments = book.segments("A", T0)  # 16:00 in Shanghai
    assert segments[:3] == [
        (T0, 3 * Fraction(10**9, HOUR_NS)),
        (T0 + 6 * HOUR_NS, Fraction("1.8") * 10**9 / HOUR_NS),
        (T0 + 16 * HOUR_NS, 3 * Fraction(10**9, HOUR_NS)),
    ]
    assert 28 * 2 <= len(segments) <= 36 * 2
    extends = book.extends_at(T0)
    assert extends is not None
    assert T0 < extends <= T0 + 7 * DAY_NS
    assert segments[-1][0] - extends > 20 * DAY_NS
    # The next weeks: what was there stays, more is added.
    assert book.segments("A", T0 + DAY_NS)[-1] == segments[-1]
    longer = book.segments("A", extends)
    assert longer[-1][0] > segments[-1][0]
    assert [s for s in longer if extends < s[0] <= segments[-1][0]] == [s for s in segments if s[0] > extends]
    assert KINDS.extends_at(T0) is None
    shown = book.shown("A", T0 + 6 * HOUR_NS)
    assert shown is not None
    assert {part.name: part.nano_per_hour for part in shown.parts} == {"purchase": 10**9, "energy": 800_000_000}


def test_a_line_that_is_extended_week_by_week_bills_as_one_that_was_made_at_once() -> None:
    book = PriceBook("CNY", [metered(), metered(T0 + 20 * DAY_NS, EnergyTariff("UTC", Fraction(2)))])
    end = T0 + 400 * DAY_NS
    account = open_account(book, "GPU-0", "A", T0)
    at = T0
    while at < end:
        extends = book.extends_at(at)
        assert extends is not None
        at = min(extends, end)
        account = reprice(account, book, at)
    assert account.nano(T0, end) == book.bill("A", T0, end)
    assert reprice(account, book, at) is account


def test_a_row_that_was_edited_is_noticed() -> None:
    book = PriceBook("CNY", [row("A", "1"), row("A", "2", T0 + DAY_NS)])
    booked = book.segments("A", T0)
    through = T0 + 3 * DAY_NS
    assert book.changed_past("GPU-0", "A", booked, through) == []
    later = PriceBook("CNY", [*book.rows, row("A", "4", through)])
    assert later.changed_past("GPU-0", "A", booked, through) == []
    edited = PriceBook("CNY", [row("A", "1"), row("A", "3", T0 + DAY_NS), row("A", "9", T0 + 2 * DAY_NS)])
    one, two = Fraction(10**9, HOUR_NS), 2 * Fraction(10**9, HOUR_NS)
    assert edited.changed_past("GPU-0", "A", booked, through) == [
        PastChange("GPU-0", "A", T0 + DAY_NS, T0 + 2 * DAY_NS, two, 3 * one),
        PastChange("GPU-0", "A", T0 + 2 * DAY_NS, through, two, 9 * one),
    ]
    gone = PriceBook("CNY", [row("B", "1")])
    assert [change.book for change in gone.changed_past("GPU-0", "A", booked, through)] == [None, None]
    assert book.changed_past("GPU-0", "A", [], through) == []
    assert book.changed_past("GPU-0", "A", booked, T0) == []


@st.composite
def books(draw: st.DrawFn) -> tuple[PriceBook, list[PriceRow], dict[int, Fraction], int]:
    """A random book around T0, its rows, the rates that hold, and how many seconds to look at."""
    seconds = draw(st.integers(1, 5000))
    starts = draw(st.lists(st.integers(-1000, seconds), min_size=1, max_size=4, unique=True))
    starts[0] = -1000
    amounts = st.fractions(0, 50, max_denominator=9973)
    rows = []
    for start in starts:
        tariff = EnergyTariff(
            draw(st.sampled_from(["UTC", "Asia/Shanghai", "Asia/Kolkata"])),
            draw(amounts),
            tuple(
                Period(begin, (begin + length) % 1440, draw(amounts))
                for begin, length in draw(st.lists(st.tuples(st.integers(470, 580), st.integers(1, 90)), max_size=3))
            ),
        )
        energy = draw(st.sampled_from([None, EnergyUse(draw(amounts), tariff)]))
        rows.append(PriceRow("A*", (Part("rent", draw(amounts)),), T0 + start * 10**9, energy=energy))
    converted = draw(st.booleans())
    rates = {-(10**6): Fraction(1)}
    if converted:
        rates = {-(10**6): draw(st.fractions(1, 10, max_denominator=997))}
        rates[draw(st.integers(0, seconds))] = draw(st.fractions(1, 10, max_denominator=997))
    exchange = Exchange([Rate("USD", "CNY", rate, T0 + at * 10**9) for at, rate in rates.items()])
    if converted:
        return PriceBook("CNY", [row("B", "1")], others=[("USD", rows)], exchange=exchange), rows, rates, seconds
    return PriceBook("CNY", rows), rows, rates, seconds


@settings(max_examples=60, deadline=None)
@given(books(), st.integers(0, 10**9 - 1))
def test_the_bill_of_any_book_is_the_sum_of_its_seconds(
    made: tuple[PriceBook, list[PriceRow], dict[int, Fraction], int], more_ns: int
) -> None:
    book, rows, rates, seconds = made
    bill = Fraction()
    for second in range(seconds + 1):
        now = T0 + second * 10**9
        in_force = max((r for r in rows if r.from_ns <= now), key=lambda r: r.from_ns)
        per_hour = in_force.parts[0].per_hour
        if in_force.energy is not None:
            zone = ZoneInfo(in_force.energy.tariff.zone)
            wall = datetime.fromtimestamp(now // 10**9, zone)
            minute = wall.hour * 60 + wall.minute
            of_period = [
                p.per_kwh
                for p in in_force.energy.tariff.periods
                if (p.start_minute <= minute < p.end_minute)
                or (p.end_minute <= p.start_minute and not p.end_minute <= minute < p.start_minute)
            ]
            per_hour += in_force.energy.kilowatts * (of_period or [in_force.energy.tariff.per_kwh])[0]
        rate = rates[max(at for at in rates if at <= second)]
        length = 10**9 if second < seconds else more_ns
        bill += per_hour * rate * 10**9 * length / HOUR_NS
    end = T0 + seconds * 10**9 + more_ns
    expected = bill.numerator // bill.denominator
    assert book.bill("A1", T0, end) == expected
    assert BillLine(book.segments("A1", T0)).nano(end) == expected
