"""A recorded vLLM page in; pages as successive scrapes of a busy server would bring them out, with any number of ranks.

Names, types, labels and bounds are the page's. From page to page counters grow, histograms get new observations in all
their buckets from the right one on, and gauges move, so every page is one that a real server could have shown.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TWO_RANKS = ROOT / "tests/engines/vllm/0.33.0-dp/metrics.prom"
_ENGINE = re.compile(rb'([{,]engine=")(\d+)(")')
_LE = re.compile(rb'[{,]le="[^"]*"')
BUSY = 0.6  # of the histograms get observations from one scrape to the next


@dataclass(slots=True)
class _Histogram:
    buckets: list[int] = field(default_factory=list)  # places of its lines, in the page's order: ascending bounds
    count: int = -1
    sum: int = -1


def two_ranks() -> bytes:
    """The recorded page of vLLM 0.33 with two data-parallel ranks."""
    return TWO_RANKS.read_bytes()


class GrowingPage:
    """One server. `series` counts its series without `_created` ones, which no reader keeps."""

    def __init__(self, page: bytes, seed: int) -> None:
        self._dice = random.Random(seed)
        types = dict(re.findall(rb"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
        self._heads: list[bytes] = []
        self._values: list[float | None] = []  # None: a comment
        self._histograms: dict[bytes, _Histogram] = {}
        self._counters: list[int] = []
        self._gauges: list[int] = []
        for line in page.splitlines():
            self._add(line, types)
        self.series = sum(
            value is not None and b"_created" not in head for head, value in zip(self._heads, self._values, strict=True)
        )

    def _add(self, line: bytes, types: dict[bytes, bytes]) -> None:
        at = len(self._heads)
        if not line or line.startswith(b"#"):
            self._heads.append(line)
            self._values.append(None)
            return
        head, _, value = line.rpartition(b" ")
        self._heads.append(head)
        self._values.append(float(value))
        name, _, labels = head.partition(b"{")
        if name.endswith(b"_created"):
            return
        for suffix in (b"_bucket", b"_count", b"_sum"):
            base = name.removesuffix(suffix)
            if base != name and types.get(base) in (b"histogram", b"summary"):
                one = self._histograms.setdefault(base + _LE.sub(b"", labels).lstrip(b"{,"), _Histogram())
                if suffix == b"_bucket":
                    one.buckets.append(at)
                else:
                    setattr(one, suffix[1:].decode(), at)
                return
        of_kind = types.get(name) or types.get(name.removesuffix(b"_total"))
        if of_kind == b"counter":
            self._counters.append(at)
        elif of_kind == b"gauge" and b"_info" not in name:
            self._gauges.append(at)

    def next(self) -> bytes:
        """The next scrape's page."""
        dice, values = self._dice, self._values
        for at in self._counters:
            if dice.random() < BUSY:
                values[at] = (values[at] or 0.0) + dice.randrange(1, 2000)
        for at in self._gauges:
            if values[at]:  # an idle gauge of the page stays idle
                values[at] = dice.randrange(1, 10_000) / 10_000
        for one in self._histograms.values():
            if dice.random() < BUSY:
                self._observe(one)
        pairs = zip(self._heads, values, strict=True)
        return b"\n".join(head if value is None else b"%b %r" % (head, value) for head, value in pairs) + b"\n"

    def _observe(self, one: _Histogram) -> None:
        values, dice = self._values, self._dice
        times = dice.randrange(1, 6)
        first = dice.randrange(len(one.buckets)) if one.buckets else 0
        for at in (*one.buckets[first:], one.count):
            values[at] = (values[at] or 0.0) + times
        values[one.sum] = (values[one.sum] or 0.0) + times * dice.random()


def _with_ranks(lines: list[bytes], ranks: int) -> list[bytes]:
    """The page of a server with `ranks` data-parallel ranks: the lines of rank 0, once for each."""
    found = []
    for line in lines:
        match = None if line.startswith(b"#") else _ENGINE.search(line)
        if match is None:
            found.append(line)
        elif match[2] == b"0":
            found += [_ENGINE.sub(rb"\g<1>%d\g<3>" % rank, line) for rank in range(ranks)]
    return found


def page_of(series: int) -> bytes:
    """That page with more ranks, cut so that exactly so many series are left, `_created` ones not counted."""
    recorded = TWO_RANKS.read_bytes().splitlines()
    ranks = 1
    while len(_counted(lines := _with_ranks(recorded, ranks))) < series:
        ranks += 1
    dropped = set(_counted(lines)[series:])
    return b"\n".join(line for line in lines if line not in dropped)


def _counted(lines: list[bytes]) -> list[bytes]:
    """The lines of series; without the times of creation, which no reader keeps."""
    return [line for line in lines if line and not line.startswith(b"#") and b"_created" not in line.partition(b"{")[0]]
