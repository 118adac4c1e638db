"""Bypass traffic from counters: found when it is there, not invented when it is not."""

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.bypass import Bypass
from agent.core.cost.counted import Counted
from agent.core.cost.live import Live
from agent.core.requests import Usage
from tests.support.money import NS, UPSTREAM

WATERMARK = 5  # ticks


def ended(name: str, start: float, end: float, tokens: int) -> Live:
    return Live(
        name,
        UPSTREAM,
        "vllm",
        int(start * NS),
        ended_ns=int(end * NS),
        outcome="ok",
        usage=Usage(output_tokens=tokens),
    )


@dataclass
class World:
    """An engine that counts tokens as they come (or at the end), scraped every second; ticks close five later."""

    requests: list[Live] = field(default_factory=list)  # through the sidecar
    hidden: list[Live] = field(default_factory=list)
    running_gauge: bool = True
    count_at_end: bool = False
    resets: tuple[int, ...] = ()
    bypass: Bypass = field(default_factory=Bypass)
    taken: dict[int, int] = field(default_factory=dict)
    _open: list[Live] = field(default_factory=list)

    def _tokens(self, at: int, since: int) -> int:
        def count(live: Live, when: int) -> int:
            if self.count_at_end:
                return live.tokens_at(when) if live.ended_ns is not None and live.ended_ns <= when else 0
            return live.tokens_at(when)

        return sum(count(r, at) - count(r, since) for r in [*self.requests, *self.hidden])

    def run(self, seconds: int) -> int:
        since = 0
        self._open = list(self.requests)
        for second in range(seconds + WATERMARK):
            at = second * NS + 1
            if second in self.resets:
                since = at
            alive = [r for r in [*self.requests, *self.hidden] if r.overlap(at, at + 1)]
            gauge = float(len(alive)) if self.running_gauge else None
            self.bypass.scrape(at, float(self._tokens(at, since)), gauge)
            if second >= WATERMARK:
                tick = second - WATERMARK
                told = [self._as_told(r, at) for r in self._open if r.started_ns < at]
                self.taken[tick] = self.bypass.take(tick * NS, (tick + 1) * NS, Counted(told))
                self._drop((tick + 1) * NS)
        return sum(self.taken.values())

    def _drop(self, settled_ns: int) -> None:
        used = self.bypass.used_until_ns
        until = settled_ns if used is None else min(used, settled_ns)
        over = [live for live in self._open if live.ended_ns is not None and live.ended_ns <= until]
        self.bypass.ended(Counted(over).parted(until)[0])
        self._open = [live for live in self._open if live not in over]

    def _as_told(self, live: Live, now_ns: int) -> Live:
        """As the agent knows a request at `now_ns`: a progress event for each second, the end once it has come."""
        if live.ended_ns is not None and live.ended_ns <= now_ns:
            return live
        told = Live(live.id, live.upstream, live.engine, live.started_ns)
        if not live.id.startswith("silent"):
            marks = range(live.started_ns // NS * NS + NS, now_ns, NS)
            told.points = [(mark, live.tokens_at(mark)) for mark in marks if mark > live.started_ns]
        return told


@pytest.mark.parametrize("count_at_end", [False, True])
@pytest.mark.parametrize("gauge", [False, True])
def test_traffic_that_all_came_through_the_sidecar_leaves_nothing(count_at_end: bool, gauge: bool) -> None:
    dice = random.Random(3)
    starts = [dice.random() * 50 for _ in range(100)]
    requests = [ended(f"r{i}", s, s + 0.1 + dice.random() * 3, dice.randrange(200)) for i, s in enumerate(starts)]
    assert World(requests, count_at_end=count_at_end, running_gauge=gauge).run(60) == 0


def test_long_requests_without_progress_are_not_taken_for_bypass_traffic() -> None:
    requests = [ended(f"silent{i}", 5 + 20 * i, 22 + 20 * i, 3000) for i in range(3)]
    assert World(requests).run(80) == 0
    assert World(requests, running_gauge=False).run(80) == 0


@pytest.mark.parametrize("count_at_end", [False, True])
def test_bypass_traffic_is_found_at_the_pace_of_the_proxied(count_at_end: bool) -> None:
    # One token each 10 ms on both ways: 20 hidden requests of 1 s are 20 s of in-flight time.
    requests = [ended(f"r{i}", 2 * i, 2 * i + 1, 100) for i in range(40)]
    hidden = [ended(f"h{i}", 20 + 2 * i + 0.5, 20 + 2 * i + 1.5, 100) for i in range(20)]
    taken = World(requests, hidden, count_at_end=count_at_end).run(100)
    assert abs(taken - 20 * NS) < 2 * NS


def test_without_proxied_traffic_the_gauge_decides() -> None:
    world = World([], [ended("h", 10, 20, 1000), ended("i", 10, 20, 1000)])
    assert abs(world.run(40) - 20 * NS) <= 3 * NS
    assert sum(ns for tick, ns in world.taken.items() if tick < 9) == 0


def test_without_gauge_and_pace_the_engine_was_busy_with_one() -> None:
    taken = World([], [ended("h", 10, 20, 1000)], running_gauge=False).run(40)
    assert abs(taken - 10 * NS) <= 2 * NS


def test_bypass_beside_a_request_without_progress_is_seen_by_the_gauge_and_once_only() -> None:
    hidden = [ended("h", 15, 25, 1000)]
    taken = World([ended("silent", 5, 40, 3000)], hidden).run(60)
    assert abs(taken - 10 * NS) <= 2 * NS


def test_an_engine_restart_books_nothing() -> None:
    requests = [ended(f"r{i}", i, i + 0.9, 50) for i in range(50)]
    assert World(requests, resets=(20,)).run(60) == 0


def test_a_fleet_of_noise_does_not_pile_up() -> None:
    """Counters that are read up to 300 ms late: the residual jitters, what is booked stays bounded."""
    dice = random.Random(7)
    requests = [ended(f"r{i}", i * 0.5, i * 0.5 + 2, 100) for i in range(400)]
    bypass, taken = Bypass(), 0
    for second in range(205):
        at = second * NS
        late = at - dice.randrange(3 * NS // 10)
        bypass.scrape(at + 1, float(sum(r.tokens_at(late) for r in requests)), None)
        if second >= 5:
            told = [r for r in requests if r.ended_ns is not None and r.ended_ns <= at]
            taken += bypass.take((second - 5) * NS, (second - 4) * NS, Counted(told))
    assert taken == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_never_negative_and_never_more_than_was_hidden(seed: int) -> None:
    dice = random.Random(seed)

    def some(name: str, count: int) -> list[Live]:
        starts = [dice.random() * 30 for _ in range(count)]
        return [ended(f"{name}{i}", s, s + 1 + 2 * dice.random(), 100) for i, s in enumerate(starts)]

    world = World(some("r", 40), some("h", dice.randrange(10)), count_at_end=dice.random() < 0.5)
    world.run(60)
    assert all(ns >= 0 for ns in world.taken.values())
    # Proxied and hidden requests alike take 1 to 3 s for 100 tokens: the estimate cannot be above 3 s for each.
    assert sum(world.taken.values()) <= (3 * len(world.hidden) + 1) * NS


def test_counters_that_are_no_numbers_are_not_reported() -> None:
    bypass = Bypass()
    for second, (tokens, running) in enumerate(((0.0, 0.0), (math.nan, math.nan), (-1.0, -1.0), (math.inf, math.inf))):
        bypass.scrape(second * NS, tokens, running)
    assert bypass.take(0, 3 * NS, Counted()) == 0
