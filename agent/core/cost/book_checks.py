"""All rows of a price book in; what is likely a mistake between them out: order, kinds, jumps, beginnings, rates."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from agent.core.cost.exchange import Rate
from agent.core.cost.price_findings import Checked, Finding, shown
from agent.core.cost.price_ranges import PER_DOLLAR, matches, models
from agent.core.cost.prices import Kind


def check_book(rows: Sequence[Checked], now_ns: int) -> Iterator[Finding]:
    """What looks wrong of rows beside each other."""
    yield from _check_order(rows)
    yield from _check_kinds(rows)
    yield from _check_jumps(rows)
    yield from _check_starts(rows, now_ns)
    yield from _check_covered(rows)


def check_rate(rate: Rate) -> Iterator[Finding]:
    """An exchange rate that is upside down, or far from what is usual."""
    source, target = PER_DOLLAR.get(rate.source), PER_DOLLAR.get(rate.target)
    if source is None or target is None:
        return
    usual = target / source
    off = float(rate.rate) / usual
    if 0.5 <= off <= 2:
        return
    turned = 0.5 <= float(1 / rate.rate) / usual <= 2
    yield Finding(
        "error" if turned else "warning", f"exchange {rate.source} to {rate.target}",
        f"1 {rate.source} = {shown(rate.rate)} {rate.target}; usual is about {usual:.3g}",
        "it is upside down: swap `from` and `to`" if turned else "expected what one unit of `from` is worth in `to`",
    )  # fmt: skip


def _check_order(rows: Sequence[Checked]) -> Iterator[Finding]:
    """Rows that an earlier, wider pattern takes everything from."""
    for at, row in enumerate(rows):
        for before in rows[:at]:
            same = (before.currency, before.kind, before.region) == (row.currency, row.kind, row.region)
            if same and before.pattern.casefold() != row.pattern.casefold() and _covers(before.pattern, row.pattern):
                yield Finding(
                    "warning", row.where, f"never counts: `{before.pattern}` comes before and matches the same models",
                    "put the narrower pattern first",
                )  # fmt: skip
                break


def _covers(wide: str, narrow: str) -> bool:
    samples = ("", "x", "longer text 80GB")
    return all(matches(narrow.replace("*", text).replace("?", "q"), wide) for text in samples)


def _check_kinds(rows: Sequence[Checked]) -> Iterator[Finding]:
    """Spot or reserved that is dearer than on demand; regions that nobody chooses between."""
    first: dict[tuple[str, str, str, Kind], Checked] = {}
    regions: dict[tuple[str, str, Kind], set[str]] = {}
    for row in rows:
        if row.per_gpu_hour is not None:
            first.setdefault((row.currency, row.pattern, row.region, row.kind), row)
            regions.setdefault((row.currency, row.pattern, row.kind), set()).add(row.region)
    for (currency, pattern, region, kind), row in first.items():
        dear = first.get((currency, pattern, region, "on_demand"))
        if dear is None or row.per_gpu_hour is None or dear.per_gpu_hour is None or kind not in ("spot", "reserved"):
            continue
        if row.per_gpu_hour > dear.per_gpu_hour:
            text = f"{kind} costs more than on demand ({shown(row.per_gpu_hour)} > {shown(dear.per_gpu_hour)})"
            yield Finding("warning", row.where, text, "check that both are prices of one GPU for one hour")
    several = sorted({pattern for (_, pattern, _), names in regions.items() if len(names - {""}) > 1})
    if several:
        text = f"{_list(several)}: prices for several regions, of which the first counts"
        yield Finding("note", "the book", text, "set `prices.region`")


def _check_jumps(rows: Sequence[Checked]) -> Iterator[Finding]:
    last: dict[tuple[str, str, Kind, str, str], Checked] = {}
    for row in sorted(rows, key=lambda r: r.from_ns):
        key = (row.currency, row.pattern, row.kind, row.region, row.sku)
        before = last.get(key)
        last[key] = row
        if before is None or not before.per_gpu_hour or not row.per_gpu_hour:
            continue
        factor = float(row.per_gpu_hour / before.per_gpu_hour)
        if not 0.2 < factor < 5:
            text = f"the price changes from {shown(before.per_gpu_hour)} to {shown(row.per_gpu_hour)} at once"
            yield Finding("warning", row.where, text, "check that both are prices of one GPU for one hour")


def _check_starts(rows: Sequence[Checked], now_ns: int) -> Iterator[Finding]:
    first: dict[tuple[str, str, Kind, str], Checked] = {}
    for row in sorted(rows, key=lambda r: r.from_ns):
        first.setdefault((row.currency, row.pattern, row.kind, row.region), row)
    for row in first.values():
        if row.from_ns > now_ns:
            day = datetime.fromtimestamp(row.from_ns // 1_000_000_000, UTC).date().isoformat()
            text = f"is the first price of `{row.pattern}` ({row.kind}), and takes effect on {day} only"
            yield Finding("warning", row.where, text, "add a row for the time before, or that time has no price")


def _check_covered(rows: Sequence[Checked]) -> Iterator[Finding]:
    missing = [name for name in models() if not any(matches(name, row.pattern) for row in rows)]
    if rows and missing:
        text = f"no row for {_list(missing)}: their time is counted, their cost unknown"
        yield Finding("note", "the book", text, "add rows for those this node has")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
