"""Rows of a price book in; what is likely a mistake in them out: units, overlaps, rows that never count.

Nothing here decides a price. A row that is refused outright (negative, not a number) does not get this far.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from agent.core.cost.book_checks import check_book, check_rate
from agent.core.cost.exchange import SINCE_EVER_NS, Exchange
from agent.core.cost.price_findings import Bought, Checked, Finding, shown, span, year
from agent.core.cost.price_ranges import Range, matches, models, per_dollar, range_of

YEAR_NS = 365 * 24 * 3600 * 1_000_000_000
GENERAL_PURPOSE_NS = 1_262_304_000 * 1_000_000_000  # 2010: no GPU of before serves language models
SLACK = 1.25  # beyond a range by so much, a price is worth a look; a unit mistake is further off
FAR = 4.0  # beyond a range by so much, it is an error
ENERGY_DOLLARS = (0.015, 0.7)  # a kilowatt hour: industry with its own plant to households in Europe
SERVERS = (2, 4, 8, 16)


def check_rows(rows: Sequence[Checked], exchange: Exchange, now_ns: int) -> list[Finding]:
    """Everything that looks wrong, in the order of the rows; what concerns the whole book comes last."""
    found: list[Finding] = []
    for row in rows:
        dollars = per_dollar(row.currency, exchange.at("USD", row.currency, max(now_ns, row.from_ns)))
        if dollars is None:
            text = f"the size of a {row.currency} is not known here, so units cannot be checked"
            advice = f"add a rate from USD to {row.currency} under `exchange`"
            if not any(f.text == text for f in found):
                found.append(Finding("note", row.where, text, advice))
        found += _check_row(row, dollars, now_ns)
    for rate in exchange.rates:
        found += check_rate(rate)
    return [*found, *check_book(rows, now_ns)]


def _check_row(row: Checked, dollars: float | None, now_ns: int) -> Iterator[Finding]:
    known, is_known = range_of(row.pattern)
    if not is_known and not set("*?[") & set(row.pattern) and any(matches(m, f"*{row.pattern}*") for m in models()):
        yield Finding(
            "warning", row.where, f"`{row.pattern}` is not how NVML names a GPU, so the row matches none",
            f"write the whole name, as nvidia-smi -L shows it, or `*{row.pattern}*`",
        )  # fmt: skip
        known, is_known = range_of(f"*{row.pattern}*")
    if row.per_gpu_hour is not None:
        yield from _check_hourly(row, known, is_known, dollars)
    if row.bought is not None:
        yield from _check_bought(row.where, row.bought, known, dollars)
    if row.from_ns > now_ns + 2 * YEAR_NS:
        yield Finding(
            "warning", row.where, f"takes effect in {year(row.from_ns)}, more than two years ahead", "check the year"
        )
    if SINCE_EVER_NS < row.from_ns < GENERAL_PURPOSE_NS:
        yield Finding(
            "warning", row.where, f"takes effect in {year(row.from_ns)}", "check the year; for `always` leave it out"
        )


# Prices by the hour

# What the figure may be instead; what it is divided by then; how much rarer that mistake is than the others.
_MISTAKES = (
    ("a price per month", 730.0, 1.0),
    ("a price per year", 8760.0, 1.3),
    ("the price of a whole server of 8", 8.0, 1.0),
    ("the price of a whole server of 4", 4.0, 1.3),
    ("the price of a whole server of 2", 2.0, 2.0),
    ("the price of a whole server of 16", 16.0, 3.0),
    ("the price of a server of 8 per month", 730.0 * 8, 2.0),
    ("the price of a server of 4 per month", 730.0 * 4, 2.5),
    ("an amount in hundredths (cents)", 100.0, 1.5),
    ("a price per second", 1 / 3600, 2.0),
    ("a price per minute", 1 / 60, 3.0),
    ("a price per day", 24.0, 3.0),
    ("a price per week", 168.0, 6.0),
)


def _check_hourly(row: Checked, known: Range, is_known: bool, dollars: float | None) -> Iterator[Finding]:
    assert row.per_gpu_hour is not None
    if row.per_gpu_hour == 0:
        yield Finding(
            "error", row.where, "the price is 0, so everything on these GPUs costs nothing",
            "leave the row out where the price is unknown; what is paid for otherwise has a `purchase`",
        )  # fmt: skip
        return
    if dollars is None:
        return
    price = float(row.per_gpu_hour) / dollars
    low, high = known.hour
    if low / SLACK <= price <= high * SLACK:
        return
    guesses = list(_guesses(price, known))
    off = price / high if price > high else low / price
    what = f"{shown(row.per_gpu_hour)} {row.currency} for a GPU hour is {'above' if price > high else 'below'} what "
    what += "these GPUs cost" if is_known else "any GPU costs"
    what += f" ({span(low, high, dollars)} {row.currency})"
    advice = "it looks like " + ", or ".join(guesses) if guesses else "expected the price of one GPU for one hour"
    is_error = off >= FAR and (bool(guesses) or off >= 5 * FAR)
    yield Finding("error" if is_error else "warning", row.where, what, advice)


def _guesses(price: float, known: Range) -> Iterator[str]:
    """What the figure may be instead, the likeliest first; at most three."""
    low, high = known.hour
    if price < 1e-4:
        yield "a price per token: this book prices GPU hours; tokens are priced from them"
        return
    middle = (low * high) ** 0.5
    fitting = []
    for name, by, rarity in _MISTAKES:
        if low <= price / by <= high:
            fitting.append((rarity * max(price / by / middle, middle / (price / by)), name))
    names = [name for _, name in sorted(fitting)]
    least, most = known.purchase
    for n in (1, *SERVERS):
        if least <= price / n <= most:
            names.insert(0, f"the purchase price of {'a GPU' if n == 1 else f'{n} GPUs'}: use `purchase`")
            break
    yield from names[:3]


# Purchases


def _check_bought(where: str, bought: Bought, known: Range, dollars: float | None) -> Iterator[Finding]:
    if bought.life_years > 10:
        months = 24 <= bought.life_years <= 84 and bought.life_years % 12 == 0
        advice = f"it looks like months: write {bought.life_years / 12}" if months else "expected years, such as 4"
        yield Finding("error" if months else "warning", where, f"a life of {shown(bought.life_years)} years", advice)
    elif bought.life_years < 1:
        yield Finding(
            "warning", where, f"a life of {shown(bought.life_years)} years", "expected years of use, such as 4"
        )
    if bought.salvage * 10 > bought.price * 6:
        share = round(float(bought.salvage / bought.price) * 100)
        advice = "`salvage` is what is left of `price` at the end of the life; expected less than half of it"
        yield Finding("warning", where, f"at the end {share} % of the price is left", advice)
    if bought.pue > Fraction(5, 2):
        yield Finding(
            "warning", where, f"a PUE of {shown(bought.pue)}", "expected 1.05 to 2; it multiplies the energy bill"
        )
    yield from _check_power(where, bought, known)
    if dollars is not None:
        yield from _check_energy(where, bought, dollars)
        yield from _check_purchase(where, bought, known, dollars)


def _check_power(where: str, bought: Bought, known: Range) -> Iterator[Finding]:
    watts = float(bought.power_watts)
    if watts == 0:
        return  # the energy is in another part of the price, or in somebody else's bill
    if watts < 20:
        yield Finding(
            "error", where, f"{shown(bought.power_watts)} watts for one GPU with its share of the server",
            "it looks like kilowatts: expected watts, such as 700",
        )  # fmt: skip
    elif watts > 3.5 * known.watts:
        whole = bought.gpus > 1 and watts / bought.gpus <= 3 * known.watts
        yield Finding(
            "error" if watts > 100_000 or whole else "warning", where,
            f"{shown(bought.power_watts)} watts for one GPU; its board is rated at {known.watts}",
            f"it looks like the power of all {bought.gpus}: divide it" if whole else "expected watts of one GPU",
        )  # fmt: skip
    elif watts < 0.4 * known.watts:
        text = f"{shown(bought.power_watts)} watts for one GPU; such boards are rated at up to {known.watts}"
        yield Finding("note", where, text, "rated power, with the GPU's share of the server, is what is expected")


def _check_energy(where: str, bought: Bought, dollars: float) -> Iterator[Finding]:
    low, high = ENERGY_DOLLARS
    if bought.power_watts and not any(bought.energy_per_kwh):
        text, advice = "there is power but no price of energy", "set `energy_price_per_kwh` or `electricity`"
        yield Finding("warning", where, text, advice)
        return
    for price in sorted(set(bought.energy_per_kwh)):
        usd = float(price) / dollars
        if price == 0 or low / SLACK <= usd <= high * SLACK:
            continue
        guess = ""
        for name, by in (("hundredths (cents)", 100), ("a price per megawatt hour", 1000)):
            guess = guess or (f"it looks like {name}" if low <= usd / by <= high else "")
        far = usd > high * FAR or usd < low / FAR
        text = f"{shown(price)} for a kilowatt hour; usual are {span(low, high, dollars)}"
        yield Finding("error" if far and guess else "warning", where, text, guess or "expected the price of 1 kWh")


def _check_purchase(where: str, bought: Bought, known: Range, dollars: float) -> Iterator[Finding]:
    low, high = known.purchase
    each = float(bought.price) / bought.gpus / dollars
    if low / 1.5 <= each <= high * 1.5:
        return
    guess = "expected what all `gpus` together cost"
    if each > high and bought.gpus == 1:
        fits = [n for n in SERVERS if low <= each / n <= high]
        middle = (low * high) ** 0.5
        best = min(fits, key=lambda n: max(each / n / middle, middle / (each / n)), default=None)
        guess = f"it looks like the price of {best} GPUs: set `gpus: {best}`" if best else guess
    elif each < low and bought.gpus > 1 and low <= each * bought.gpus <= high:
        guess = f"it looks like the price of one GPU: expected the price of all {bought.gpus}"
    if each > high and low <= each / 100 <= high:
        guess = "it looks like hundredths (cents)"
    elif each < low and low <= each * 10_000 <= high and each * bought.gpus < low:
        guess = "it looks like an amount in ten thousands: expected whole units"
    far = each > high * FAR or each < low / FAR
    text = f"{shown(bought.price / bought.gpus)} for each of {bought.gpus} GPUs; usual are {span(low, high, dollars)}"
    yield Finding("error" if far else "warning", where, text, guess)
