"""All requests of an engine at once say the same as each of them for itself."""

import random

from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.counted import Counted, Told
from agent.core.cost.live import Live
from agent.core.requests import Usage


def some(dice: random.Random, number: int) -> Live:
    """A request whose events are in order, as its sidecar tells them; some end without a count of tokens."""
    start = dice.randrange(1000)
    live = Live(f"r{number}", "u", "e", start)
    at = start + dice.randrange(50)
    live.first_token_ns = dice.choice((None, at))
    tokens = 0
    for _ in range(dice.choice((0, 0, 1, 2, 5))):
        at, tokens = at + dice.randrange(1, 200), tokens + dice.randrange(9)
        live.points.append((at, tokens))
    if dice.random() < 0.6:
        live.ended_ns, live.outcome = at + dice.randrange(1, 200), "ok"
        live.usage = Usage(output_tokens=dice.choice((None, tokens + dice.randrange(9))))
    return live


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_it_is_the_sum_of_the_requests(seed: int, count: int) -> None:
    dice = random.Random(seed)
    requests = [some(dice, number) for number in range(count)]
    counted = Counted(requests)
    for at in (0, 1, *(dice.randrange(2500) for _ in range(20)), 10_000):
        after = dice.randrange(-1, 2500)
        kept = [r for r in requests if r.ended_ns is None or r.ended_ns > after]
        assert counted.tokens(at, after) == sum(r.tokens_at(at) for r in kept)
        assert counted.is_silent(at) == any(r.is_silent(at) for r in requests)
        assert counted.in_flight(at) == sum(
            r.started_ns <= at and (r.ended_ns is None or r.ended_ns > at) for r in requests
        )
        quiet = not any(r.started_ns < at and (r.ended_ns is None or r.ended_ns > at - 9) for r in requests)
        assert counted.was_quiet(at - 9, at) == quiet
        ended, others = counted.parted(after)
        assert sorted(ended.ended_ns.tolist()) == sorted(r.ended_ns for r in requests if r not in kept and r.ended_ns)
        assert others.tokens(at, -1) == counted.tokens(at, after)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_who_looks_again_and_again_sees_the_same(seed: int, count: int) -> None:
    dice = random.Random(seed)
    requests = [some(dice, number) for number in range(count)]
    ends = {r.id: (r.ended_ns, r.outcome, r.usage, r.points) for r in requests}
    told = Told()
    settled: list[Live] = []
    for now in range(0, 3000, 300):
        for live in requests:
            end, outcome, usage, points = ends[live.id]
            live.points = [point for point in points if point[0] <= now]
            known = end is not None and end <= now
            live.ended_ns, live.outcome = (end, outcome) if known else (None, None)
            live.usage = usage if known else Usage()
            if now - 300 < live.started_ns <= now:
                told.add(live)
        here = [live for live in requests if live.started_ns <= now and live not in settled]
        seen, fresh = told.counted(now), Counted(here)
        for at in range(now - 900, now + 900, 100):
            assert seen.tokens(at, -1) == fresh.tokens(at, -1)
            assert seen.in_flight(at) == fresh.in_flight(at)
            assert seen.is_silent(at) == fresh.is_silent(at)
        settled += [live for live in here if live.ended_ns is not None and live.ended_ns <= now - 600]
        over = told.take_ended(now - 600)
        assert int(over.tokens.sum()) == int(fresh.parted(now - 600)[0].tokens.sum())


def test_what_is_said_of_a_time_after_the_end_does_not_count() -> None:
    live = Live("r", "u", "e", 100, ended_ns=200, usage=Usage(output_tokens=10), points=[(150, 5), (250, 90)])
    counted = Counted([live])
    assert [counted.tokens(at, 0) for at in (100, 125, 150, 175, 200, 300)] == [0, 2, 5, 7, 10, 10]
