"""The kernel log in, errors of GPUs (Xids) out: /dev/kmsg, or a pipe or file that somebody writes the log into.

Records of /dev/kmsg carry an instant and survive us: those of before the start are history, which may say when an
error was last seen but is not counted. Lines of pipes and files are news of the moment at which they are read.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import structlog

from agent.clock import boot_ns, unix_ns
from agent.collect.gpu.settings import KernelLogSettings
from agent.core.gpu_readings import XidEvent
from agent.core.kmsg import parse_record
from agent.core.workloads import Feature
from agent.core.xid import MARK, parse_xid

log = structlog.get_logger()

REOPEN_SECONDS = 30.0
LOOK_SECONDS = 1.0  # a regular file cannot be waited for
_RECORD_BYTES = 16384  # a record that does not fit is refused by the kernel; its most is 8192
_AT_ONCE = 200  # records between two looks at what else there is to do
_LINE_MOST = 65536
_MARK = MARK.encode()

_REASONS = {
    errno.ENOENT: "it does not exist here; mount the host's /dev/kmsg into this container, read-only",
    errno.EACCES: "no permission; run as root or in the group that may read it",
    errno.EPERM: "no permission; the kernel asks for CAP_SYSLOG (kernel.dmesg_restrict=1)",
}
_WITHOUT = "Errors (Xids) that NVML does not tell, and the process that caused one, stay unknown."


class KernelLog:
    """Follows one log for as long as `run` runs. `on_xids` gets what is new, `on_history` what was before the start."""

    def __init__(
        self,
        settings: KernelLogSettings,
        on_xids: Callable[[Sequence[XidEvent]], None],
        on_history: Callable[[Sequence[XidEvent]], None],
        reopen_seconds: float = REOPEN_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.path = Path(settings.path)
        self.lost_lines = 0  # records that were overwritten before we read them
        self.feature = Feature(name="kernel_log", enabled=False, reason="starting")
        self._on_xids = on_xids
        self._on_history = on_history
        self._reopen_seconds = reopen_seconds
        self._look_seconds = look_seconds
        self._started_boot_ns = boot_ns()
        self._sequence: int | None = None
        self._rest = b""

    async def run(self) -> None:
        """For ever; cancel it to end. What is wrong with the log is said in `feature`, and tried again."""
        from_end = True
        while True:
            try:
                await self._follow(from_end=from_end)
            except OSError as error:
                self._say(error)
                from_end &= error.errno != errno.ENOENT  # one that was absent and comes is new from its first line on
            await anyio.sleep(self._reopen_seconds)

    def _say(self, error: OSError | None) -> None:
        reason = ""
        if error is not None:
            why = _REASONS.get(error.errno or 0, error.strerror or str(error))
            reason = f"{self.path} cannot be read: {why}. {_WITHOUT}"
        if (not reason, reason) != (self.feature.enabled, self.feature.reason):
            self.feature = Feature(name="kernel_log", enabled=not reason, reason=reason)
            write = log.warning if reason else log.info
            write("kernel_log", path=str(self.path), watched=not reason, reason=reason)

    async def _follow(self, *, from_end: bool) -> None:
        kind = self.path.stat().st_mode
        # A pipe is opened for writing too: it then has no end when its last writer goes.
        how = os.O_RDWR if stat.S_ISFIFO(kind) else os.O_RDONLY
        handle = os.open(self.path, how | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISCHR(kind):
                await self._records(handle)
            elif stat.S_ISREG(kind):
                await self._file(handle, from_end=from_end)
            else:
                await self._pipe(handle)
        finally:
            os.close(handle)

    async def _records(self, handle: int) -> None:
        """/dev/kmsg: each read is one record, from the oldest that the kernel still has."""
        while True:
            found: list[XidEvent] = []
            ended = False
            for _ in range(_AT_ONCE):
                try:
                    data = os.read(handle, _RECORD_BYTES)
                except BlockingIOError:
                    ended = True
                    break
                except BrokenPipeError:
                    continue  # what we stood at was overwritten; the next read is the oldest that is left
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    continue  # a record of absurd size; the kernel goes on to the next
                if not data:
                    raise OSError(errno.EIO, "it has come to its end")
                found += self._record(data)
            self._hand_over(found)
            if ended:
                self._say(None)
                await anyio.wait_readable(handle)
            else:
                await anyio.lowlevel.checkpoint()

    def _record(self, data: bytes) -> Iterator[XidEvent]:
        record = parse_record(data)
        if record is None:
            return
        before, self._sequence = self._sequence, record.sequence
        if before is not None and record.sequence <= before:
            self._sequence = before
            return  # read before, when this log was open last
        if before is not None:
            self.lost_lines += record.sequence - before - 1
        if _MARK in data and record.from_kernel:
            yield from self._event(record.message, unix_ns() - boot_ns() + record.at_us * 1000)

    def _event(self, line: str, at_ns: int) -> Iterator[XidEvent]:
        found = parse_xid(line)
        if found is not None:
            yield XidEvent(
                at_ns=at_ns,
                uuid="",
                xid=found.xid,
                source="kernel",
                pci_bus_id=found.pci,
                pid=found.pid,
                process=found.process,
                gpu_instance=found.gpu_instance,
                compute_instance=found.compute_instance,
                text=found.text,
            )

    def _hand_over(self, found: list[XidEvent]) -> None:
        start_ns = self._started_boot_ns + unix_ns() - boot_ns()
        old = [event for event in found if event.at_ns < start_ns]
        new = [event for event in found if event.at_ns >= start_ns]
        if old:
            self._on_history(old)
        if new:
            self._on_xids(new)

    def _lines(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_MOST:
            self._rest = b""  # no line of a kernel log
        now = unix_ns()
        lines = (line.decode("utf-8", "replace") for line in whole if _MARK in line)
        found = [event for line in lines for event in self._event(line, now)]
        if found:
            self._on_xids(found)

    async def _pipe(self, handle: int) -> None:
        self._say(None)
        while True:
            await anyio.wait_readable(handle)
            try:
                self._lines(os.read(handle, 65536))
            except BlockingIOError:
                pass  # somebody else has read it

    async def _file(self, handle: int, *, from_end: bool) -> None:
        """A file that grows. One that was rotated away or cut is opened anew, from its beginning."""
        self._say(None)
        at = os.lseek(handle, 0, os.SEEK_END if from_end else os.SEEK_SET)
        own = os.fstat(handle)
        while True:
            while data := os.read(handle, 65536):
                at += len(data)
                self._lines(data)
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(self._look_seconds)
            there = self.path.stat()
            if (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev):
                fresh = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(fresh, handle, inheritable=False)
                os.close(fresh)
                own, at, self._rest = os.fstat(handle), 0, b""
            elif there.st_size < at:
                at, self._rest = os.lseek(handle, 0, os.SEEK_SET), b""
