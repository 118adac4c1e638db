"""Looks at one engine in; its restarts, the time it took to be ready and whether it starts again and again out.

All instants are of the boot-time clock, so that a step of the wall clock is neither a restart nor a wait. Only the
start of a process comes in wall time: `LifeSeen.clock_offset_ns` says how the two stand now.
"""

from collections import deque

from msgspec import Struct

NS = 1_000_000_000

CRASH_LOOP_RESTARTS = 3
CRASH_LOOP_NS = 600 * NS  # so many restarts within this time are a crash loop, and as long without one ends it
START_JITTER_NS = 2 * NS  # the start of a process is known to a clock tick, or only to the second


class LifeSeen(Struct, frozen=True, kw_only=True):
    """One look at an engine."""

    at_ns: int  # boot-time clock
    live: bool  # its process answers, or a worker's process is there
    ready: bool | None = None  # None: it does not say
    process_started_at_ns: int | None = None  # Unix ns; None: its process is not visible
    clock_offset_ns: int = 0  # Unix time minus boot time, at this look
    counters_fell: bool | None = None  # a total is smaller than at the look before; None: no totals were seen


class _Started(Struct, frozen=True):
    """When a process began, by both clocks: whoever told it may or may not have followed a step of the wall clock."""

    unix_ns: int
    boot_ns: int

    def is_after(self, other: "_Started") -> bool:
        return min(self.unix_ns - other.unix_ns, self.boot_ns - other.boot_ns) > START_JITTER_NS


class EngineLife:
    """What this agent has seen of one engine over time.

    A restart is a process that began later than the one before, or counters that fell: what is behind the port may be
    a proxy that lives on, or another machine's. Both together, however late one of them is noticed, are one restart.
    An engine that was ready when it was first seen has been so for an unknown time: `ready_after_seconds` stays None
    until its next start.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self.ready_after_seconds: float | None = None
        self._process: _Started | None = None
        self._last_ns: int | None = None
        self._unready_ns: int | None = None  # since when this process has answered without being ready
        self._first_ready_ns: int | None = None
        self._watched = False  # there was a look before the one that found it ready
        self._comparable = False  # totals were seen since the last restart
        self._fell_ns: int | None = None  # a restart known only by fallen counters: its process is still to be seen
        self._restarts: deque[int] = deque(maxlen=CRASH_LOOP_RESTARTS)
        self._looping = False

    def see(self, look: LifeSeen) -> None:
        """Take one look into account. Looks come in the order of time."""
        self._see_process(look)
        if look.counters_fell is not None:
            if look.counters_fell and self._comparable:
                self._restart(look.at_ns)
                self._fell_ns = look.at_ns
            self._comparable = True
        self._see_ready(look)
        self._last_ns = look.at_ns
        self._see_loop(look.at_ns)

    @property
    def started(self) -> bool | None:
        """Whether it has been seen ready since its process began; None before the first look."""
        return None if self._last_ns is None else self._first_ready_ns is not None

    @property
    def crash_looping(self) -> bool:
        """Three restarts within ten minutes, and no ten minutes without one since."""
        return self._looping

    def _see_process(self, look: LifeSeen) -> None:
        if look.process_started_at_ns is None:
            return
        now = _Started(look.process_started_at_ns, look.process_started_at_ns - look.clock_offset_ns)
        before, self._process = self._process, now
        if before is None or not now.is_after(before):
            return
        if self._fell_ns is not None and now.boot_ns <= self._fell_ns + START_JITTER_NS:
            self._fell_ns = None  # the restart that the counters told already
            self._tell_ready_after()
        else:
            self._restart(look.at_ns)

    def _restart(self, at_ns: int) -> None:
        self.restarts += 1
        self._restarts.append(at_ns)
        self.ready_after_seconds = self._first_ready_ns = self._unready_ns = self._fell_ns = None
        self._comparable = False

    def _see_ready(self, look: LifeSeen) -> None:
        if self._first_ready_ns is not None or not look.live:
            return
        if look.ready is False:
            self._unready_ns = look.at_ns if self._unready_ns is None else self._unready_ns
            return
        self._first_ready_ns, self._watched = look.at_ns, self._last_ns is not None
        self._tell_ready_after()

    def _tell_ready_after(self) -> None:
        """From the start of its process, or from when it first answered without being ready."""
        if self._first_ready_ns is None or not self._watched:
            return
        process_is_known = self._process is not None and self._fell_ns is None
        began_ns = self._process.boot_ns if self._process and process_is_known else self._unready_ns
        if began_ns is not None:
            self.ready_after_seconds = max(0, self._first_ready_ns - began_ns) / NS

    def _see_loop(self, at_ns: int) -> None:
        if not self._restarts:
            return
        first, last = self._restarts[0], self._restarts[-1]
        together = len(self._restarts) == CRASH_LOOP_RESTARTS and last - first <= CRASH_LOOP_NS
        self._looping = (self._looping or together) and at_ns - last <= CRASH_LOOP_NS
