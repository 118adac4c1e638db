"""Values as people write them in price files in; exact numbers, instants and names out, or what is wrong with them."""

from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from agent.core.cost.money import exact


def _number(value: Any) -> Fraction:
    number = exact(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def _positive(value: Any) -> Fraction:
    number = _number(value)
    if number == 0:
        raise ValueError("must be greater than 0")
    return number


def _pue(value: Any) -> Fraction:
    number = exact(value)
    if not 1 <= number <= 10:
        raise ValueError("must be between 1 and 10: total power of the building / power of its computers")
    return number


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a date such as 2026-01-31 or an instant such as 2026-01-31T08:00:00Z") from None
    if isinstance(value, datetime):
        instant = value if value.tzinfo else value.replace(tzinfo=UTC)
    elif isinstance(value, date):
        instant = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        raise ValueError("expected a date such as 2026-01-31 (midnight UTC)")
    if instant.microsecond:
        raise ValueError("must be a whole second")
    return instant


def _part(value: Any) -> Fraction:
    """A part of a whole: 1/7, or 0.25."""
    if isinstance(value, str) and value.count("/") == 1:
        above, below = (exact(side) for side in value.split("/"))
        if below == 0:
            raise ValueError("must not be divided by 0")
        number = above / below
    else:
        number = exact(value)
    if not 0 < number <= 1:
        raise ValueError(f"expected a part of the GPU such as 1/7, more than 0 and at most 1, not {value!r}")
    return number


def _minute(value: Any) -> int:
    """Minutes after midnight. YAML reads 22:00 as the number 1320, and 08:00 as text."""
    if isinstance(value, str):
        hours, colon, minutes = value.partition(":")
        if colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2 and int(minutes) < 60:
            value = int(hours) * 60 + int(minutes)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 24 * 60:
        raise ValueError(f"expected a time of day such as 08:00, at most 24:00, not {value!r}")
    return value


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; expected an IANA name such as Asia/Shanghai") from error
    return name


Amount = Annotated[Fraction, BeforeValidator(_number)]
Positive = Annotated[Fraction, BeforeValidator(_positive)]
Part = Annotated[Fraction, BeforeValidator(_part)]
Minute = Annotated[int, BeforeValidator(_minute)]
TimeZone = Annotated[str, AfterValidator(_zone)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Pue = Annotated[Fraction, BeforeValidator(_pue)]
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
