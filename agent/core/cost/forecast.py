"""What was spent hour by hour in; what is to be expected of the hours to come, with its interval, out. Pure.

Method. The hours of the last weeks give a *shape* (by hour of the week from 14 days on, by hour of the day from 2 days
on, flat before) and a *level*: what the last 7 days spent, divided by what the shape says of them. Expected spending of
any stretch is level x shape. The interval comes from how far whole days have been off: with s the standard deviation of
n days and D the days to come, the variance is s^2 (D^2/n + D min(D, 1)): the level is uncertain for all of them, and
each has a chance of its own. Half a day's spending counts as one more day's error, so that few days never look certain.
Bounds are those of Student's t, 90 % between them.

Committed spending (GPUs that cost the same whether they work or not) needs no such care: its level is that of the last
24 hours, in blocks of one hour and without the pretended error; its shape that of the last 7 days' hours (prices of
electricity), each day taken as if it had cost the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

HOUR_NS = 3600 * 1_000_000_000
DAY_NS = 24 * HOUR_NS
WEEK_NS = 7 * DAY_NS
HISTORY_DAYS = 28
WEEKLY_SHAPE_HOURS = 14 * 24
DAILY_SHAPE_HOURS = 2 * 24
LEVEL_HOURS = 7 * 24
LEAST_HOURS, LEAST_COMMITTED_HOURS = 24, 6
PRETENDED_ERROR = 0.5
NORMAL = 10**9
# 95 % quantiles of Student's t for 1, 2, ... degrees of freedom (any table of it); 1.645 at infinity.
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
        1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711)  # fmt: skip

SlotOf = Callable[[int], int]
"""Unix ns -> local hour of the week, 0 to 167, Monday first."""


class Hour(NamedTuple):
    """One complete hour of the past (the last one of a local day may be shorter)."""

    start_ns: int
    length_ns: int
    nano: int


class Forecast(Struct, frozen=True, kw_only=True):
    """`low_nano` to `high_nano` holds the truth nine times of ten, if the next weeks are like the last ones.

    `hours` of history were used. Never less than what is spent already.
    """

    nano: int
    low_nano: int
    high_nano: int
    method: str
    hours: int

    def at_least(self, spent_nano: int) -> "Forecast":
        """The same, after more was spent."""
        if spent_nano <= self.low_nano:
            return self
        return Forecast(
            nano=max(self.nano, spent_nano),
            low_nano=spent_nano,
            high_nano=max(self.high_nano, spent_nano),
            method=self.method,
            hours=self.hours,
        )


class Pattern(Struct, frozen=True, kw_only=True):
    """What is known of usual spending. `shape` has a weight for each hour of the week, `level` is nano per weight.

    `deviation` is that of a block of `block_hours`, of which `blocks` were seen; `freedom` degrees of it.
    """

    level: float
    shape: tuple[float, ...]
    slot_of: SlotOf
    block_hours: int
    blocks: int
    deviation: float
    freedom: int
    hours: int
    method: str
    knows_hours: bool  # False: too short to know day from night

    def weight(self, start_ns: int, end_ns: int) -> float:
        """Sum of the shape over a stretch, in hours of average weight. Whole weeks are taken as 168 hours."""
        if end_ns <= start_ns:
            return 0.0
        weeks, rest = divmod(end_ns - start_ns, WEEK_NS)
        total = weeks * sum(self.shape) if weeks else 0.0
        at, end = start_ns, start_ns + rest
        while at < end:
            until = min(end, at - at % HOUR_NS + HOUR_NS)
            total += self.shape[self.slot_of(at)] * (until - at) / HOUR_NS
            at = until
        return total

    def expected(self, start_ns: int, end_ns: int) -> float:
        """Nano-units."""
        return self.level * self.weight(start_ns, end_ns)

    def forecast(self, spent_nano: int, start_ns: int, end_ns: int) -> Forecast:
        """`spent_nano` by `start_ns`, and what is expected until `end_ns`."""
        weight = self.weight(start_ns, end_ns)
        mean = self.level * weight
        blocks = weight / self.block_hours
        variance = self.deviation**2 * (blocks**2 / self.blocks + blocks * min(blocks, 1.0))
        reach = _t95(self.freedom) * math.sqrt(variance)
        return Forecast(
            nano=spent_nano + round(mean),
            low_nano=spent_nano + round(max(0.0, mean - reach)),
            high_nano=spent_nano + round(mean + reach),
            method=self.method,
            hours=self.hours,
        )


def pattern_of(hours: Sequence[Hour], slot_of: SlotOf, *, committed: bool = False) -> Pattern | None:
    """The pattern of complete hours in ascending order; None while they are too few to say anything."""
    if len(hours) < (LEAST_COMMITTED_HOURS if committed else LEAST_HOURS):
        return None
    shape, named = _shape(_level(hours[-LEVEL_HOURS:]) if committed else hours, slot_of)
    recent = hours[-(24 if committed else LEVEL_HOURS) :]
    weights = [shape[slot_of(hour.start_ns)] * hour.length_ns / HOUR_NS for hour in recent]
    whole = sum(weights)
    level = sum(hour.nano for hour in recent) / whole if whole > 0 else 0.0
    errors = [hour.nano - level * weight for hour, weight in zip(recent, weights, strict=True)]
    block_hours = 1 if committed else 24
    sums = _blocks(recent, errors, block_hours)
    count = len(sums)
    squares = sum(error * error for error in sums)
    if committed:
        freedom = count - 1
        deviation = math.sqrt(squares / freedom)
        method = f"committed: the rate of the last {count} hours, {named}"
    else:
        freedom = count
        deviation = math.sqrt((squares + (PRETENDED_ERROR * level * 24) ** 2) / count)
        method = f"usual spending of the last {count} days, {named}"
    return Pattern(
        level=level,
        shape=shape,
        slot_of=slot_of,
        block_hours=block_hours,
        blocks=count,
        deviation=deviation,
        freedom=freedom,
        hours=len(hours),
        method=method,
        knows_hours=committed or len(hours) >= DAILY_SHAPE_HOURS,
    )


def _level(hours: Sequence[Hour]) -> list[Hour]:
    """Each 24 hours, counted back from the last one, as if they had cost the same: a GPU that came is no shape."""
    end = hours[-1].start_ns + hours[-1].length_ns
    sums: dict[int, tuple[int, int]] = {}
    for hour in hours:
        day = (end - hour.start_ns - 1) // DAY_NS
        before = sums.get(day, (0, 0))
        sums[day] = (before[0] + hour.nano, before[1] + hour.length_ns)
    found = []
    for hour in hours:
        nano, length = sums[(end - hour.start_ns - 1) // DAY_NS]
        found.append(hour._replace(nano=hour.nano * length * NORMAL // (nano * HOUR_NS)) if nano > 0 else hour)
    return found


def _shape(hours: Sequence[Hour], slot_of: SlotOf) -> tuple[tuple[float, ...], str]:
    """Weights of the 168 hours of a week, 1 on average over the history, and what they were made from."""
    sums, lengths = [0.0] * 168, [0] * 168
    for hour in hours:
        slot = slot_of(hour.start_ns)
        sums[slot] += hour.nano
        lengths[slot] += hour.length_ns
    mean = sum(sums) / sum(lengths)
    if len(hours) < DAILY_SHAPE_HOURS or mean <= 0:
        return (1.0,) * 168, "all hours alike"
    of_day = []
    for hour_of_day in range(24):
        length = sum(lengths[hour_of_day::24])
        of_day.append(sum(sums[hour_of_day::24]) / length / mean if length else 1.0)
    if len(hours) < WEEKLY_SHAPE_HOURS:
        return tuple(of_day * 7), "by hour of the day"
    weekly = [
        sums[slot] / lengths[slot] / mean if lengths[slot] > HOUR_NS else of_day[slot % 24] for slot in range(168)
    ]
    return tuple(weekly), "by hour of the week"


def _blocks(hours: Sequence[Hour], errors: Sequence[float], block_hours: int) -> list[float]:
    """Sums of the errors of each whole block, counted back from the last hour."""
    end = hours[-1].start_ns + hours[-1].length_ns
    found: dict[int, tuple[float, int]] = {}
    for hour, error in zip(hours, errors, strict=True):
        block = (end - hour.start_ns - 1) // (block_hours * HOUR_NS)
        before = found.get(block, (0.0, 0))
        found[block] = (before[0] + error, before[1] + 1)
    whole = [error for error, count in found.values() if count >= 0.8 * block_hours]
    return whole or [sum(errors)]


def _t95(freedom: int) -> float:
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.645 + 1.6 / freedom
