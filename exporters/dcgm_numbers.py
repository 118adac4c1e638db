"""Numbers in base units in, their text in NVIDIA's units out; None where a number is not known.

Whole numbers are written as such, what DCGM holds as a floating point number with six decimals.
"""

Text = str | None
MIB = 2**20
FIRST_WHOLE_BLANK = 0x7FFFFFFFFFFFFFF0  # DCGM's values for "unknown, not supported, not permitted" begin here,
FIRST_FLOAT_BLANK = 2.0**47  # and for floating point numbers here: no power or ratio is as large


def whole(value: float | None, scale: float = 1.0) -> Text:
    """A whole number, rounded; None for what DCGM would call blank."""
    if value is None or not _is_number(value) or not _is_number(value * scale):
        return None
    return str(value if isinstance(value, int) and scale == 1.0 else round(value * scale))


def _is_number(value: float) -> bool:
    return -FIRST_WHOLE_BLANK < value < FIRST_WHOLE_BLANK


def six(value: float | None) -> Text:
    """Six decimals, as C prints a double; None for what DCGM would call blank."""
    return f"{value:.6f}" if value is not None and -FIRST_FLOAT_BLANK < value < FIRST_FLOAT_BLANK else None


def mebibytes(value: int | None) -> Text:
    """Bytes as whole MiB, rounded down as DCGM does."""
    return whole(value // MIB) if value is not None and _is_number(value) else None


def percent(ratio: float | None) -> Text:
    """A ratio as a whole number of percent."""
    return whole(ratio, 100.0)


def megahertz(value: float | None) -> Text:
    """Hz as whole MHz."""
    return whole(value, 1e-6)


def flag(value: bool | None) -> Text:
    """1 or 0."""
    return None if value is None else str(int(value))
