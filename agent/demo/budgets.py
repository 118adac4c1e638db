"""The demo's budgets, as its configuration names them."""

from typing import Any

AMOUNTS: dict[str, tuple[float, float, float]] = {"CNY": (1300, 100, 2), "USD": (650, 50, 1)}
"""By currency, in whole units: a day of the whole node, a month of one tenant, any hour of another."""


def budgets(currency: str, day_amount: float | None = None) -> list[dict[str, Any]]:
    """Large enough for whatever the demo spends, if not for `day_amount`, that of the whole node's day."""
    day, month, hour = AMOUNTS[currency]
    return [
        {
            "name": "whole-node",
            "amount": day if day_amount is None else day_amount,
            "currency": currency,
            "period": "day",
        },
        {
            "name": "research",
            "amount": month,
            "currency": currency,
            "period": "month",
            "scope": {"tenant": "research"},
            "counts": "requests",
        },
        {
            "name": "search-hourly",
            "amount": hour,
            "currency": currency,
            "period": "1h",
            "scope": {"tenant": "search"},
            "counts": "requests",
            "mode": "warn",
        },
    ]
