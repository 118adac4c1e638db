"""Amounts and arrays of weights in; the same exact splits as `money.split`, for thousands of places at once, out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.cost.money import split

Ints = NDArray[np.int64]
LIMIT = 1 << 63  # of int64
_FEW = 32  # below, plain integers are faster than arrays


class Runs:
    """Weights of many places in runs that follow each other; every run is split for itself.

    `starts`: where each run begins, ascending from 0, none empty. Every run has a positive sum, no weight is negative.
    """

    __slots__ = ("_at", "_left_of", "_most", "_whole", "_wholes", "starts", "weights")

    def __init__(self, weights: Ints, starts: Ints) -> None:
        self.weights = weights
        self.starts = starts
        self._most = int(weights.max())
        self._wholes: Ints | None = None
        if self._most * len(weights) >= LIMIT:
            return
        lengths = np.diff(np.append(starts, len(weights)))
        self._at: Ints = np.repeat(np.arange(len(starts)), lengths)  # run of each place
        self._wholes = np.add.reduceat(weights, starts)
        self._whole: Ints = self._wholes[self._at]
        self._left_of: Ints = np.arange(len(weights)) - starts[self._at]  # number of each place in its run

    def sums(self) -> list[int]:
        """Sum of the weights of each run."""
        found: list[int] = np.add.reduceat(self.weights, self.starts).tolist()
        return found

    def split(self, totals: Sequence[int]) -> Ints:
        """Each total over its run, by largest remainder: as `money.split` of each. Totals and sums fit 64 bits."""
        if self._wholes is None or max(totals) * self._most >= LIMIT:
            return self._split_slowly(totals)
        amounts = np.array(totals, dtype=np.int64)
        products = amounts[self._at] * self.weights
        parts: Ints = products // self._whole
        left = amounts - np.add.reduceat(parts, self.starts)
        if left.any():
            parts[self._largest(products - parts * self._whole, left)] += 1
        return parts

    def _largest(self, remainders: Ints, left: Ints) -> Ints:
        """Places of the `left` largest remainders of each run; of equal ones the earlier."""
        count = len(remainders)
        low = (count - 1).bit_length()
        middle = int(self._whole.max()).bit_length()
        if low + middle + len(left).bit_length() < 63:
            # Run, remainder (the largest first) and place in one number: one sort of plain numbers, no ties.
            keys: Ints = (((self._at << middle) + (self._whole - 1 - remainders)) << low) + np.arange(count)
            keys.sort()
            order = keys & ((1 << low) - 1)
        else:
            order = np.lexsort((-remainders, self._at))
        found: Ints = order[self._left_of < left[self._at]]
        return found

    def _split_slowly(self, totals: Sequence[int]) -> Ints:
        weights: list[int] = self.weights.tolist()
        ends = [*self.starts.tolist()[1:], len(weights)]
        found: list[int] = []
        for total, start, end in zip(totals, self.starts.tolist(), ends, strict=True):
            found += split(int(total), weights[start:end])
        return np.array(found, dtype=np.int64)


def split_array(total: int, weights: Ints) -> Ints:
    """`money.split` of an array."""
    return Runs(weights, np.zeros(1, dtype=np.int64)).split((total,))


def split_list(total: int, weights: Sequence[int]) -> list[int]:
    """`money.split`, faster where there are many weights."""
    if len(weights) < _FEW or max(weights) >= LIMIT or total >= LIMIT:
        return split(total, weights)
    found: list[int] = split_array(total, np.array(weights, dtype=np.int64)).tolist()
    return found
