"""Values → the words and figures of the page, units included. What is not known is an em dash, never a zero."""

import math

ABSENT = "—"
_SYMBOLS = {"CNY": "¥", "USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
_THIN = "\u202f"  # narrow no-break space: keeps a figure and its unit on one line


def known(value: float | None) -> bool:
    """Whether there is a figure to show; NaN is what PromQL answers where there was no traffic."""
    return value is not None and math.isfinite(value)


def figure(value: float | None, unit: str = "") -> str:
    """Three significant digits, thousands grouped, e.g. ``1,240`` or ``3.42``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    size = abs(value)
    if size >= 100 or value == int(value):
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.095:
        text = f"{value:.2f}"
    else:
        text = f"{value:.2g}" if size >= 0.0001 else "<0.0001"
    return f"{text}{_THIN}{unit}" if unit else text


def percent(ratio: float | None) -> str:
    """``87 %``; one decimal below 10 %."""
    if ratio is None or not math.isfinite(ratio):
        return ABSENT
    value = ratio * 100
    digits = 1 if 0 < abs(value) < 9.95 else 0
    return f"{value:.{digits}f}{_THIN}%"


def gib(size_bytes: float | None, unit: str = "GiB") -> str:
    """Binary gigabytes with one decimal."""
    return ABSENT if size_bytes is None else f"{size_bytes / 2**30:.1f}{_THIN}{unit}".removesuffix(_THIN)


def seconds(value: float | None) -> str:
    """A latency: ``640 µs``, ``12 ms``, ``1.24 s``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value < 0.001:
        return f"{value * 1e6:.0f}{_THIN}µs"
    if value < 0.9995:
        return f"{value * 1000:.{1 if value < 0.01 else 0}f}{_THIN}ms"
    return f"{value:.{2 if value < 10 else 1}f}{_THIN}s"


def duration(value: float | None) -> str:
    """A span of time: ``42 s``, ``5 min``, ``3.5 h``, ``2.1 d``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value < 1:
        return seconds(value)
    for limit, divisor, unit in ((99.5, 1, "s"), (5970, 60, "min"), (172_800, 3600, "h")):
        if value < limit:
            return f"{value / divisor:.{1 if unit == 'h' and value < 35_000 else 0}f}{_THIN}{unit}"
    return f"{value / 86400:.1f}{_THIN}d"


def ago(age_seconds: float | None) -> str:
    """``just now``, ``42 s ago``."""
    if age_seconds is None:
        return "never"
    return "just now" if age_seconds < 2 else f"{duration(age_seconds)} ago"


def gpu_time(gpu_ns: int, of_ns: int | None = None) -> str:
    """GPU time in hours, minutes or seconds; with `of_ns` in the unit that suits that total, so that parts compare."""
    scale = (gpu_ns if of_ns is None else of_ns) / 1e9
    unit, name = (3600, "h") if scale >= 7200 else (60, "min") if scale >= 120 else (1, "s")
    value = gpu_ns / 1e9 / unit
    return f"{value:,.{0 if value >= 1000 else 1}f}{_THIN}GPU{_THIN}{name}"


def money(nano: int | float | None, currency: str | None, of_nano: int | None = None) -> str:
    """An amount with its currency, at least two decimals, more where it is small: ``¥0.00312``.

    With `of_nano` it has as many decimals as suit that total, so that the parts of a total line up.
    """
    if nano is None or currency is None:
        return ABSENT
    symbol = _SYMBOLS.get(currency, f"{currency}\u00a0")
    value = abs(nano) / 1e9
    sign = "−" if nano < 0 else ""
    scale, digits = (value, 3) if of_nano is None else (abs(of_nano) / 1e9, 4)
    places = 2
    if 0 < scale < 10 ** (digits - 4):
        # So many significant digits, but not past the nano-unit the books are kept in.
        places = min(9, digits - 1 - math.floor(math.log10(scale)))
    return f"{sign}{symbol}{value:,.{places}f}"
