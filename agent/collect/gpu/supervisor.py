"""Runs the GPU reader and replaces it when it crashes or hangs; a `GpuSnapshot` per tick out, whatever happens.

The cadence is here: the reader does nothing unless it is sent a tick. A reader that names a GPU and then says nothing
for too long is killed and left behind; the next one does not touch that GPU until the driver has let go of the old
process, a pause has passed and a reader of its own has tried it: the others lose readings at the first hang only.
While the driver is away there is no reader at all: nothing of NVML is open or mapped.

When every GPU answers "unknown error" (999), which is how a container finds out that it has lost its devices, the
reader is replaced once, and after that only looked at with growing pauses. This process does not end by itself for it:
it also counts requests and money. `access_lost` says so to whoever may end it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import structlog

from agent.clock import boot_ns, unix_ns
from agent.collect.gpu.account import Account
from agent.collect.gpu.bench import Bench
from agent.collect.gpu.child import Child, ReaderEnded
from agent.collect.gpu.frames import (
    EXIT_ALL_UNKNOWN,
    EXIT_DRIVER_AWAY,
    EXIT_DRIVER_LEAVING,
    EXIT_VERSION_MISMATCH,
    GpuRead,
    Tick,
    TickEnded,
    Told,
    Touching,
)
from agent.collect.gpu.kernel_module import KernelModule
from agent.collect.gpu.meters import NS
from agent.collect.gpu.retrial import Trials
from agent.collect.gpu.roster import Roster
from agent.collect.gpu.settings import GpuSettings
from agent.core.gpu_readings import DriverState, GpuReading, GpuSnapshot

log = structlog.get_logger()

MAX_ABANDONED = 3
FIRST_CONTACT = 6.0  # times the deadline: without persistence mode the first contact wakes the GPU
LEAVING_SECONDS = 15.0  # how long the driver is left to itself when it is being unbound
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
    For self metrics: `restarts`, `missed_ticks`, `last_tick_seconds`. `access_lost`: see above.
    """

    def __init__(
        self,
        settings: GpuSettings,
        on_snapshot: Callable[[GpuSnapshot], None],
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        module: KernelModule | None = None,
    ) -> None:
        self._settings = settings
        self._on_snapshot = on_snapshot
        program = list(command) if command is not None else [sys.executable, "-m", "agent.collect.gpu.reader"]
        pace = ["--interval", str(settings.interval_seconds), "--slow-interval", str(settings.slow_interval_seconds)]
        self._command = program + pace
        self._environment = dict(environment or {})
        self._module = module or KernelModule()
        self.restarts = 0
        self.missed_ticks = 0
        self.last_tick_seconds: float | None = None
        self._roster = Roster()
        self._bench = Bench()
        patience = FIRST_CONTACT * settings.call_deadline_seconds
        self._trials = Trials(self._command, self._environment, self._bench, patience, self._keep_an_eye_on)
        self._abandoned: list[Child] = []
        self._child: Child | None = None
        self._round = Round(0, _STARTING)
        self._restart_seconds = RESTART_FIRST_SECONDS
        self._replaced_for_unknown = False
        self._has_read = False
        self.access_lost = False  # GPUs were read, and now all of them refuse two readers after each other (999)
        self._account = Account()
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

    def _keep_an_eye_on(self, child: Child) -> None:
        """It was killed; it may never end."""
        self._abandoned.append(child)

    async def run(self) -> None:
        """For ever; cancel it to end. Does not raise for anything that drivers, GPUs or the reader do."""
        if not self._settings.enabled:
            self._publish(unix_ns(), "no_gpu", "reading GPUs is switched off (gpus.enabled)")
            await anyio.sleep_forever()
        self._publish(unix_ns(), "starting", "the GPU reader is starting")
        self._due_ns = boot_ns()
        try:
            async with self._trials.running():
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
        skip = tuple(sorted(self._bench.benched))
        await child.send(Tick(unix_ns=self._round.read_at_ns, boot_ns=began, skip=skip))
        while (ended := self._round.ended) is None:
            await self._listen(child)
        self._account.said = ended
        self.last_tick_seconds = (boot_ns() - began) / NS
        self._publish(self._round.read_at_ns, ended.driver, ended.message, self._round.read)
        # Healthy again, unless this end came from a reader that asks to be replaced: then its socket closes next.
        if ended.driver == "ok" and any(reading.state == "ok" for reading in self._round.read):
            self._restart_seconds = RESTART_FIRST_SECONDS
            self._bench.well()
            self._module.note()
            self._replaced_for_unknown, self._has_read, self.access_lost = False, True, False
        await self._next_turn()

    async def _listen(self, child: Child) -> None:
        patience = self._settings.call_deadline_seconds
        touching = self._round.touching
        # A GPU that hung before gets no second helping of patience: the others wait meanwhile.
        if touching.first and not self._bench.troubled(touching.index):
            patience *= FIRST_CONTACT
        try:
            with anyio.fail_after(patience):
                answer = await child.answer()
        except TimeoutError:
            raise ReaderHung(touching) from None
        if isinstance(answer, Touching):
            self._round.touching = answer
        elif isinstance(answer, GpuRead):
            self._bench.answered(answer.reading.index)
            self._round.read.append(self._roster.identify(answer.reading))
        elif isinstance(answer, Told):
            self._account.told(answer.xids)
        else:
            self._round.ended = answer

    def _admit(self) -> None:
        for index in self._bench.due(boot_ns(), self.abandoned):
            self._trials.begin(index)

    async def _leave_behind(self, child: Child, touching: Touching) -> None:
        self._child = None
        self._abandoned.append(child)
        self.restarts += 1
        await child.abandon()
        log.error("gpu_reader_hung", pid=child.pid, gpu=touching.index, call=touching.what)
        self._account.reader_gone()
        if touching.index is None:
            message = f"the driver does not return from {touching.what}; trying again"
            await self._wait("hung", message, self._next_pause())
            return
        reason = (
            f"the driver did not answer about this GPU for {self._settings.call_deadline_seconds:g} s; "
            "it is left alone and tried again later; if it stays so, reset the GPU or reboot the node"
        )
        self._bench.put(touching.index, "hung", reason, boot_ns(), pid=child.pid)

    async def _ended(self, child: Child, why: str) -> None:
        await child.end(END_PATIENCE_SECONDS)
        self._child = None
        status = child.status()
        message = self._account.said.message or why  # it ends after a tick that said why
        self._account.reader_gone()
        if status == EXIT_DRIVER_LEAVING:
            await self._wait("restarting", message, LEAVING_SECONDS)
            return
        if status == EXIT_DRIVER_AWAY:
            await self._wait("no_driver", message, self._next_pause(), while_away=True)
            return
        self.restarts += 1
        if status == EXIT_ALL_UNKNOWN and not self._replaced_for_unknown:
            self._replaced_for_unknown = True
            return  # at once: the message of the last tick stands until the new one has spoken
        if status in (EXIT_VERSION_MISMATCH, EXIT_ALL_UNKNOWN):
            # Its answer was about a driver that it cannot use; nothing is being read until the next one speaks.
            self.access_lost = self._has_read and status == EXIT_ALL_UNKNOWN
            state: DriverState = "no_driver" if status == EXIT_VERSION_MISMATCH else "restarting"
            await self._wait(state, message, self._next_pause())
            return
        log.error("gpu_reader_ended", pid=child.pid, status=status, reason=why, gpu=self._round.touching.index)
        if self._bench.crashed(self._round.touching.index, boot_ns()):
            self._restart_seconds = RESTART_FIRST_SECONDS
        await self._wait("restarting", _obituary(status, why), self._next_pause())

    def _next_pause(self) -> float:
        pause = self._restart_seconds
        self._restart_seconds = min(2 * pause, RESTART_MOST_SECONDS)
        return pause

    async def _wait(self, driver: DriverState, message: str, seconds: float = 0.0, *, while_away: bool = False) -> None:
        """Say so at every turn for `seconds`, at least once; `while_away`: until the kernel module is there too."""
        until = boot_ns() + int(seconds * NS)
        while True:
            self._publish(unix_ns(), driver, message)
            await self._next_turn()
            if boot_ns() >= until and not (while_away and self._module.away()):
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
        gpus = self._roster.gpus(read, self._bench.benched, read_at_ns, driver, message)
        self._on_snapshot(self._account.snapshot(read_at_ns, driver, message, gpus, self.restarts))


def _obituary(status: int | None, why: str) -> str:
    if status is None:
        return f"the GPU reader is being replaced: {why}"
    if status < 0:
        return f"the GPU reader was ended by signal {-status}; it is being restarted"
    return f"the GPU reader ended with status {status}; it is being restarted (its output says why)"
