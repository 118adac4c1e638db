"""Scrapes of one source in, columns of values out: a ring of rows in one array."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.metrics.matchers import Matcher
from agent.core.metrics.samples import Labels, Sample, SeriesKey

STALE_BITS = 0x7FF0000000000002  # Prometheus' stale marker
HOLE_BITS = 0x7FF0000000000003  # ours: this series has no sample in this row
STALE = np.array([STALE_BITS], dtype=np.int64).view(np.float64)[0]
HOLE = np.array([HOLE_BITS], dtype=np.int64).view(np.float64)[0]

_FIRST_ROWS = 32
_FEW_ROWS = 8
_COLUMN_CHUNK = 32
_SERIES_OVERHEAD = 400  # estimate: key, label tuple, entries in two dictionaries
_CACHED_SELECTIONS = 256


def full_labels(key: SeriesKey) -> Labels:
    """Labels of a series with its name among them, sorted."""
    return tuple(sorted((("__name__", key.name), *key.labels))) if key.name else key.labels


class Block:
    """All series of one source: a ring of rows (`_first` is the oldest); columns are used again when a series goes."""

    def __init__(self, retention_ms: int) -> None:
        self.rows = 0
        self.room = 0  # bytes this block may have in all; set by the owner before each append
        self._retention_ms = retention_ms
        self._first = 0
        self._times: NDArray[np.int64] = np.zeros(_FIRST_ROWS, dtype=np.int64)
        self._counts: NDArray[np.int64] = np.zeros(_FIRST_ROWS, dtype=np.int64)  # samples in each row
        self._bits: NDArray[np.int64] = np.zeros((_FIRST_ROWS, 0), dtype=np.int64)
        self._seen: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # last sample of each column
        self._columns: dict[SeriesKey, int] = {}
        self._labels: dict[int, Labels] = {}
        self._names: dict[str, dict[int, None]] = {}
        self._free: list[int] = []
        self._width = 0  # columns ever used, also the freed ones
        self._last_keys: list[SeriesKey] | None = None
        self._last_columns: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._last_positions: NDArray[np.int64] | None = None
        self._found: dict[tuple[Matcher, ...], tuple[NDArray[np.int64], list[Labels]]] = {}
        self._shortened = 0

    @property
    def bytes(self) -> int:
        """What this block holds: the arrays, and an estimate for keys and indexes."""
        return self._bits.nbytes + self._times.nbytes + self._seen.nbytes + len(self._columns) * _SERIES_OVERHEAD

    @property
    def series(self) -> int:
        """Series with a column."""
        return len(self._columns)

    @property
    def samples(self) -> int:
        """Samples held, without stale markers and holes."""
        return int(self._counts[self._row_numbers(0, self.rows)].sum())

    @property
    def oldest_ms(self) -> int:
        """Instant of the oldest row; only where there are rows."""
        return int(self._times[self._first])

    @property
    def newest_ms(self) -> int:
        """Instant of the newest row; only where there are rows."""
        return int(self._times[(self._first + self.rows - 1) % len(self._times)])

    def append(self, at_ms: int, samples: Sequence[Sample]) -> tuple[int, int]:
        """One row. Returns how many series were refused for want of room, and how many samples came twice."""
        keys = [sample[0] for sample in samples]
        refused = duplicates = 0
        if keys != self._last_keys:  # mostly the very same objects as last time, so this is cheap
            refused, duplicates = self._map(keys)
        row = self._next_row(at_ms)
        values = np.array([sample[1] for sample in samples], dtype=np.float64)
        if self._last_positions is not None:
            values = values[self._last_positions]
        bits = values.view(np.int64)
        odd = np.isnan(values) & (bits != STALE_BITS)
        if odd.any():
            values[odd] = np.nan  # a NaN of someone else's must not look like one of ours
        target = self._bits[row]
        if self.rows > 1:
            before = self._bits[(row - 1) % len(self._times)]
            target[:] = np.where((before == HOLE_BITS) | (before == STALE_BITS), HOLE_BITS, STALE_BITS)
        else:
            target[:] = HOLE_BITS
        target[self._last_columns] = bits
        self._seen[self._last_columns] = at_ms
        self._counts[row] = len(bits) - np.count_nonzero(bits == STALE_BITS)
        return refused, duplicates

    def take_shortened(self) -> int:
        """Samples that went before their time since the last call, because there was no room for more rows."""
        count, self._shortened = self._shortened, 0
        return count

    def find(self, matchers: tuple[Matcher, ...]) -> tuple[NDArray[np.int64], list[Labels]]:
        """Columns of the series that satisfy all matchers, and their labels."""
        found = self._found.get(matchers)
        if found is None:
            if len(self._found) >= _CACHED_SELECTIONS:
                self._found.clear()
            found = self._found[matchers] = self._search(matchers)
        return found

    def read(
        self, columns: NDArray[np.int64], start_ms: int, end_ms: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows with `start_ms < t <= end_ms` of some columns: their times, and a copy of the values."""
        numbers = self._row_numbers(0, self.rows)
        times = self._times[numbers]
        low, high = np.searchsorted(times, (start_ms, end_ms), side="right").tolist()
        rows = self._row_numbers(low, high)
        bits = self._bits[rows]
        return times[low:high], bits.take(columns, axis=1).view(np.float64)

    def forget_before(self, at_ms: int) -> None:
        """Drop rows up to `at_ms`, and the columns of series that have no sample left."""
        self._advance(at_ms)
        gone = [(key, column) for key, column in self._columns.items() if self._seen[column] <= at_ms]
        held = self._row_numbers(0, self.rows)
        for key, column in gone:
            del self._columns[key]
            del self._labels[column]
            named = self._names[key.name]
            del named[column]
            if not named:
                del self._names[key.name]
            self._bits[held, column] = HOLE_BITS
            self._free.append(column)
        if gone:
            self._found.clear()
            self._last_keys = None
        self._compact()

    def _search(self, matchers: tuple[Matcher, ...]) -> tuple[NDArray[np.int64], list[Labels]]:
        names = [matcher for matcher in matchers if matcher.name == "__name__"]
        rest = [matcher for matcher in matchers if matcher.name != "__name__"]
        exact = next((matcher.value for matcher in names if matcher.op == "="), None)
        candidates = self._names if exact is None else [exact]
        columns = [
            column
            for name in candidates
            if all(matcher.matches(name) for matcher in names)
            for column in self._names.get(name, ())
            if all(matcher.matches_labels(self._labels[column]) for matcher in rest)
        ]
        return np.array(columns, dtype=np.int64), [self._labels[column] for column in columns]

    def _map(self, keys: list[SeriesKey]) -> tuple[int, int]:
        """Find or make a column for each key, and remember them for the next scrape."""
        known = self._columns
        refused = duplicates = 0
        new = list(dict.fromkeys(key for key in keys if key not in known))
        if new:
            fitting = self._make_columns(len(new))
            refused = len(new) - fitting
            for key in new[:fitting]:
                self._add(key)
        columns: dict[int, int] = {}
        for position, key in enumerate(keys):
            column = known.get(key)
            if column is not None:
                if column in columns:
                    duplicates += 1
                else:
                    columns[column] = position
        # A refused series is offered again next time, and a duplicate counted again: neither may be remembered.
        clean = not refused and not duplicates
        self._last_keys = keys if clean else None
        self._last_columns = np.array(list(columns), dtype=np.int64)
        self._last_positions = None if clean else np.array(list(columns.values()), dtype=np.int64)
        return refused, duplicates

    def _add(self, key: SeriesKey) -> None:
        column = self._free.pop() if self._free else self._width
        self._width = max(self._width, column + 1)
        self._columns[key] = column
        self._labels[column] = full_labels(key)
        self._names.setdefault(key.name, {})[column] = None
        self._found.clear()

    def _make_columns(self, wanted: int) -> int:
        """Room for `wanted` more columns, or for as many as fit; returns how many."""
        spare = len(self._free) + self._bits.shape[1] - self._width
        missing = wanted - spare
        left = self.room - self.bytes - wanted * _SERIES_OVERHEAD
        if left < 0:
            wanted = max(0, (self.room - self.bytes) // _SERIES_OVERHEAD)
            missing, left = wanted - spare, self.room - self.bytes - wanted * _SERIES_OVERHEAD
        if missing <= 0:
            return wanted
        each = 8 * len(self._times) + 8
        more = min(-(-missing // _COLUMN_CHUNK) * _COLUMN_CHUNK, left // each)
        if more < missing:
            more = max(0, (self.room - self.bytes - spare * _SERIES_OVERHEAD) // (each + _SERIES_OVERHEAD))
            more = min(more, missing)
        if more > 0:
            self._resize(len(self._times), self._bits.shape[1] + more)
        return int(min(wanted, spare + more))

    def _next_row(self, at_ms: int) -> int:
        """Index of the row to write; the ring grows until it holds the retention."""
        self._advance(at_ms - self._retention_ms)
        if self.rows == len(self._times):
            each = 8 * self._bits.shape[1] + 8
            more = min(self._rows_wanted(at_ms), (self.room - self.bytes) // each)
            if more > 0:
                self._resize(len(self._times) + more, self._bits.shape[1])
            else:
                self._shortened += int(self._counts[self._first])
                self._first = (self._first + 1) % len(self._times)
                self.rows -= 1
        row = (self._first + self.rows) % len(self._times)
        self.rows += 1
        self._times[row] = at_ms
        return row

    def _rows_wanted(self, at_ms: int) -> int:
        """How many rows to add to a full ring: all that the retention takes at this pace.

        Rows that are not written yet take no memory, and an array that grew step by step would leave holes in it.
        """
        pace_ms = max(1, (at_ms - self.oldest_ms) // self.rows)
        return max(_FEW_ROWS, self._retention_ms // pace_ms + 2 - self.rows)

    def _advance(self, at_ms: int) -> None:
        while self.rows and self._times[self._first] <= at_ms:
            self._first = (self._first + 1) % len(self._times)
            self.rows -= 1

    def _row_numbers(self, low: int, high: int) -> "slice | NDArray[np.int64]":
        """Where the rows low..high (counted from the oldest) lie; a slice where they are in one piece."""
        start, end, size = self._first + low, self._first + high, len(self._times)
        if end <= size:
            return slice(start, end)
        if start >= size:
            return slice(start - size, end - size)
        return np.arange(start, end) % size

    def _compact(self) -> None:
        """Give memory back when most columns are free."""
        if len(self._free) < 2 * _COLUMN_CHUNK or len(self._free) * 2 < self._bits.shape[1]:
            return
        kept = np.array(list(self._columns.values()), dtype=np.int64)
        moved = {old: new for new, old in enumerate(kept.tolist())}
        self._bits = np.ascontiguousarray(self._bits[:, kept])
        self._seen = self._seen[kept]
        self._columns = {key: moved[column] for key, column in self._columns.items()}
        self._labels = {moved[column]: labels for column, labels in self._labels.items()}
        self._names = {name: {moved[c]: None for c in columns} for name, columns in self._names.items()}
        self._free = []
        self._width = len(kept)
        self._found.clear()
        self._last_keys = None

    def _resize(self, rows: int, columns: int) -> None:
        held = self._row_numbers(0, self.rows)
        bits = np.empty((rows, columns), dtype=np.int64)  # a row is written whole when it comes
        times = np.zeros(rows, dtype=np.int64)
        counts = np.zeros(rows, dtype=np.int64)
        seen = np.zeros(columns, dtype=np.int64)
        bits[: self.rows, : self._bits.shape[1]] = self._bits[held]
        bits[: self.rows, self._bits.shape[1] :] = HOLE_BITS
        times[: self.rows] = self._times[held]
        counts[: self.rows] = self._counts[held]
        seen[: len(self._seen)] = self._seen
        self._bits, self._times, self._counts, self._seen, self._first = bits, times, counts, seen, 0
