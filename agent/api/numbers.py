"""Numbers as other programs expect them in text: Prometheus' sample values, exact money."""

import math
from decimal import Decimal

from agent.core.cost.report_forms import exact_text


def plain(value: float) -> str:
    """Shortest text that reads back as the same float, without an exponent, as Prometheus writes sample values."""
    special = _special(value)
    if special is not None:
        return special
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def scientific(value: float) -> str:
    """Shortest text with an exponent (``1e+00``), as Prometheus writes the values of alerts."""
    special = _special(value)
    if special is not None:
        return special
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    exponent = Decimal(repr(value)).adjusted() if value else 0
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{exponent:+03d}"


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return None


def money(nano: int | None) -> str | None:
    """Exact decimal text of an amount in nano-units, at least two places: 1_500_000_000 → ``1.50``."""
    return exact_text(nano)
