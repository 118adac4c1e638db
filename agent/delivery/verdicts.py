"""One answer for a batch, item by item: what is stored, what is refused, what is wanted later. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from agent.core.ports import Paused, Rejected, Stored, TooLarge, TryLater, Verdict

Answer = Sequence[Verdict] | TryLater | TooLarge | Rejected | None


class SortedOut(NamedTuple):
    """Item numbers, 0 being the first of the batch. `asks` is the strongest wish to wait; None when there is none."""

    stored: dict[Stored, list[int]]
    refused: list[tuple[int, Rejected]]
    later: list[int]
    asks: TryLater | None


def sorted_out(verdicts: Sequence[Verdict]) -> SortedOut:
    """Each item to where it belongs, in order."""
    kinds = {verdict for verdict in set(verdicts) if isinstance(verdict, str)}
    stored = {kind: [n for n, verdict in enumerate(verdicts) if verdict == kind] for kind in kinds}
    refused: list[tuple[int, Rejected]] = []
    later: list[int] = []
    asks: TryLater | None = None
    if sum(map(len, stored.values())) == len(verdicts):
        return SortedOut(stored, refused, later, asks)
    for number, verdict in enumerate(verdicts):
        if isinstance(verdict, Rejected):
            refused.append((number, verdict))
        elif isinstance(verdict, TryLater):
            later.append(number)
            if asks is None or _patience(verdict) > _patience(asks):
                asks = verdict
    return SortedOut(stored, refused, later, asks)


def _patience(error: TryLater) -> tuple[bool, float]:
    return isinstance(error, Paused), error.after_seconds or 0.0


def not_one_each(answers: int, items: int) -> TryLater:
    """The destination answered for more or fewer items than it was given: all of them again."""
    return TryLater(f"answered for {answers} items of {items}: nobody knows which are stored")
