"""Values of price files: exact as they were written, and what cannot be is refused in words."""

from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agent.ledger.price_values import Amount, Currency, Instant, Minute, Part, Positive, Pue, TimeZone


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Amount, "0.1", Fraction(1, 10)),
        (Amount, 0.1, Fraction(1, 10)),  # as it was written, not as a float holds it
        (Amount, 0, Fraction(0)),
        (Positive, "1e-9", Fraction(1, 10**9)),
        (Pue, 1, Fraction(1)),
        (Part, "1/7", Fraction(1, 7)),
        (Part, "0.25", Fraction(1, 4)),
        (Part, 1, Fraction(1)),
        (Minute, "08:30", 510),
        (Minute, 1320, 1320),  # YAML reads 22:00 so
        (Minute, "24:00", 1440),
        (Instant, None, None),
        (Instant, "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        (Instant, date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        (Instant, "2026-01-31T08:00:00+08:00", datetime(2026, 1, 31, tzinfo=UTC)),
        (TimeZone, "Asia/Shanghai", "Asia/Shanghai"),
        (Currency, "CNY", "CNY"),
    ],
)
def test_what_can_be(kind: Any, written: Any, value: Any) -> None:
    assert TypeAdapter(kind).validate_python(written) == value


@pytest.mark.parametrize(
    ("kind", "written", "says"),
    [
        (Amount, -1, "must not be negative"),
        (Amount, "-0.01", "must not be negative"),
        (Amount, "nan", ""),
        (Amount, "inf", ""),
        (Amount, "cheap", ""),
        (Amount, True, ""),
        (Amount, None, ""),
        (Positive, 0, "must be greater than 0"),
        (Pue, "0.9", "between 1 and 10"),
        (Pue, 11, "between 1 and 10"),
        (Part, "0", "part of the GPU"),
        (Part, "8/7", "part of the GPU"),
        (Part, "1/0", "divided by 0"),
        (Minute, "24:01", "time of day"),
        (Minute, "8", "time of day"),
        (Minute, True, "time of day"),
        (Instant, "yesterday", "expected a date"),
        (Instant, 20260131, "expected a date"),
        (Instant, "2026-01-31T00:00:00.5Z", "whole second"),
        (TimeZone, "Mars/Olympus", "unknown time zone"),
        (TimeZone, "../../etc/passwd", "unknown time zone"),
        (Currency, "yuan", "pattern"),
    ],
)
def test_what_cannot_be(kind: Any, written: Any, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(written)
    assert says in str(refused.value)
