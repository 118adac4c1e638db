"""Traffic that went past the sidecar: an engine's own counters minus proxied tokens in, in-flight time out.

Let E(s) be output tokens the engine had counted at scrape s and P(s) those of proxied requests by then (interpolated
between progress events). R(s) = E(s) - P(s) is bypass traffic plus noise: counters and events do not move at the same
instant. Bypass traffic never shrinks, so what is booked by tick end b is the running maximum of
``min(R(s) for scrapes s >= b)``: noise shorter than the settlement's watermark cancels. New residual tokens become
in-flight time at the pace of proxied requests (in-flight ns per output token over the last minute of them); without
any, by the gauge of running requests; without that, as one request that was busy for the scrape interval.

Limits. The estimate is only as good as the engine's token counters. While a proxied request is open that tells no
progress (not streamed), P is unknown: then the gauge decides, and without a gauge nothing is booked. An engine that
counts tokens when a request ends (llama.cpp) makes bypass time show up late, after the request. Whenever the engine
was quiet for some seconds, leftovers of noise are forgotten, so an error cannot pile up.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

NS = 1_000_000_000
QUIET_NS = 3 * NS
LATE_NS = NS // 4  # how much later than the sidecar an engine may count the end of a request
PACE_NS = 60 * NS
MOST_PENDING_NS = 600 * NS


class Proxied(Protocol):
    """A proxied request, as far as bypass estimation needs it."""

    @property
    def started_ns(self) -> int: ...

    @property
    def ended_ns(self) -> int | None: ...

    def tokens_at(self, at_ns: int) -> int: ...

    def is_silent(self, at_ns: int) -> bool:
        """True if it is unknown how many tokens it had at `at_ns`."""
        ...


class Scrape(NamedTuple):
    """Totals of one engine at one instant; `tokens` counts on through the resets that were noticed."""

    at_ns: int
    tokens: int | None
    running: float | None
    reset: bool = False


class Bypass:
    """The residual of one engine. `take` answers how much bypass in-flight time belongs to a stretch of time."""

    def __init__(self) -> None:
        self._scrapes: deque[Scrape] = deque()
        self._since_ns: int | None = None  # R counts from here
        self._tokens_then = 0
        self._residual_then = 0
        self._ended_tokens = 0  # of proxied requests that were dropped since then
        self._booked = 0
        self._blind = False  # the gauge decided; tokens of that time must not be billed again
        self._pending_ns = 0
        self._ended: deque[tuple[int, int, int]] = deque()  # (end, in-flight ns, output tokens) of proxied requests
        self._pace: tuple[int, int] | None = None

    def scrape(self, at_ns: int, tokens: float | None, running: float | None) -> None:
        """One scrape round: output tokens generated since the engine started, requests running now."""
        last = self._scrapes[-1] if self._scrapes else None
        if last is not None and at_ns <= last.at_ns:
            return
        whole = None if tokens is None else int(tokens)
        reset = whole is not None and last is not None and last.tokens is not None and whole < last.tokens
        self._scrapes.append(Scrape(at_ns, whole, running, reset))
        if len(self._scrapes) > 4096:  # the ledger cannot be written for an hour: keep the newest
            self._scrapes.popleft()

    def ended(self, request: Proxied) -> None:
        """A proxied request is settled and will not be passed to `take` again."""
        if request.ended_ns is None:
            return
        tokens = request.tokens_at(request.ended_ns)
        if self._since_ns is not None and request.ended_ns > self._since_ns - LATE_NS:
            self._ended_tokens += tokens
        if tokens > 0:
            self._ended.append((request.ended_ns, request.ended_ns - request.started_ns, tokens))

    def keeps(self, request: Proxied) -> bool:
        """True while `take` still has to see a settled request: a scrape before its end is not used up."""
        return request.ended_ns is not None and bool(self._scrapes) and request.ended_ns > self._scrapes[0].at_ns

    @property
    def is_idle(self) -> bool:
        """True when nothing is waiting to be booked and the counters stand still: `take` would answer 0."""
        if self._pending_ns or self._blind:
            return False
        first = self._scrapes[0] if self._scrapes else None
        return all(s.tokens == first.tokens and not s.running for s in self._scrapes) if first else True

    def skip(self, end_ns: int) -> None:
        """Nothing is booked up to `end_ns` (`is_idle` was true, or no GPU belongs to the engine)."""
        self._forget_before(end_ns)

    def take(self, start_ns: int, end_ns: int, requests: Sequence[Proxied]) -> int:
        """In-flight ns of bypass traffic to book on [start, end); several at once may make it longer than that."""
        self._learn(start_ns, end_ns, requests)
        length = end_ns - start_ns
        excess = self._excess(end_ns, requests)
        most = length * max(1, -int(-excess // 1))
        taken = min(self._pending_ns, most)
        self._pending_ns -= taken
        self._forget_before(end_ns)
        return taken

    def _learn(self, start_ns: int, end_ns: int, requests: Sequence[Proxied]) -> None:
        later = [s for s in self._scrapes if s.at_ns >= end_ns]
        known = later or list(self._scrapes)[-1:]
        if not known:
            return
        if self._since_ns is None:
            self._rebase(self._scrapes[0])
        clear = [s for s in known if not any(request.is_silent(s.at_ns) for request in requests)]
        if not clear:
            self._blind = True
            self._add(int((end_ns - start_ns) * self._excess(end_ns, requests)))
            return
        fresh = next((s for s in reversed(self._scrapes) if s.reset and s.at_ns > (self._since_ns or 0)), None)
        if fresh is not None or self._blind:
            self._blind = False
            self._rebase(fresh or clear[0])
            return
        residuals = [(r, s) for s in clear if (r := self._residual(s, requests)) is not None]
        if not residuals:
            return
        lowest, scrape = min(residuals)
        if lowest > self._booked:
            self._add(self._in_flight(lowest - self._booked, end_ns, requests))
            self._booked = lowest
        elif lowest < self._booked and self._was_quiet(scrape.at_ns, requests):
            self._rebase(scrape)

    def _rebase(self, scrape: Scrape) -> None:
        """Count from `scrape` on. Proxied requests in flight then count whole: rather miss bypass than invent it."""
        self._since_ns = scrape.at_ns
        self._tokens_then = scrape.tokens or 0
        self._residual_then = self._booked
        self._ended_tokens = 0

    def _residual(self, scrape: Scrape, requests: Iterable[Proxied]) -> int | None:
        if scrape.tokens is None or self._since_ns is None or scrape.at_ns < self._since_ns:
            return None
        proxied = self._ended_tokens
        for request in requests:
            if request.ended_ns is None or request.ended_ns > self._since_ns - LATE_NS:
                proxied += request.tokens_at(scrape.at_ns)
        return self._residual_then + scrape.tokens - self._tokens_then - proxied

    def _was_quiet(self, at_ns: int, requests: Iterable[Proxied]) -> bool:
        before = at_ns - QUIET_NS
        return not any(r.started_ns < at_ns and (r.ended_ns is None or r.ended_ns > before) for r in requests)

    def _excess(self, at_ns: int, requests: Iterable[Proxied]) -> float:
        """Running requests by the engine's gauge beyond the proxied ones, at the scrape nearest after `at_ns`."""
        scrape = next((s for s in self._scrapes if s.at_ns >= at_ns), self._scrapes[-1] if self._scrapes else None)
        if scrape is None or scrape.running is None:
            return 0.0
        at = scrape.at_ns
        ours = sum(1 for r in requests if r.started_ns <= at and (r.ended_ns is None or r.ended_ns > at))
        return max(0.0, scrape.running - ours)

    def _in_flight(self, tokens: int, at_ns: int, requests: Iterable[Proxied]) -> int:
        while self._ended and self._ended[0][0] < at_ns - PACE_NS:
            self._ended.popleft()
        if self._ended:
            self._pace = (sum(e[1] for e in self._ended), sum(e[2] for e in self._ended))
        if self._pace is not None:
            return tokens * self._pace[0] // self._pace[1]
        scrapes = list(self._scrapes)
        interval = scrapes[1].at_ns - scrapes[0].at_ns if len(scrapes) > 1 else NS
        return int(interval * max(1.0, self._excess(at_ns, requests)))

    def _add(self, in_flight_ns: int) -> None:
        self._pending_ns = min(self._pending_ns + in_flight_ns, MOST_PENDING_NS)

    def _forget_before(self, at_ns: int) -> None:
        """Keep the last scrape at or before `at_ns`: it is what is known when no later one has come."""
        while len(self._scrapes) > 1 and self._scrapes[1].at_ns <= at_ns:
            self._scrapes.popleft()
