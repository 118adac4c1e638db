"""A simulated engine with continuous batching: requests in, when each of them ran and what it truly cost out.

A step takes as long as a roofline of Llama-3.1-8B (bf16) on one H100 says: its matrices are read once or multiplied,
whichever takes longer; attention reads the keys and values of everybody's context; the rest is launch gaps and the
scheduler. At most 64 sequences run, at most 2,048 tokens go through in a step: decodes first, then chunks of prompts in
order of arrival. What a request truly cost is the sum over its steps of its Shapley value of the step's time: what it
adds to a step, on average over the orders in which the batch could have come together (24 orders, drawn by chance).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 32, 8, 128
ACTIVE_PARAMETERS = 8.03e9
WEIGHT_BYTES = 2 * ACTIVE_PARAMETERS
KV_BYTES = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2
PEAK_FLOPS, BANDWIDTH, MFU, MEMORY_EFFICIENCY = 989.4e12, 3352e9, 0.5, 0.8
OVERHEAD_S = 0.0015
MOST_TOKENS, MOST_SEQUENCES = 2048, 64
ORDERS = 24

_FLOP_S = 1 / (PEAK_FLOPS * MFU)
_BYTE_S = 1 / (BANDWIDTH * MEMORY_EFFICIENCY)
_TOKEN_S = 2 * ACTIVE_PARAMETERS * _FLOP_S
_WEIGHTS_S = WEIGHT_BYTES * _BYTE_S
_LOOK_S = KV_BYTES * _BYTE_S  # one token of context, for one sequence
_ATTEND_S = 4 * LAYERS * HEADS * HEAD_DIM * _FLOP_S  # one token of a prompt, for each token before it

TENANTS = (  # name, prompt, output, part of the prompt that is cached
    ("rag", 6000, 120, 0.0),
    ("agent", 12000, 250, 0.9),
    ("chat", 400, 300, 0.3),
    ("gen", 200, 1500, 0.0),
)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request of the simulation; instants in ns, `tokens` are the instants of its output tokens."""

    number: int
    tenant: str
    arrived_ns: int
    cached: int
    fresh: int
    output: int
    read: int = 0  # of `fresh`
    tokens: list[int] = field(default_factory=list)
    true_ns: float = 0.0

    @property
    def ended_ns(self) -> int:
        return self.tokens[-1]


@dataclass(slots=True)
class Run:
    """What was simulated: all requests, in order of arrival, each to its end."""

    sequences: list[Sequence]
    busy_ns: int
    concurrency: float  # mean of requests in flight while any was


def arrivals(seconds: float, per_second: float, seed: int) -> list[Sequence]:
    """Requests of the four tenants in equal parts, Poisson in time; lengths vary by a third around their means."""
    chance = np.random.default_rng(seed)
    found, at = [], 0.0
    while (at := at + chance.exponential(1 / per_second)) < seconds:
        name, prompt, output, cached_part = TENANTS[int(chance.integers(len(TENANTS)))]
        total, out = (max(2, int(mean * chance.lognormal(-0.05, 0.32))) for mean in (prompt, output))
        cached = int(total * cached_part)
        found.append(Sequence(len(found), name, int(at * NS), cached, total - cached, out))
    return found


def simulate(waiting: list[Sequence], seed: int) -> Run:
    """Run all of them; the engine sleeps only while it has none."""
    chance = np.random.default_rng(seed + 1)
    queue, running = deque(waiting), list[Sequence]()
    now = busy = 0
    while queue or running:
        if not running:
            now = max(now, queue[0].arrived_ns)
        while queue and queue[0].arrived_ns <= now and len(running) < MOST_SEQUENCES:
            running.append(queue.popleft())
        tokens, looks, attends = _batch(running)
        values = _shapley(tokens, looks, attends, chance)
        length = int(float(values.sum()) * NS)
        now, busy = now + length, busy + length
        for sequence, count, value in zip(running, tokens, values, strict=True):
            sequence.true_ns += float(value) * NS
            left = sequence.fresh - sequence.read
            sequence.read += min(left, int(count))
            if count and left <= count:
                sequence.tokens.append(now)
        running = [sequence for sequence in running if len(sequence.tokens) < sequence.output]
    flight = sum(sequence.ended_ns - sequence.arrived_ns for sequence in waiting)
    return Run(waiting, busy, flight / busy)


def _batch(running: list[Sequence]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For each sequence of the next step: tokens put through, tokens of context read, pairs of a prompt attended."""
    tokens, looks, attends = np.zeros((3, len(running)))
    room = MOST_TOKENS
    for place, sequence in enumerate(running):
        if sequence.read >= sequence.fresh:
            tokens[place], looks[place] = 1, sequence.cached + sequence.fresh + len(sequence.tokens)
            room -= 1
    for place, sequence in enumerate(running):
        chunk = min(room, sequence.fresh - sequence.read)
        if chunk > 0:
            before = sequence.cached + sequence.read
            tokens[place], looks[place], attends[place] = chunk, before, chunk * (before + chunk / 2)
            room -= chunk
    return tokens, looks, attends


def step_seconds(
    tokens: NDArray[np.float64], looks: NDArray[np.float64], attends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Time of a step with these sums; of none, for an empty one."""
    busy = np.maximum(tokens * _TOKEN_S, _WEIGHTS_S) + looks * _LOOK_S + attends * _ATTEND_S + OVERHEAD_S
    return np.where(tokens > 0, busy, 0.0)


def _shapley(
    tokens: NDArray[np.float64],
    looks: NDArray[np.float64],
    attends: NDArray[np.float64],
    chance: np.random.Generator,
) -> NDArray[np.float64]:
    """Seconds for each sequence; they sum to the step. A sequence with nothing to do in it adds nothing to it."""
    count = len(tokens)
    if count == 1:
        return step_seconds(tokens, looks, attends)
    orders = chance.permuted(np.tile(np.arange(count), (ORDERS, 1)), axis=1)
    reached = step_seconds(*(np.cumsum(amount[orders], axis=1) for amount in (tokens, looks, attends)))
    added = np.diff(reached, axis=1, prepend=0.0)
    values = np.zeros(count)
    np.add.at(values, orders.ravel(), added.ravel())
    return values / ORDERS
