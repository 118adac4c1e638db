"""The seams between stations, and the kinds of error that cross them.

ConfigError   the user must change a setting; the process ends with status 2
TryLater      a destination or source cannot answer now; the same items are offered again
Paused        a TryLater that waiting alone will not mend: a refused key, a read-only index; shown until it is over
TooLarge      the destination would take fewer or smaller items
Rejected      a destination will never take this item; it goes to the dead letters, counted
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

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


class Paused(TryLater):
    """Not until somebody mends something on the other side or in our settings. Asked again slowly."""


class TooLarge(Exception):
    """The destination refuses so much at once; it may take fewer or smaller items."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Rejected(Exception):
    """Never. The other side understood the item and refuses it for good."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Stored = Literal["delivered", "duplicate", "refused_kept"]
"""What became of an item at its destination: stored, there already, or kept by it apart (a failure store)."""

Verdict = Stored | TryLater | Rejected


class Exporter(Protocol[T_contra]):
    """One destination. `send` makes one attempt and returns when the destination has answered for the batch.

    None says that every item is delivered; otherwise one verdict for each item, in order. Raises `TryLater`,
    `Paused`, `TooLarge` or `Rejected` when one answer holds for the whole batch, and nothing else: anything else is a
    bug. Ends by itself within its timeout. Retrying, batching, accounting: `agent.delivery`.
    """

    name: str

    async def send(self, batch: Sequence[T_contra]) -> Sequence[Verdict] | None: ...
