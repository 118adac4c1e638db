"""Days of invoices and of our own bill in; what differs, by local day and SKU, and why, out."""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from agent.core.cost.calendar import Calendar
from agent.core.cost.invoices import BilledDay
from agent.core.cost.reports import Report


class OurDay(Struct, frozen=True, kw_only=True):
    """What we booked for one SKU and local day. `nano` None: there was no price.

    `gpu_ns` of GPU time, of which `unpriced_ns` had no price; `is_complete` is False while the day goes on, or where
    the agent began within it.
    """

    day: str
    sku: str
    currency: str | None
    nano: int | None
    gpu_ns: int = 0
    unpriced_ns: int = 0
    is_complete: bool = True


class VarianceRow(Struct, frozen=True, kw_only=True):
    """One SKU on one day (`day` '' in totals). None is not 0: nobody said anything.

    `difference_nano` is billed - ours; `ratio` is billed / ours, 1 where both agree.
    """

    day: str
    sku: str
    currency: str | None
    billed_nano: int | None
    ours_nano: int | None
    difference_nano: int | None
    ratio: float | None
    notes: tuple[str, ...] = ()


class Variance(Struct, frozen=True, kw_only=True):
    """Rows by day, SKU and currency; `totals` by SKU over the days that both sides have, and over all of them."""

    rows: tuple[VarianceRow, ...]
    totals: tuple[VarianceRow, ...]


def our_days(
    report: Report,
    calendar: Calendar,
    sku_of: Callable[[str, int, str], str],
    *,
    since_ns: int | None = None,
    through_ns: int | None = None,
) -> list[OurDay]:
    """A report by `gpu_model` and `gpu`, cut at local days (`edges`), as our side of the variance.

    `sku_of`: `PriceBook.sku_of`, asked for the beginning of each row. The ledger begins at `since_ns` and ends at
    `through_ns`; days beyond are not complete.
    """
    found = []
    for row in report.rows:
        model, gpu = row.group.get("gpu_model", ""), row.group.get("gpu", "")
        begins_within = since_ns is not None and row.start_ns < since_ns
        goes_on = through_ns is not None and row.end_ns > through_ns
        found.append(
            OurDay(
                day=calendar.local_date(row.start_ns).isoformat(),
                sku=sku_of(model, row.start_ns, gpu),
                currency=None if row.cost_nano is None else report.currency,
                nano=row.cost_nano,
                gpu_ns=row.gpu_ns,
                unpriced_ns=row.gpu_ns if row.cost_nano is None else 0,
                is_complete=not begins_within and not goes_on,
            )
        )
    return found


def variance(ours: Iterable[OurDay], billed: Iterable[BilledDay]) -> Variance:
    """Our bill beside the invoices, by local day and SKU. Sums are exact; amounts of two currencies never meet.

    SKUs are compared without regard to case and spaces around.
    """
    asked: dict[tuple[str, str, str], int] = {}
    corrected: set[tuple[str, str, str]] = set()
    names: dict[str, str] = {}
    for line in billed:
        key = (line.day, names.setdefault(_plain(line.sku), line.sku), line.currency)
        asked[key] = asked.get(key, 0) + line.nano
        if line.kind:
            corrected.add(key)
    booked: dict[tuple[str, str, str | None], list[OurDay]] = {}
    for day in ours:
        booked.setdefault((day.day, names.setdefault(_plain(day.sku), day.sku), day.currency), []).append(day)
    everything = {*asked, *booked}
    currencies: dict[tuple[str, str], set[str | None]] = {}
    for name, sku, currency in everything:
        currencies.setdefault((name, sku), set()).add(currency)
    rows = []
    for at in sorted(everything, key=lambda k: (k[0], k[1], k[2] or "")):
        others = currencies[at[0], at[1]] - {at[2]}
        rows.append(_row(at, asked, booked.get(at, []), at in corrected, others))
    return Variance(rows=tuple(rows), totals=tuple(_totals(rows)))


def _plain(sku: str) -> str:
    return sku.strip().casefold()


def _row(
    at: tuple[str, str, str | None],
    asked: dict[tuple[str, str, str], int],
    ours: Sequence[OurDay],
    is_corrected: bool,
    others: set[str | None],
) -> VarianceRow:
    day, sku, currency = at
    billed_nano = None if currency is None else asked.get((day, sku, currency))
    priced = [one.nano for one in ours if one.nano is not None]
    ours_nano = sum(priced) if priced else None
    notes = []
    elsewhere = sorted(other for other in others if other is not None)
    if currency is not None and elsewhere and (billed_nano is None or ours_nano is None):
        notes.append(f"the other side is in {', '.join(elsewhere)}: another currency is never converted here")
    elif billed_nano is None:
        notes.append("no line of an imported invoice for this day and SKU")
    elif not ours and None in others:
        notes.append("our GPU time of that day had no price")
    elif not ours:
        notes.append("nothing booked: the agent was not there, or the SKU has another name in the price book (`sku`)")
    if any(one.unpriced_ns or one.nano is None for one in ours):
        notes.append("some of our GPU time had no price")
    if any(not one.is_complete for one in ours):
        notes.append("the day is not complete in our bill")
    if is_corrected:
        notes.append("with corrections")
    return _compared(day, sku, currency, billed_nano, ours_nano, tuple(notes))


def _compared(
    day: str, sku: str, currency: str | None, billed: int | None, ours: int | None, notes: tuple[str, ...]
) -> VarianceRow:
    return VarianceRow(
        day=day,
        sku=sku,
        currency=currency,
        billed_nano=billed,
        ours_nano=ours,
        difference_nano=None if billed is None or ours is None else billed - ours,
        ratio=billed / ours if billed is not None and ours else None,
        notes=notes,
    )


def _totals(rows: Sequence[VarianceRow]) -> list[VarianceRow]:
    """By SKU and currency, over the days that both sides have; what only one side has is told in the notes."""
    found = []
    for sku, currency in sorted({(row.sku, row.currency) for row in rows}, key=lambda key: (key[0], key[1] or "")):
        mine = [row for row in rows if (row.sku, row.currency) == (sku, currency)]
        both = [row for row in mine if row.billed_nano is not None and row.ours_nano is not None]
        notes = [f"over {len(both)} {'day' if len(both) == 1 else 'days'} that both sides have"] if both else []
        for text, alone in (
            ("billed, without our bill", [r.billed_nano for r in mine if r.ours_nano is None and r.billed_nano]),
            ("ours, without an invoice", [r.ours_nano for r in mine if r.billed_nano is None and r.ours_nano]),
        ):
            if alone:
                notes.append(f"{len(alone)} more days {text}")
        billed = sum(row.billed_nano or 0 for row in both) if both else None
        ours = sum(row.ours_nano or 0 for row in both) if both else None
        found.append(_compared("", sku, currency, billed, ours, tuple(notes)))
    return found
