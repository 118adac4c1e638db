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
from math import isfinite
from typing import NamedTuple

from agent.core.cost.counted import Counted, Ended

NS = 1_000_000_000
QUIET_NS = 3 * NS
LATE_NS = NS // 4  # how much later than the sidecar an engine may count the end of a request
PACE_NS = 60 * NS
MOST_PENDING_NS = 600 * NS


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
        self._tokens = 0  # found and not taken yet
        # Of proxied requests, those settled together in one: (last end, in-flight ns, output tokens).
        self._ended: deque[tuple[int, int, int]] = deque()
        self._pace: tuple[int, int] | None = None

    def scrape(self, at_ns: int, tokens: float | None, running: float | None) -> None:
        """One scrape round: output tokens generated since the engine started, requests running now."""
        last = self._scrapes[-1] if self._scrapes else None
        if last is not None and at_ns <= last.at_ns:
            return
        whole = int(tokens) if tokens is not None and isfinite(tokens) and tokens >= 0 else None
        if running is not None and not (isfinite(running) and running >= 0):
            running = None
        reset = whole is not None and last is not None and last.tokens is not None and whole < last.tokens
        self._scrapes.append(Scrape(at_ns, whole, running, reset))
        if len(self._scrapes) > 4096:  # the ledger cannot be written for an hour: keep the newest
            self._scrapes.popleft()

    def ended(self, ended: Ended) -> None:
        """Proxied requests that are settled and will not be among those of `take` again."""
        if not len(ended.tokens):
            return
        if self._since_ns is not None:
            self._ended_tokens += int(ended.tokens[ended.ended_ns > self._since_ns - LATE_NS].sum())
        wrote = ended.tokens > 0
        if wrote.any():
            in_flight, tokens = int(ended.in_flight_ns[wrote].sum()), int(ended.tokens[wrote].sum())
            self._ended.append((int(ended.ended_ns[wrote].max()), in_flight, tokens))

    @property
    def used_until_ns(self) -> int | None:
        """`take` still has to see settled requests that ended later. None: there is no scrape."""
        return self._scrapes[0].at_ns if self._scrapes else None

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

    def take(self, start_ns: int, end_ns: int, counted: Counted) -> int:
        """In-flight ns of bypass traffic to book on [start, end); several at once may make it longer than that.

        `counted`: all proxied requests that are not settled, or ended after `used_until_ns`.
        """
        self._learn(start_ns, end_ns, counted)
        length = end_ns - start_ns
        excess = self._excess(end_ns, counted)
        most = length * max(1, -int(-excess // 1))
        taken = min(self._pending_ns, most)
        self._pending_ns -= taken
        self._forget_before(end_ns)
        return taken

    def take_tokens(self) -> int:
        """Output tokens that were found since this was asked last. Where only the gauge tells there are none."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    def _learn(self, start_ns: int, end_ns: int, requests: Counted) -> None:
        later = [s for s in self._scrapes if s.at_ns >= end_ns]
        known = later or list(self._scrapes)[-1:]
        if not known:
            return
        if self._since_ns is None:
            self._rebase(self._scrapes[0])
        clear = [s for s in known if not requests.is_silent(s.at_ns)]
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
            self._tokens += lowest - self._booked
            self._booked = lowest
        elif lowest < self._booked and requests.was_quiet(scrape.at_ns - QUIET_NS, scrape.at_ns):
            self._rebase(scrape)

    def _rebase(self, scrape: Scrape) -> None:
        """Count from `scrape` on. Proxied requests in flight then count whole: rather miss bypass than invent it."""
        self._since_ns = scrape.at_ns
        self._tokens_then = scrape.tokens or 0
        self._residual_then = self._booked
        self._ended_tokens = 0

    def _residual(self, scrape: Scrape, requests: Counted) -> int | None:
        if scrape.tokens is None or self._since_ns is None or scrape.at_ns < self._since_ns:
            return None
        proxied = self._ended_tokens + requests.tokens(scrape.at_ns, self._since_ns - LATE_NS)
        return self._residual_then + scrape.tokens - self._tokens_then - proxied

    def _excess(self, at_ns: int, requests: Counted) -> float:
        """Running requests by the engine's gauge beyond the proxied ones, at the scrape nearest after `at_ns`."""
        scrape = next((s for s in self._scrapes if s.at_ns >= at_ns), self._scrapes[-1] if self._scrapes else None)
        if scrape is None or scrape.running is None:
            return 0.0
        return max(0.0, scrape.running - requests.in_flight(scrape.at_ns))

    def _in_flight(self, tokens: int, at_ns: int, requests: Counted) -> int:
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
