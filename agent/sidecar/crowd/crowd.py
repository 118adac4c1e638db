"""Clients come and go → who may stay, who is too slow, how many were turned away and why. Reads no clock.

Cheap on purpose: a connection costs a few integers, a request a comparison or two.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import structlog

from agent.clock import NS
from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.samples import Labels, Sample
from agent.doors.limits import RateLimiter, source_key
from agent.sidecar.crowd.settings import CrowdSettings

log = structlog.get_logger()

Reason = Literal[
    "connections", "source_connections", "rate", "slow_head", "slow_body", "head_size", "body_size", "pipelined"
]
REASONS: tuple[Reason, ...] = (
    "connections",
    "source_connections",
    "rate",
    "slow_head",
    "slow_body",
    "head_size",
    "body_size",
    "pipelined",
)
SAY_AGAIN_NS = 60 * NS  # each reason is logged at most so often
MAX_SOURCES = 16384  # whose rate is remembered
SPARE_DESCRIPTORS = 128  # for everything but clients and engines
_NO_LIMIT = 1 << 63


def room_for(wanted: int, descriptors: int) -> int:
    """Connections that fit when the process may have so many files open: two each, and some for the rest."""
    return max(1, min(wanted, (descriptors - SPARE_DESCRIPTORS) // 2))


def source_of(peername: object) -> str | None:
    """The source of a transport's `peername`; None for a client on a unix socket."""
    return source_key(str(peername[0])) if isinstance(peername, tuple) and peername else None


class Crowd:
    """All clients of one listener. `descriptors`: files that the process may have open, `RLIMIT_NOFILE`."""

    __slots__ = (
        "_by_source",
        "_crowded",
        "_idle_crowded_ns",
        "_idle_ns",
        "_per_source",
        "_rates",
        "_said",
        "connections",
        "max_body_bytes",
        "max_connections",
        "max_pipelined",
        "pacing",
        "refused",
    )  # fmt: skip

    def __init__(self, settings: CrowdSettings, descriptors: int = _NO_LIMIT) -> None:
        self.connections = 0
        self.max_connections = room_for(settings.max_connections, descriptors)
        self.max_body_bytes = _NO_LIMIT if settings.max_body_bytes is None else settings.max_body_bytes
        self.max_pipelined = settings.max_pipelined
        self.pacing = Pacing(settings)
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._crowded = self.max_connections * 3 // 4
        self._idle_ns = int(settings.idle_seconds * NS)
        self._idle_crowded_ns = min(self._idle_ns, int(settings.crowded_idle_seconds * NS))
        self._per_source = settings.max_connections_per_source
        self._by_source: dict[str, int] = {}
        self._said: dict[str, tuple[int, int]] = {}  # when each reason was last logged, and how many there were then
        rate = settings.requests_per_second
        self._rates = RateLimiter(rate, settings.burst, MAX_SOURCES) if rate is not None else None

    def came(self, source: str | None, now_ns: int) -> Reason | None:
        """A client connected: None, it may stay, and `left` must follow; else why not, and `left` must not follow."""
        if self.connections >= self.max_connections:
            return self._refuse("connections", source, now_ns)
        if self._per_source is not None and source is not None:
            there = self._by_source.get(source, 0)
            if there >= self._per_source:
                return self._refuse("source_connections", source, now_ns)
            self._by_source[source] = there + 1
        self.connections += 1
        return None

    def left(self, source: str | None) -> None:
        """The connection of a client that had been let in is closed."""
        self.connections -= 1
        if self._per_source is not None and source is not None:
            there = self._by_source[source] - 1
            if there:
                self._by_source[source] = there
            else:
                del self._by_source[source]

    def request(self, source: str | None, now_ns: int) -> float | None:
        """A request began: None, go on; else it is one too many, and the seconds after which to try again."""
        if self._rates is None or source is None:
            return None
        wait_seconds = self._rates.admit(source, now_ns)
        if wait_seconds is not None:
            self._refuse("rate", source, now_ns)
        return wait_seconds

    @property
    def idle_ns(self) -> int:
        """How long a connection may now be without a request."""
        return self._idle_ns if self.connections <= self._crowded else self._idle_crowded_ns

    def refuse(self, reason: Reason, source: str | None, now_ns: int) -> None:
        """Count what the connection found out itself, and say so now and then."""
        self._refuse(reason, source, now_ns)

    def _refuse(self, reason: Reason, source: str | None, now_ns: int) -> Reason:
        self.refused[reason] += 1
        times = self.refused[reason]
        last = self._said.get(reason)
        if last is None or now_ns - last[0] >= SAY_AGAIN_NS:
            since = times - (last[1] if last is not None else 0)
            self._said[reason] = (now_ns, times)
            log.warning("client_refused", reason=reason, source=source or "unix", times=since)
        return reason

    def numbers(self, labels: Labels) -> Iterator[Sample]:
        """For /metrics."""
        yield from gauge("engineroom_sidecar_connections", self.connections, labels)
        yield from gauge("engineroom_sidecar_connections_limit", self.max_connections, labels)
        yield from labelled("engineroom_sidecar_refused_total", self.refused, "reason", labels)


