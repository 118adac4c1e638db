"""Money as integer nano-units of a currency (1e-9): exact numbers in, exact splits out. No floats."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction

NANO = 1_000_000_000


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in proportion to `weights`, to the last unit: the parts sum to `total` (largest remainder method).

    Units left over go to the largest remainders, earlier places first, so equal input gives equal output. A place of
    weight 0 gets 0. Raises ValueError for a negative total or weight, and when no weight is positive.
    """
    whole = sum(weights)
    if total < 0 or whole <= 0 or min(weights) < 0:
        raise ValueError(f"cannot split {total} over weights {list(weights)[:8]}: they must be >= 0 and not all zero")
    if len(weights) == 1:
        return [total]
    parts = []
    remainders = []
    for weight in weights:
        part, remainder = divmod(total * weight, whole)
        parts.append(part)
        remainders.append(remainder)
    left = total - sum(parts)
    if left:
        for place in sorted(range(len(parts)), key=lambda i: -remainders[i])[:left]:  # the sort is stable
            parts[place] += 1
    return parts


def exact(value: object) -> Fraction:
    """The number as it was written in a configuration: text, integer, Decimal, or a float's shortest decimal form.

    Raises ValueError for anything that is not a finite number.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool | date) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        number = Decimal(str(value).strip().replace("_", ""))
    except InvalidOperation:
        raise ValueError(f"expected a number such as 2.49, got {value!r}") from None
    if not number.is_finite() or abs(number.adjusted()) > 30:
        raise ValueError(f"expected a finite number below 1e30, got {value!r}")
    return Fraction(number)


def to_nano(value: Fraction) -> int:
    """Whole nano-units of an amount, rounded half to even: for showing; bills are floored by the bill clock."""
    return round(value * NANO)
