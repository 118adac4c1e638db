"""Two meters that turn what NVML says at an instant into totals: energy and time spent throttled. Pure."""

from collections.abc import Mapping
from typing import Literal

from agent.collect.gpu.codes import THROTTLE_REASONS

NS = 1_000_000_000
EnergySource = Literal["counter", "integrated"]


class EnergyMeter:
    """Joules of one GPU: the driver's counter while it agrees with power, else power integrated over time.

    A counter can be wrong: stuck, in another unit, jumping. So over every window of `WINDOW_NS` its growth is compared
    with the integral of power, and every single step with what power allows. When they differ by more than `FACTOR`,
    the counter is not used again until the driver is initialised anew, and the total goes on by integration from where
    the counter was last believed. The total falls only when the counter starts again from 0, as after a reset.
    """

    WINDOW_NS = 10 * NS
    FACTOR = 4.0
    MIN_JOULES = 50.0  # below this the comparison says nothing
    STEP_JOULES = 2000.0  # what one step may be off: some counters move in lumps, and power is seen at instants only
    RESET_WATTS = 2000.0  # a counter that has started anew has not counted faster than this

    def __init__(self, max_gap_ns: int) -> None:
        """`max_gap_ns`: power is not integrated across a longer silence."""
        self._max_gap_ns = max_gap_ns
        self._trusted = True
        self._total: float | None = None  # last one reported
        self._offset = 0.0  # total - counter; not 0 where the total began before the counter was there
        self._counter: tuple[int, float] | None = None  # the last one, with its boot_ns
        self._power: tuple[int, float] | None = None  # boot_ns, watts
        self._window: tuple[int, float] | None = None  # start, counter at start
        self._window_integral = 0.0

    def grows(self, counter_joules: float | None) -> bool:
        """Whether the counter is higher than at the reading before."""
        return counter_joules is not None and self._counter is not None and counter_joules > self._counter[1]

    def read(
        self, boot_ns: int, watts: float | None, counter_joules: float | None
    ) -> tuple[float | None, EnergySource | None]:
        """Total joules at this instant and where they come from; (None, None) while neither is known."""
        gained = self._integrate(boot_ns, watts)
        if counter_joules is not None and self._trusted:
            if self._total is not None and self._counter is None:
                self._offset = self._total + gained - counter_joules
            elif self._restarted(boot_ns, counter_joules):
                self._offset, self._total, self._window = 0.0, None, None
            self._trusted = self._agrees(boot_ns, counter_joules, gained, known=watts is not None)
            if self._trusted:
                self._counter = (boot_ns, counter_joules)
                self._total = max(self._total or 0.0, counter_joules + self._offset)
                return self._total, "counter"
            believed = self._window[1] + self._offset if self._window else 0.0
            self._total = max((self._total or 0.0) + gained, believed + self._window_integral)
            return self._total, "integrated"
        if watts is None:
            return None, None
        self._total = (self._total or 0.0) + gained
        return self._total, "integrated"

    def _integrate(self, boot_ns: int, watts: float | None) -> float:
        last, self._power = self._power, (boot_ns, watts) if watts is not None else None
        if last is None or watts is None or not 0 < boot_ns - last[0] <= self._max_gap_ns:
            return 0.0
        return (boot_ns - last[0]) / NS * (watts + last[1]) / 2

    def _restarted(self, boot_ns: int, counter: float) -> bool:
        """A counter that falls has started anew if it is no further than it can be by now."""
        if self._counter is None or counter >= self._counter[1]:
            return False
        passed = (boot_ns - self._counter[0]) / NS
        return counter <= passed * self.RESET_WATTS

    def _agrees(self, boot_ns: int, counter: float, gained: float, *, known: bool) -> bool:
        if self._counter is not None and counter < self._counter[1] and self._window is not None:
            return False  # it fell, and not to the start
        if self._window is None or not known or gained == 0.0:
            self._window, self._window_integral = (boot_ns, counter), 0.0
            return True
        self._window_integral += gained
        if self._counter is not None and counter - self._counter[1] > self.FACTOR * gained + self.STEP_JOULES:
            return False
        start_ns, at_start = self._window
        if boot_ns - start_ns < self.WINDOW_NS:
            return True
        expected, grown = self._window_integral, counter - at_start
        if expected >= self.MIN_JOULES and not expected / self.FACTOR <= grown <= expected * self.FACTOR:
            return False
        self._window, self._window_integral = (boot_ns, counter), 0.0
        return True


class ThrottleMeter:
    """Seconds each reason was active: the driver's counter where there is one, else counted from readings of the mask.

    From the mask, a reason counts for the time since the reading before. A total does not fall when its source changes:
    where the counter is behind, the total waits for it. It falls only when the counter itself starts anew.
    """

    def __init__(self, max_gap_ns: int) -> None:
        """`max_gap_ns`: a longer silence is not counted, because nobody looked."""
        self._max_gap_ns = max_gap_ns
        # All start at 0, so that the first occurrence is an increase. Being idle is not being throttled.
        self.seconds = dict.fromkeys((word for word in THROTTLE_REASONS.values() if word != "gpu_idle"), 0.0)
        self._last_ns: int | None = None
        self._counters: dict[str, float] = {}

    def add(self, boot_ns: int, reasons: tuple[str, ...] | None, counted: Mapping[str, float] | None = None) -> None:
        """`reasons` active now (None: not known), and the driver's own seconds of those that it counts."""
        for word, seconds in (counted or {}).items():
            restarted = seconds < self._counters.get(word, 0.0)
            self.seconds[word] = seconds if restarted else max(seconds, self.seconds.get(word, 0.0))
            self._counters[word] = seconds
        last, self._last_ns = self._last_ns, boot_ns if reasons is not None else None
        if reasons is None or last is None or not 0 < boot_ns - last <= self._max_gap_ns:
            return
        passed = (boot_ns - last) / NS
        for word in reasons:
            if word != "gpu_idle" and word not in (counted or {}):
                self.seconds[word] = self.seconds.get(word, 0.0) + passed
