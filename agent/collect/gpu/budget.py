"""How much of the time is spent in NVML, in; by how much the slower tiers are to be stretched, out. Pure.

NVML's calls take the driver's lock and hold up the work on the GPU, so they have a budget. What is read each second is
cheap by design; when a driver answers more slowly than expected, the slower tiers wait longer until the share is kept.
"""

NS = 1_000_000_000

SHARE = 0.01  # of wall time, all GPUs together
STRETCH_MOST = 12.0
WINDOW_NS = 30 * NS  # three rounds of the slow tier at its default
_STEP_MOST = 2.0  # one window may be unlucky
_STEP_BACK = 0.8
_MARGIN = 1.1  # not only the slower tiers cost; without it, the budget would be approached for ever


class Budget:
    """One per process that calls NVML."""

    def __init__(self, share: float = SHARE, most: float = STRETCH_MOST, window_ns: int = WINDOW_NS) -> None:
        self.stretch = 1.0
        self.share: float | None = None  # measured in the last window that is complete
        self._budget = share
        self._most = most
        self._window_ns = window_ns
        self._start: tuple[int, float] | None = None

    def observe(self, boot_ns: int, nvml_seconds_total: float) -> float:
        """At the end of each tick: the seconds spent in NVML since the process started. Returns the stretch to use.

        The first call begins the first window, so that the first contact, which may have to wake the GPUs, is not held
        against what follows. A total that falls, or a clock that does, begins a new window.
        """
        start = self._start
        if start is None or boot_ns < start[0] or nvml_seconds_total < start[1]:
            self._start = (boot_ns, nvml_seconds_total)
            return self.stretch
        # A stretched round takes longer than the window was made for; it is to be seen whole.
        if boot_ns - start[0] >= self._window_ns * self.stretch:
            self.share = (nvml_seconds_total - start[1]) / ((boot_ns - start[0]) / NS)
            self._start = (boot_ns, nvml_seconds_total)
            self._judge(self.share)
        return self.stretch

    def _judge(self, share: float) -> None:
        over = share / self._budget
        if over > 1:
            self.stretch = min(self._most, self.stretch * min(over * _MARGIN, _STEP_MOST))
        elif over < _STEP_BACK * _STEP_BACK:
            # If all of it came from the slower tiers, going back one step costs `1 / _STEP_BACK` as much: still within.
            self.stretch = max(1.0, self.stretch * _STEP_BACK)
