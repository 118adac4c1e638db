"""What an engine did in closed ticks in, its two constants out: fitted to it, but held near what its shape says.

A tick in which an engine was busy for T seconds is read as

    T = beta * steps + a * (alpha * prompt tokens) + k * (kappa * tokens of context)

`steps` are decode steps, at the pace of the request that was writing longest: each sequence that runs writes a token in
each. `beta` (weights read in each step, launch gaps) is free and belongs to nobody. `a` and `k` are drawn to 1, where
the shape of the model puts them, by a ridge penalty. Without `steps` nothing could be learnt: a busy tick is as long as
it is, however much was done in it. Free least squares find a weight of zero for a real cost as soon as two of the three
rise and fall together; the penalty keeps what the ticks do not tell apart at what the shape says.

Output is counted once a second and taken to be even between: a slow moment shows in the tick beside the one it was in.
That would draw `a` and `k` down, so several ticks are added up before they count as one observation.

Only sums are kept, and old ticks fade: memory is bounded, and a changed engine is found again.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from agent.core.cost.live import Live
from agent.core.cost.progress import first_token_ns, output_at, prompt_tokens
from agent.core.cost.work import Constants, work

PENALTY = 0.05  # s²; where ticks tell little apart, a few dozen of them weigh as much as the prior
BOUND = 4.0  # no constant moves further from its prior than by this factor
TOGETHER = 4  # ticks that are one observation
FEWEST = 12  # ticks, before anything is believed
HALF_LIFE = 3600.0  # ticks
_LONG_ENOUGH = 0.25  # of a tick: a request that writes for less tells no pace


class Observation(NamedTuple):
    """One tick of one engine: seconds it was busy, decode steps, prompt tokens read, tokens of context looked at."""

    busy_s: float
    steps: float
    prefill: float
    context: float


def observe(lives: Iterable[Live], start_ns: int, end_ns: int, constants: Constants) -> Observation | None:
    """What an engine did in a tick through which it was busy, all of its requests being in `lives`.

    None where that tells nothing: it was idle for a part of the tick, nobody wrote long enough to tell the pace, or it
    is not known what a request did (an open one without a word of its tokens, an answer in one piece).
    """
    prefill = context = 0.0
    longest, pace = 0, 0.0
    busy, writing = list[tuple[int, int]](), list[tuple[int, int]]()
    for live in lives:
        piece = live.overlap(start_ns, end_ns)
        if piece is None:
            continue
        if live.first_token_ns is None and not live.points:
            return None
        done = work(live, start_ns, end_ns, constants)
        prefill, context = prefill + done.prefill, context + done.context
        busy.append(piece)
        first = first_token_ns(live, int(prompt_tokens(live, constants.prompts)[0] * constants.prefill_ns))
        begin = max(piece[0], first)
        if begin < piece[1]:
            writing.append((begin, piece[1]))
            if piece[1] - begin > longest:
                longest = piece[1] - begin
                pace = (output_at(live, piece[1], first) - output_at(live, begin, first)) / longest
    length = end_ns - start_ns
    if _union(busy) < length or longest < _LONG_ENOUGH * length:
        return None
    return Observation(length / 1e9, pace * _union(writing), prefill, context)


class Fit:
    """The constants of one model on one engine, learnt from its ticks. `prior`: those of its shape."""

    def __init__(self, prior: Constants, penalty: float = PENALTY, half_life: float = HALF_LIFE) -> None:
        self.prior = prior
        self.observations = 0
        self._keep = 0.5 ** (TOGETHER / half_life)
        self._ridge = np.diag([1e-9, penalty, penalty])  # steps: only so that there is a solution without any
        self._squares = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._together = np.zeros(4)
        self._solved_at = 0
        self.step_seconds: float | None = None  # beta
        self.factors = (1.0, 1.0)  # a and k

    def add(self, seen: Observation) -> None:
        """Count one tick."""
        prefill, context = self.prior.prefill_ns * seen.prefill / 1e9, self.prior.context_ns * seen.context / 1e9
        values = np.array([seen.steps, prefill, context, seen.busy_s])
        if not np.isfinite(values).all():
            return
        self.observations += 1
        self._together += values
        if self.observations % TOGETHER:
            return
        causes, busy_s = self._together[:3], self._together[3]
        self._squares = self._squares * self._keep + np.outer(causes, causes)
        self._products = self._products * self._keep + causes * busy_s
        self._together = np.zeros(4)
        if self.observations >= FEWEST:
            self._solve()

    @property
    def constants(self) -> Constants:
        """Fitted ones, the prior's while there is too little to go by."""
        if not self._solved_at:
            return self.prior
        a, k = self.factors
        return Constants(self.prior.prefill_ns * a, self.prior.context_ns * k, "fitted")

    def _solve(self) -> None:
        self._solved_at = self.observations
        wanted = self._products + self._ridge @ np.array([0.0, 1.0, 1.0])
        squares = self._squares + self._ridge
        beta, a, k = np.linalg.solve(squares, wanted).tolist()
        if beta < 0:
            beta, (a, k) = 0.0, np.linalg.solve(squares[1:, 1:], wanted[1:]).tolist()
        self.step_seconds = beta
        self.factors = (min(max(a, 1 / BOUND), BOUND), min(max(k, 1 / BOUND), BOUND))


def _union(intervals: list[tuple[int, int]]) -> int:
    total = reached = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
