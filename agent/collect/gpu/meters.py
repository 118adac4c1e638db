"""Two meters that turn what NVML says at an instant into totals: energy and time spent throttled. Pure."""

from typing import Literal

from agent.collect.gpu.codes import THROTTLE_REASONS

NS = 1_000_000_000
EnergySource = Literal["counter", "integrated"]


class EnergyMeter:
    """Joules of one GPU: the driver's counter while it agrees with power, else power integrated over time.

    A counter can be wrong (a T4 was seen reporting 15 mJ while drawing 68 W), so over every window of `WINDOW_NS` its
    growth is compared with the integral of power; when they differ by more than `FACTOR`, the counter is not used
    again until the driver is initialised anew. The total then goes on from where the counter was last believed.
    """

    WINDOW_NS = 10 * NS
    FACTOR = 4.0
    MIN_JOULES = 50.0  # below this the comparison says nothing

    def __init__(self, max_gap_ns: int) -> None:
        """`max_gap_ns`: power is not integrated across a longer silence."""
        self._max_gap_ns = max_gap_ns
        self._trusted = True
        self._total = 0.0  # last one reported
        self._last: tuple[int, float] | None = None  # boot_ns, watts
        self._window: tuple[int, float] | None = None  # start, counter at start
        self._window_integral = 0.0

    def read(
        self, boot_ns: int, watts: float | None, counter_joules: float | None
    ) -> tuple[float | None, EnergySource | None]:
        """Total joules at this instant and where they come from; (None, None) while neither is known."""
        gained = self._integrate(boot_ns, watts)
        if counter_joules is not None and self._trusted:
            self._trusted = self._agrees(boot_ns, counter_joules, gained, known=watts is not None)
            if self._trusted:
                self._total = counter_joules
                return counter_joules, "counter"
            believed = self._window[1] if self._window else 0.0
            self._total = max(self._total, believed + self._window_integral)
            return self._total, "integrated"
        self._total += gained
        if watts is None:
            return None, None
        return self._total, "integrated"

    def _integrate(self, boot_ns: int, watts: float | None) -> float:
        last, self._last = self._last, (boot_ns, watts) if watts is not None else None
        if last is None or watts is None or not 0 < boot_ns - last[0] <= self._max_gap_ns:
            return 0.0
        return (boot_ns - last[0]) / NS * (watts + last[1]) / 2

    def _agrees(self, boot_ns: int, counter: float, gained: float, *, known: bool) -> bool:
        if self._window is None or not known or counter < self._window[1] or gained == 0.0:
            self._window, self._window_integral = (boot_ns, counter), 0.0
            return True
        self._window_integral += gained
        start_ns, at_start = self._window
        if boot_ns - start_ns < self.WINDOW_NS:
            return True
        expected, grown = self._window_integral, counter - at_start
        if expected >= self.MIN_JOULES and not expected / self.FACTOR <= grown <= expected * self.FACTOR:
            return False
        self._window, self._window_integral = (boot_ns, counter), 0.0
        return True


class ThrottleMeter:
    """Seconds each reason was active, from readings of the mask: a reason counts for the time since the last one."""

    def __init__(self, max_gap_ns: int) -> None:
        """`max_gap_ns`: a longer silence is not counted, because nobody looked."""
        self._max_gap_ns = max_gap_ns
        # All start at 0, so that the first occurrence is an increase. Being idle is not being throttled.
        self.seconds = dict.fromkeys((word for word in THROTTLE_REASONS.values() if word != "gpu_idle"), 0.0)
        self._last_ns: int | None = None

    def add(self, boot_ns: int, reasons: tuple[str, ...] | None) -> None:
        last, self._last_ns = self._last_ns, boot_ns if reasons is not None else None
        if reasons is None or last is None or not 0 < boot_ns - last <= self._max_gap_ns:
            return
        passed = (boot_ns - last) / NS
        for word in reasons:
            if word != "gpu_idle":
                self.seconds[word] = self.seconds.get(word, 0.0) + passed