class Pacing:
    """How slow a client may be, in the units that `Pace` counts in."""

    __slots__ = ("grace_ns", "head_ns", "rate")

    def __init__(self, settings: CrowdSettings) -> None:
        self.head_ns = int(settings.head_timeout_seconds * NS)
        self.grace_ns = int(settings.body_grace_seconds * NS)
        self.rate = settings.min_body_bytes_per_second


_RESTING, _HEAD, _BODY = range(3)


class Pace:
    """How one client keeps up with sending its requests. It is looked at now and then with `slow`.

    For each request: `head_began` at its first byte, `body_began` when its head is whole and a body follows, `body` for
    each piece, `done` at its end. `held` and `resumed` when we stop and go on reading from the client.
    """

    __slots__ = ("_bytes", "_held_at_ns", "_pacing", "_since_ns", "_what", "total")

    def __init__(self, pacing: Pacing) -> None:
        self.total = 0  # bytes of this request's body
        self._pacing = pacing
        self._what = _RESTING
        self._since_ns = 0  # when the head began, or the span over which the body's speed is averaged
        self._bytes = 0  # in that span
        self._held_at_ns: int | None = None

    def head_began(self, now_ns: int) -> None:
        """The first byte of a head is there. Called again for the same head, it changes nothing."""
        if self._what != _HEAD:
            self._what, self._since_ns = _HEAD, now_ns

    def body_began(self, now_ns: int) -> None:
        """The head is whole, a body follows."""
        self._what, self._since_ns = _BODY, now_ns
        self._bytes = self.total = 0

    def body(self, size: int) -> int:
        """A piece of the body; returns how much there was of it in all, to compare with `Crowd.max_body_bytes`."""
        self._bytes += size
        self.total += size
        return self.total

    def done(self) -> None:
        """The request is whole, or given up."""
        self._what = _RESTING

    def held(self, now_ns: int) -> None:
        """We do not read from the client for now: its time stands still."""
        if self._held_at_ns is None:
            self._held_at_ns = now_ns

    def resumed(self, now_ns: int) -> None:
        """We read again."""
        if self._held_at_ns is not None:
            self._since_ns += max(0, now_ns - max(self._held_at_ns, self._since_ns))
            self._held_at_ns = None

    def slow(self, now_ns: int) -> Reason | None:
        """Why this client is too slow; None while it is not."""
        if self._what == _RESTING or self._held_at_ns is not None:
            return None
        pacing = self._pacing
        passed_ns = now_ns - self._since_ns
        if self._what == _HEAD:
            return "slow_head" if passed_ns > pacing.head_ns else None
        if passed_ns <= pacing.grace_ns:
            return None
        if self._bytes * NS < pacing.rate * passed_ns:
            return "slow_body"
        self._since_ns, self._bytes = now_ns, 0
        return None
