"""Process ids in, which of them still run and when the first was started out. Reads /proc/PID/stat; blocks, short."""

import os
from pathlib import Path

from agent.clock import NS
from agent.core.attribution.stat import parse_stat

_TICKS = os.sysconf("SC_CLK_TCK")
_ENDED = ("Z", "X")  # a zombie does no work


class Processes:
    """The processes of one engine, as they were when they were named; a later one of the same pid is none of them."""

    def __init__(self, pids: tuple[int, ...] = (), proc: Path = Path("/proc")) -> None:
        self.pids = pids
        self._proc = proc
        self._ticks = {pid: ticks for pid in pids if (ticks := self._start_ticks(pid)) is not None}

    def alive(self) -> tuple[int, ...]:
        """Those that still run, in the order given."""
        return tuple(pid for pid, ticks in self._ticks.items() if self._start_ticks(pid) == ticks)

    @property
    def started_boot_ns(self) -> int | None:
        """When the first of them was started, on the boot-time clock; None when it is not visible."""
        ticks = self._ticks.get(self.pids[0]) if self.pids else None
        return None if ticks is None else ticks * NS // _TICKS

    def _start_ticks(self, pid: int) -> int | None:
        try:
            text = (self._proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return None
        if text[text.rfind(")") + 2 :][:1] in _ENDED:
            return None
        stat = parse_stat(text)
        return None if stat is None else stat.start_ticks
