"""A simulated run in; what an agent is told of it, second by second, out: starts, progress, ends, counters."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

import numpy as np

from agent.core.cost.live import Live
from agent.core.requests import Usage
from bench.tariff_engine import Sequence

NS = 1_000_000_000
ESTIMATE_SPREAD = 0.15  # of the estimate of a prompt's tokens from its bytes, as a deviation of its logarithm


class Telling:
    """`lives` are filled as time goes on, in the order of `sequences`. The run begins at `epoch_ns`."""

    def __init__(self, sequences: list[Sequence], engine: str, model: str, epoch_ns: int) -> None:
        chance = np.random.default_rng(len(sequences))
        self._epoch = epoch_ns
        self.lives = [
            Live(
                f"r{s.number}",
                "127.0.0.1:8000",
                engine,
                epoch_ns + s.arrived_ns,
                model=model,
                tenant=s.tenant,
                input_estimate=int((s.cached + s.fresh) * chance.lognormal(0, ESTIMATE_SPREAD)),
            )
            for s in sequences
        ]
        self._coming = deque(zip(sequences, self.lives, strict=True))
        self._open: list[tuple[Sequence, Live]] = []
        self._written = np.sort(np.array([at for s in sequences for at in s.tokens], dtype=np.int64))
        self._begins = np.sort(np.array([s.arrived_ns for s in sequences], dtype=np.int64))
        self._ends = np.sort(np.array([s.ended_ns for s in sequences], dtype=np.int64))

    @property
    def ended_ns(self) -> int:
        """When the last request ended."""
        return self._epoch + int(self._ends[-1])

    def until(self, now_ns: int) -> Iterator[Live]:
        """What has been told by `now_ns` is put into the requests; those that are new are handed over."""
        at = now_ns - self._epoch
        while self._coming and self._coming[0][0].arrived_ns <= at:
            self._open.append(self._coming.popleft())
            yield self._open[-1][1]
        for sequence, live in self._open:
            self._tell(sequence, live, at)
        self._open = [(sequence, live) for sequence, live in self._open if live.ended_ns is None]

    def counted(self, now_ns: int) -> tuple[int, int]:
        """The engine's own counters: output tokens so far, requests running."""
        at = now_ns - self._epoch
        written, begun, ended = (
            int(np.searchsorted(instants, at, side="right")) for instants in (self._written, self._begins, self._ends)
        )
        return written, begun - ended

    def _tell(self, sequence: Sequence, live: Live, at: int) -> None:
        told = live.points[-1][0] - self._epoch if live.points else sequence.arrived_ns
        while (told := told + NS) <= at and told < sequence.ended_ns:
            written = bisect_right(sequence.tokens, told)
            if written:
                live.points.append((self._epoch + told, written))
        if sequence.ended_ns <= at:
            live.ended_ns = self._epoch + sequence.ended_ns
            live.first_token_ns = self._epoch + sequence.tokens[0]
            live.outcome = "ok"
            cached, fresh = sequence.cached or None, sequence.fresh
            live.usage = Usage(input_tokens=fresh, input_cached_tokens=cached, output_tokens=sequence.output)
