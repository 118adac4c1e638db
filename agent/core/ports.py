"""The seams between stations, and the three kinds of error that cross them.

ConfigError   the user must change a setting; the process ends with status 2
TryLater      a destination or source cannot answer now; the same item is offered again
Rejected      a destination will never take this item; it goes to the dead letters, counted
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

T_contra = TypeVar("T_contra", contravariant=True)


class ConfigError(Exception):
    """A setting is wrong. `key` is its dotted path, `expected` says what would be right."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key}: {expected}")
        self.key = key
        self.expected = expected


class TryLater(Exception):
    """Not now. `after_seconds` is the earliest useful retry if the other side said so, else None."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_seconds = after_seconds


class Rejected(Exception):
    """Never. The other side understood the item and refuses it for good."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Exporter(Protocol[T_contra]):
    """One destination. `send` returns when the destination has confirmed every item of the batch.

    Raises `TryLater` or `Rejected`; anything else is a bug. Retrying, batching, accounting: `agent.delivery`.
    """

    name: str

    async def send(self, batch: Sequence[T_contra]) -> None: ...
