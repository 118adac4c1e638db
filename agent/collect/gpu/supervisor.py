"""Runs the GPU reader and replaces it when it crashes or hangs; a `GpuSnapshot` per tick out, whatever happens.

The cadence is here: the reader does nothing unless it is sent a tick. A reader that names a GPU and then says nothing
for too long is killed and left behind; the next one does not touch that GPU until the driver has let go of the old
process and a pause has passed.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import structlog

from agent.clock import boot_ns, unix_ns
from agent.collect.gpu.child import Child, ReaderEnded
from agent.collect.gpu.frames import (
    EXIT_ALL_UNKNOWN,
    EXIT_VERSION_MISMATCH,
    GpuRead,
    Tick,
    TickEnded,
    Touching,
)
from agent.collect.gpu.meters import NS
from agent.collect.gpu.roster import Benched, Roster
from agent.collect.gpu.settings import GpuSettings
from agent.core.gpu_readings import DriverState, GpuReading, GpuSnapshot

log = structlog.get_logger()

MAX_ABANDONED = 3
FIRST_CONTACT = 6.0  # times the deadline: without persistence mode the first contact wakes the GPU
CRASHES_TO_BENCH = 3  # that many crashes in a row on the same GPU, and it is left alone
BENCH_FIRST_NS = 30 * NS
BENCH_MOST_NS = 600 * NS
RESTART_FIRST_SECONDS = 1.0
RESTART_MOST_SECONDS = 60.0
END_PATIENCE_SECONDS = 1.0


_STARTING = Touching(what="its own start", first=True)
_RECEIVING = Touching(what="receiving the tick")


class ReaderHung(Exception):
    """No message within the deadline; `touching` is what the reader was about to do."""

    def __init__(self, touching: Touching) -> None:
        super().__init__(f"no answer from {touching.what}")
        self.touching = touching


@dataclass(slots=True)
class Round:
    """What one reader has said during one tick."""

    read_at_ns: int
    touching: Touching
    read: list[GpuReading] = field(default_factory=list)
    ended: TickEnded | None = None


class GpuReader:
    """Publishes one `GpuSnapshot` per interval through `on_snapshot`, for as long as `run` runs.

    `command` is the reader's program and first arguments; default: the genuine one. `environment` is added to ours.
    For self metrics: `restarts`, `missed_ticks`, `call_errors` (since the present reader started), `last_tick_seconds`.
    """

    def __init__(
        self,
        settings: GpuSettings,
        on_snapshot: Callable[[GpuSnapshot], None],
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._on_snapshot = on_snapshot
        program = list(command) if command is not None else [sys.executable, "-m", "agent.collect.gpu.reader"]
        pace = ["--interval", str(settings.interval_seconds), "--slow-interval", str(settings.slow_interval_seconds)]
        self._command = program + pace
        self._environment = dict(environment or {})
        self.restarts = 0
        self.missed_ticks = 0
        self.call_errors: dict[str, int] = {}
        self.last_tick_seconds: float | None = None
        self._roster = Roster()
        self._benched: dict[int, Benched] = {}
        self._pauses: dict[int, int] = {}  # index -> how long it was benched last, while it has not answered since
        self._abandoned: list[Child] = []
        self._child: Child | None = None
        self._round = Round(0, _STARTING)
        self._crash_site: tuple[int | None, int] = (None, 0)
        self._restart_seconds = RESTART_FIRST_SECONDS
        self._replaced_for_unknown = False
        self._totals: tuple[dict[str, float], dict[str, int]] = ({}, {})
        self._shown: tuple[DriverState, str] = ("starting", "")
        self._due_ns = 0

    @property
    def pid(self) -> int | None:
        """Process id of the present reader."""
        return self._child.pid if self._child else None

    @property
    def abandoned(self) -> tuple[int, ...]:
        """Process ids of readers that were killed and have not ended yet: stuck in the driver."""
        self._abandoned = [child for child in self._abandoned if child.status() is None]
        return tuple(child.pid for child in self._abandoned)

    async def run(self) -> None:
        """For ever; cancel it to end. Does not raise for anything that drivers, GPUs or the reader do."""
        if not self._settings.enabled:
            self._publish(unix_ns(), "no_gpu", "reading GPUs is switched off (gpus.enabled)")
            await anyio.sleep_forever()
        self._publish(unix_ns(), "starting", "the GPU reader is starting")
        self._due_ns = boot_ns()
        try:
            while True:
                await self._one_reader()
        finally:
            with anyio.CancelScope(shield=True):
                if self._child is not None:
                    await self._child.end(END_PATIENCE_SECONDS)
                    self._child = None
                for child in self._abandoned:
                    await child.reaped(0.2)  # they were killed long ago; one in the kernel's hands is not waited for

    async def _one_reader(self) -> None:
        """From the start of one reader to its end, and the pause after it."""
        stuck = self.abandoned
        if len(stuck) > MAX_ABANDONED:
            pids = ", ".join(map(str, stuck))
            await self._wait("hung", f"{len(stuck)} readers are stuck in the driver (pids {pids}); reboot this node")
            return
        try:
            self._child = await Child.start(self._command, self._environment)
        except OSError as error:
            await self._wait("restarting", f"the GPU reader cannot be started: {error}", self._next_pause())
            return
        try:
            await self._tick(self._child, _STARTING)
            while True:
                await self._tick(self._child, _RECEIVING)
        except ReaderHung as hung:
            await self._leave_behind(self._child, hung.touching)
        except ReaderEnded as ended:
            await self._ended(self._child, str(ended))

    async def _tick(self, child: Child, touching: Touching) -> None:
        self._admit()
        began = boot_ns()
        self._round = Round(unix_ns(), touching)
        await child.send(Tick(unix_ns=self._round.read_at_ns, boot_ns=began, skip=tuple(sorted(self._benched))))
        while (ended := self._round.ended) is None:
            await self._listen(child)
        self._totals = (ended.call_seconds, ended.calls)
        self.call_errors = ended.errors
        self.last_tick_seconds = (boot_ns() - began) / NS
        self._publish(self._round.read_at_ns, ended.driver, ended.message, self._round.read)
        # Healthy again, unless this end came from a reader that asks to be replaced: then its socket closes next.
        if ended.driver == "ok" and any(reading.state == "ok" for reading in self._round.read):
            self._restart_seconds = RESTART_FIRST_SECONDS
            self._crash_site = (None, 0)
            self._replaced_for_unknown = False
        await self._next_turn()

    async def _listen(self, child: Child) -> None:
        patience = self._settings.call_deadline_seconds
        touching = self._round.touching
        # A GPU that hung before gets no second helping of patience: the others wait meanwhile.
        if touching.first and touching.index not in self._pauses:
            patience *= FIRST_CONTACT
        try:
            with anyio.fail_after(patience):
                answer = await child.answer()
        except TimeoutError:
            raise ReaderHung(touching) from None
        if isinstance(answer, Touching):
            self._round.touching = answer
        elif isinstance(answer, GpuRead):
            self._pauses.pop(answer.reading.index, None)
            self._round.read.append(self._roster.identify(answer.reading))
        else:
            self._round.ended = answer

    def _admit(self) -> None:
        """Benched GPUs whose pause is over, and whose old reader the driver has let go, may be touched again."""
        stuck = self.abandoned
        for index, bench in list(self._benched.items()):
            if boot_ns() >= bench.due_ns and bench.pid not in stuck:
                log.info("gpu_tried_again", gpu=index, state=bench.state)
                del self._benched[index]

    def _bench(self, index: int, benched: Benched) -> None:
        benched.pause_ns = min(2 * self._pauses.get(index, BENCH_FIRST_NS // 2), BENCH_MOST_NS)
        benched.due_ns = boot_ns() + benched.pause_ns
        self._pauses[index] = benched.pause_ns
        self._benched[index] = benched

    async def _leave_behind(self, child: Child, touching: Touching) -> None:
        self._child = None
        self._abandoned.append(child)
        self.restarts += 1
        await child.abandon()
        log.error("gpu_reader_hung", pid=child.pid, gpu=touching.index, call=touching.what)
        self._totals = ({}, {})
        if touching.index is None:
            message = f"the driver does not return from {touching.what}; trying again"
            await self._wait("hung", message, self._next_pause())
            return
        reason = (
            f"the driver did not answer about this GPU for {self._settings.call_deadline_seconds:g} s; "
            "it is left alone and tried again later; if it stays so, reset the GPU or reboot the node"
        )
        self._bench(touching.index, Benched("hung", reason, boot_ns(), 0, 0, pid=child.pid))

    async def _ended(self, child: Child, why: str) -> None:
        self.restarts += 1
        await child.end(END_PATIENCE_SECONDS)
        self._child = None
        status = child.status()
        self._totals = ({}, {})
        if status == EXIT_ALL_UNKNOWN and not self._replaced_for_unknown:
            self._replaced_for_unknown = True
            return  # at once: the message of the last tick stands until the new one has spoken
        if status in (EXIT_VERSION_MISMATCH, EXIT_ALL_UNKNOWN):
            ended = self._round.ended
            # Its answer was about a driver that it cannot use; nothing is being read until the next one speaks.
            state: DriverState = "no_driver" if status == EXIT_VERSION_MISMATCH else "restarting"
            await self._wait(state, ended.message if ended else why, self._next_pause())
            return
        log.error("gpu_reader_ended", pid=child.pid, status=status, reason=why, gpu=self._round.touching.index)
        self._blame(self._round.touching.index)
        await self._wait("restarting", _obituary(status, why), self._next_pause())

    def _blame(self, index: int | None) -> None:
        """Bench a GPU on which one reader after the other has crashed."""
        site, times = self._crash_site
        times = times + 1 if index == site else 1
        self._crash_site = (index, times)
        if index is not None and times >= CRASHES_TO_BENCH:
            reason = f"{times} readers in a row have crashed while reading this GPU; it is tried again later"
            self._bench(index, Benched("error", reason, boot_ns(), 0, 0))
            self._crash_site = (None, 0)
            self._restart_seconds = RESTART_FIRST_SECONDS

    def _next_pause(self) -> float:
        pause = self._restart_seconds
        self._restart_seconds = min(2 * pause, RESTART_MOST_SECONDS)
        return pause

    async def _wait(self, driver: DriverState, message: str, seconds: float = 0.0) -> None:
        """Say so at every turn for `seconds`, at least once."""
        until = boot_ns() + int(seconds * NS)
        while True:
            self._publish(unix_ns(), driver, message)
            await self._next_turn()
            if boot_ns() >= until:
                return

    async def _next_turn(self) -> None:
        """Sleep until the next point of the grid; points that have passed are skipped and counted."""
        interval = int(self._settings.interval_seconds * NS)
        self._due_ns += interval
        late = boot_ns() - self._due_ns
        if late > 0:
            missed = late // interval + 1
            self.missed_ticks += missed
            self._due_ns += missed * interval
        await anyio.sleep((self._due_ns - boot_ns()) / NS)

    def _publish(self, read_at_ns: int, driver: DriverState, message: str, read: Sequence[GpuReading] = ()) -> None:
        if (driver, message) != self._shown:
            write = log.info if driver in ("ok", "starting") else log.warning
            write("gpu_driver", state=driver, message=message)
            self._shown = (driver, message)
        self._on_snapshot(
            GpuSnapshot(
                read_at_ns=read_at_ns,
                driver=driver,
                message=message,
                gpus=self._roster.gpus(read, self._benched, read_at_ns, driver, message),
                nvml_call_seconds=self._totals[0],
                nvml_calls=self._totals[1],
                reader_restarts=self.restarts,
            )
        )


def _obituary(status: int | None, why: str) -> str:
    if status is None:
        return f"the GPU reader is being replaced: {why}"
    if status < 0:
        return f"the GPU reader was ended by signal {-status}; it is being restarted"
    return f"the GPU reader ended with status {status}; it is being restarted (its output says why)"
