"""The only place that reads a clock, and what a process needs to know of its machine. Imports nothing heavy.

Two clocks. `unix_ns` is the wall clock: it labels what people see and what other machines receive. `boot_ns` is the
boot-time clock: it never steps and counts through suspend, so every timer and the bill run on it.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

NS = 1_000_000_000
_BOOTTIME = time.CLOCK_BOOTTIME
_clock_gettime_ns = time.clock_gettime_ns


def unix_ns() -> int:
    """Wall clock, integer Unix nanoseconds UTC. May step."""
    return time.time_ns()


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included. Never steps (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Identity of this boot of the machine; instants of `boot_ns` compare only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class BillClock:
    """Unix time as it was at `anchor`, carried on by the boot-time clock: wall-clock steps do not reach the bill."""

    def __init__(self, anchor_unix_ns: int, anchor_boot_ns: int) -> None:
        self.anchor_unix_ns = anchor_unix_ns
        self.anchor_boot_ns = anchor_boot_ns
        self._offset_ns = anchor_unix_ns - anchor_boot_ns

    @classmethod
    def from_now(cls) -> "BillClock":
        return cls(unix_ns(), boot_ns())

    def now_ns(self) -> int:
        return _clock_gettime_ns(_BOOTTIME) + self._offset_ns  # called several times for each request

    def steps_ns(self) -> int:
        """How far the wall clock has moved against the bill's clock since the anchor."""
        return unix_ns() - self.now_ns()


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1
    if libc.prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
