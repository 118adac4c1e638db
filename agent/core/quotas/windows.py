"""A sliding window of counted amounts: charges in, the sum of the last `window_ns` out, never too small.

Amounts are kept in cells of `cell_ns`; a cell counts until its youngest instant is older than the window, so that in
any stretch of `window_ns` the real sum is at most what `total` said. It is too large for at most one cell's length.
"""

NS = 1_000_000_000
MINUTE_NS = 60 * NS


class Window:
    """Instants must not go back by more than a cell; memory is at most `window_ns` / `cell_ns` + 1 numbers."""

    __slots__ = ("_cells", "_keep", "at", "cell_ns", "sum", "window_ns")

    def __init__(self, window_ns: int = MINUTE_NS, cell_ns: int = NS) -> None:
        self.window_ns = window_ns
        self.cell_ns = cell_ns
        self._keep = -(-window_ns // cell_ns)
        self._cells: dict[int, int] = {}
        self.at = 0
        self.sum = 0  # as of the last instant it was asked about

    def total(self, now_ns: int) -> int:
        """What counts at `now_ns`."""
        at = now_ns // self.cell_ns
        if at > self.at:
            self.at = at
            oldest = at - self._keep
            cells = self._cells
            while cells and (first := next(iter(cells))) < oldest:
                self.sum -= cells.pop(first)
        return self.sum

    def add(self, now_ns: int, amount: int) -> int:
        """Count `amount` (>= 0) now; gives the mark to change it by."""
        if now_ns // self.cell_ns > self.at:
            self.total(now_ns)
        mark = self.at
        self._cells[mark] = self._cells.get(mark, 0) + amount
        self.sum += amount
        return mark

    def change(self, mark: int, by: int, now_ns: int) -> None:
        """What was counted under `mark` was more or less in truth. What has left the window is not given back."""
        if by >= 0:
            self.add(now_ns, by)
            return
        self.total(now_ns)
        given = min(-by, self._cells.get(mark, 0))
        if given:
            self._cells[mark] -= given
            self.sum -= given

    def wait_ns(self, now_ns: int, amount: int) -> int | None:
        """How long until `amount` has left the window by itself; None when it does not hold so much."""
        left = amount
        if left <= 0:
            return 0
        self.total(now_ns)
        for cell, counted in self._cells.items():
            left -= counted
            if left <= 0:
                return max(0, (cell + 1 + self._keep) * self.cell_ns - now_ns)
        return None
