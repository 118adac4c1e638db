"""Pulses, health, signals and the order of shutdown: tasks in, a process that starts, limps and ends as it should.

Holds the only broad `except`: a failing cycle leaves the others running and shows as its own health.
"""

import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from agent.clock import NS, boot_ns
from agent.core.ports import TryLater

log = structlog.get_logger()


@dataclass(slots=True)
class CycleHealth:
    """What one periodic part of the program last did."""

    ok: bool | None = None  # None until the first run ended
    error: str = ""
    successes: int = 0
    failures: int = 0
    missed: int = 0
    last_success_boot_ns: int | None = None
    last_end_boot_ns: int | None = None  # of a run, good or bad
    last_seconds: float | None = None
    interval_seconds: float = 0.0
    essential: bool = False


@dataclass(slots=True)
class Health:
    """Health of every cycle of this process, by name. Read by the probes, the page and the self metrics."""

    cycles: dict[str, CycleHealth] = field(default_factory=dict)
    started_boot_ns: int = field(default_factory=boot_ns)
    draining: bool = False

    def cycle(self, name: str, interval_seconds: float = 0.0, *, essential: bool = False) -> CycleHealth:
        return self.cycles.setdefault(name, CycleHealth(interval_seconds=interval_seconds, essential=essential))

    def failing(self) -> dict[str, str]:
        """Cycles whose last run failed, with the reason."""
        return {name: c.error for name, c in self.cycles.items() if c.ok is False}

    def waiting(self) -> list[str]:
        """Essential cycles that have not succeeded once yet."""
        return [name for name, c in self.cycles.items() if c.essential and c.successes == 0]

    def stalled(self, patience: float = 5.0) -> dict[str, float]:
        """Essential cycles in which no run, good or bad, has ended for `patience` intervals (at least 30 s).

        A cycle that fails is not stalled: restarting the process would not mend a full disk. Name -> seconds since.
        """
        now = boot_ns()
        found = {}
        for name, cycle in self.cycles.items():
            if not cycle.essential or cycle.last_end_boot_ns is None:
                continue
            age = (now - cycle.last_end_boot_ns) / NS
            if age > max(30.0, patience * cycle.interval_seconds):
                found[name] = age
        return found


async def every(
    name: str,
    seconds: float,
    step: Callable[[], Awaitable[None]],
    health: Health,
    *,
    essential: bool = False,
    strict: bool = False,
) -> None:
    """Run `step` now and then on a fixed grid, for ever. A failing step leaves the other cycles running.

    A step that takes longer than the interval makes the missed turns be skipped and counted, never caught up. With
    `strict` (tests) an error is raised instead of recorded.
    """
    cycle = health.cycle(name, seconds, essential=essential)
    interval_ns = int(seconds * NS)
    due = boot_ns()
    while True:
        began = boot_ns()
        try:
            await step()
        except Exception as error:
            if strict:
                raise
            _record_failure(name, cycle, error)
        else:
            record_success(name, cycle)
        now = boot_ns()
        cycle.last_end_boot_ns = now
        cycle.last_seconds = (now - began) / NS
        due += interval_ns
        if due <= now:
            skipped = (now - due) // interval_ns
            cycle.missed += skipped
            due += skipped * interval_ns
        await anyio.sleep(max(0, due - boot_ns()) / NS)


def record_success(name: str, cycle: CycleHealth) -> None:
    """A run went well. Also for parts that are driven by events instead of `every`."""
    if cycle.ok is False:
        log.info("cycle_recovered", cycle=name, failures=cycle.failures)
    cycle.ok, cycle.error = True, ""
    cycle.successes += 1
    cycle.last_success_boot_ns = cycle.last_end_boot_ns = boot_ns()


def _record_failure(name: str, cycle: CycleHealth, error: Exception) -> None:
    reason = str(error) if isinstance(error, TryLater) else f"{type(error).__name__}: {error}"
    if cycle.ok is not False or cycle.error != reason:  # once per change, not once per run
        expected = isinstance(error, TryLater)  # its reason says all there is; a trace would only hide it
        log.error("cycle_failed", cycle=name, reason=reason, exc_info=None if expected else error)
    cycle.ok, cycle.error = False, reason
    cycle.failures += 1


async def until_signal(health: Health, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
    """Wait for SIGTERM or SIGINT, then mark the process as draining. A second signal ends it at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for received in signals:
            health.draining = True
            log.info("stopping", signal=received.name)
            return


def rest_from_collecting() -> None:
    """What is there now stays until the end, and work leaves few cycles behind: look for garbage less often.

    A full collection of a process with much kept state stops everything else for a tenth of a second and more.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@asynccontextmanager
async def running() -> AsyncIterator[TaskGroup]:
    """A task group whose tasks run while the body does; then they are cancelled and waited for.

    Nested, these are the order of shutdown: the innermost stops first. An error in one task cancels the body.
    """
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()
