"""A raw number from NVML in, the number or None out: what cannot be true is absent, never passed on. Pure.

Drivers leave "blank" values in places that they do not fill (9223372036854775794 and its neighbours, all ones), sensors
that do not exist read 0 °C, ratios overshoot (1.29 was seen), and lists carry pids of processes long gone.
"""

import math

# What NVIDIA's tools call blank: not set, not found, not supported, no permission; of 32 and 64 bits.
_BLANKS_64 = range(0x7FFF_FFFF_FFFF_FFF0, 0x7FFF_FFFF_FFFF_FFFF + 1)
_BLANKS_32 = range(0x7FFF_FFF0, 0x7FFF_FFFF + 1)
_ALL_ONES_64, _ALL_ONES_32 = 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF

RATIO_MOST = 2.0  # a ratio above this is not an overshoot but nonsense
WATTS_MOST = 20_000.0
CELSIUS_LEAST, CELSIUS_MOST = -60.0, 200.0
CLOCK_HERTZ_MOST = 100e9
LANES = frozenset((1, 2, 4, 8, 16, 32))
PCIE_GENERATION_MOST = 16
PERFORMANCE_STATE_MOST = 15  # 32 is "unknown"
PID_MOST = 2**22  # the most that Linux gives out


def is_blank(value: float, bits: int = 64) -> bool:
    """Whether `value` means "nothing". `bits` is the size of the quantity: in 64 bits, 2147483632 is a plain number."""
    if math.isnan(value) or value in _BLANKS_64 or value == _ALL_ONES_64:
        return True
    return bits == 32 and (value in _BLANKS_32 or value == _ALL_ONES_32)


def count(value: float | None) -> int | None:
    """A counter of 64 bits."""
    return None if value is None or is_blank(value) or not 0 <= value < 2**64 else int(value)


def small_count(value: float | None) -> int | None:
    """A counter of 32 bits."""
    return None if value is None or is_blank(value, 32) or not 0 <= value < 2**32 else int(value)


def ratio(percent: float | None) -> float | None:
    """0..1 from a percentage. One that overshoots is 1 (`overshoots` says so); far above, it is nothing."""
    if percent is None or is_blank(percent, 32) or not 0 <= percent <= 100 * RATIO_MOST:
        return None
    return min(percent / 100, 1.0)


def overshoots(percent: float | None) -> bool:
    """Whether `ratio` had to cut it to 1."""
    return percent is not None and 100 < percent <= 100 * RATIO_MOST


def celsius(value: float | None) -> float | None:
    """A temperature of a chip that works."""
    return None if value is None or is_blank(value, 32) or not CELSIUS_LEAST <= value <= CELSIUS_MOST else float(value)


def sensor_celsius(value: float | None) -> float | None:
    """As `celsius`, where 0 is what a sensor reads that does not exist (memory of an L40S, T4, L4)."""
    return None if value == 0 else celsius(value)


def watts(milliwatts: float | None) -> float | None:
    """Power."""
    if milliwatts is None or is_blank(milliwatts, 32) or not 0 <= milliwatts <= 1000 * WATTS_MOST:
        return None
    return milliwatts / 1000


def limit_watts(milliwatts: float | None) -> float | None:
    """A power limit; 0 is none."""
    return watts(milliwatts) or None


def hertz(megahertz: float | None) -> float | None:
    """A clock."""
    if megahertz is None or is_blank(megahertz, 32) or not 0 <= megahertz <= CLOCK_HERTZ_MOST / 1e6:
        return None
    return megahertz * 1e6


def fits(used: int | None, total: int | None) -> bool:
    """Whether an amount of memory can be part of `total`."""
    return used is not None and total is not None and not is_blank(total) and 0 <= used <= total and total > 0


def pid(value: int | None) -> int | None:
    """A process id that Linux can have given out."""
    return None if value is None or not 0 < value <= PID_MOST else value


def process_memory(value: int | None, total: int | None) -> int | None:
    """Memory of one process: no more than the GPU has, where that is known."""
    if value is None or is_blank(value) or value < 0:
        return None
    return None if total is not None and value > total else value


def lanes(value: float | None) -> int | None:
    """PCIe link width."""
    return int(value) if value in LANES else None


def pcie_generation(value: float | None) -> int | None:
    """PCIe generation."""
    return None if value is None or not 1 <= value <= PCIE_GENERATION_MOST else int(value)


def performance_state(value: float | None) -> int | None:
    """P0 to P15."""
    return None if value is None or not 0 <= value <= PERFORMANCE_STATE_MOST else int(value)


class Widened:
    """A byte counter that the driver keeps in 32 bits, as a total that does not wrap.

    More than one wrap between two readings cannot be seen. So when a step is half the range or more, the counter is not
    believed again: then the total is absent, which is better than one that is too low.
    """

    __slots__ = ("_last", "_lost", "_total")

    def __init__(self) -> None:
        self._last: int | None = None
        self._total = 0
        self._lost = False

    def read(self, raw: int) -> int | None:
        """The total at this reading; None once it cannot be known."""
        step = 0 if self._last is None else (raw - self._last) % 2**32
        self._total = raw if self._last is None else self._total + step
        self._last = raw
        self._lost = self._lost or step >= 2**31
        return None if self._lost else self._total
