"""Ticks of an engine whose constants are known: does the fit find them, and stay near the prior where it cannot?"""

import math
import random

import pytest

from agent.core.cost.fit import BOUND, FEWEST, Fit, Observation, observe
from agent.core.cost.live import Live
from agent.core.cost.work import Constants
from agent.core.requests import Usage

NS = 1_000_000_000
STEP_S, PREFILL_NS, CONTEXT_NS = 0.0075, 32_000.0, 48.0


def tick(chance: random.Random, busy_s: float = 1.0) -> Observation:
    """As many steps as there is time for beside prompts and contexts."""
    prefill = chance.uniform(0, 15_000)
    per_step = chance.uniform(1_000, 90_000)
    steps = (busy_s - PREFILL_NS * prefill / 1e9) / (STEP_S + CONTEXT_NS * per_step / 1e9)
    return Observation(busy_s, steps, prefill, steps * per_step)


@pytest.mark.parametrize(("a", "k"), [(1.0, 1.0), (2.0, 2.0), (0.5, 0.5), (2.0, 0.5), (0.5, 2.0)])
def test_the_true_constants_are_found_from_a_wrong_prior(a: float, k: float) -> None:
    fit, chance = Fit(Constants(PREFILL_NS * a, CONTEXT_NS * k)), random.Random(1)
    for _ in range(300):
        fit.add(tick(chance))
    assert fit.constants.source == "fitted"
    assert fit.constants.prefill_ns == pytest.approx(PREFILL_NS, rel=0.1)
    assert fit.constants.context_ns == pytest.approx(CONTEXT_NS, rel=0.1)
    assert fit.step_seconds == pytest.approx(STEP_S, rel=0.05)


def test_the_prior_holds_until_there_is_something_to_go_by() -> None:
    fit, chance = Fit(Constants(1.0, 2.0)), random.Random(1)
    for _ in range(FEWEST - 1):
        fit.add(tick(chance))
    assert fit.constants == Constants(1.0, 2.0, "shape")


def test_no_constant_leaves_its_bounds() -> None:
    fit, chance = Fit(Constants(PREFILL_NS * 100, CONTEXT_NS / 100)), random.Random(1)
    for _ in range(300):
        fit.add(tick(chance))
    assert fit.factors[0] == 1 / BOUND
    assert 1 / BOUND <= fit.factors[1] <= BOUND


def test_what_ticks_do_not_tell_apart_stays_where_the_shape_puts_it() -> None:
    """Nobody sends a prompt: how long one takes cannot be learnt."""
    fit = Fit(Constants(PREFILL_NS, CONTEXT_NS))
    for _ in range(300):
        fit.add(Observation(1.0, 100.0, 0.0, 1e6))
    assert fit.factors[0] == 1.0
    fit = Fit(Constants(PREFILL_NS, CONTEXT_NS))
    for _ in range(300):
        fit.add(Observation(1.0, 0.0, 10_000.0, 0.0))
    assert fit.factors == pytest.approx((1 / 0.32, 1.0), rel=0.01)


def test_an_engine_that_changed_is_found_again() -> None:
    fit, chance = Fit(Constants(PREFILL_NS, CONTEXT_NS), half_life=100), random.Random(1)
    for _ in range(500):
        fit.add(tick(chance)._replace(prefill=0.0, busy_s=2.0))
    for _ in range(1000):
        fit.add(tick(chance))
    assert fit.step_seconds == pytest.approx(STEP_S, rel=0.05)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_nonsense_is_not_counted(wrong: float) -> None:
    fit = Fit(Constants(1.0, 1.0))
    fit.add(Observation(1.0, wrong, 1.0, 1.0))
    assert fit.observations == 0


def streaming(number: int, started: float, first: float, ended: float, output: int, prompt: int = 100) -> Live:
    return Live(
        str(number), "u", "e", int(started * NS), ended_ns=int(ended * NS), outcome="ok",
        first_token_ns=int(first * NS), usage=Usage(input_tokens=prompt, output_tokens=output),
    )  # fmt: skip


def test_a_tick_as_it_is_seen() -> None:
    lives = [streaming(1, 0, 1, 11, 1001), streaming(2, 5.0, 5.5, 9, 100, 400), streaming(3, 20, 21, 22, 5)]
    seen = observe(lives, 5 * NS, 6 * NS, Constants(1.0, 1.0))
    assert seen is not None
    assert seen.busy_s == 1.0
    assert seen.steps == pytest.approx(100, rel=0.001)  # the first one's pace; the second is only there for a half
    assert seen.prefill == 400
    assert seen.context > 100 * 100


def test_ticks_that_tell_nothing() -> None:
    constants = Constants(1.0, 1.0)
    busy = streaming(1, 0, 1, 11, 1001)
    assert observe([], 0, NS, constants) is None
    assert observe([busy], 10 * NS + NS // 2, 11 * NS + NS // 2, constants) is None  # idle at its end
    assert observe([busy], 0, NS, constants) is None  # nobody writes: no pace
    silent = Live("s", "u", "e", 0)
    assert observe([busy, silent], 5 * NS, 6 * NS, constants) is None
