"""Runs a `GpuReader` in a test and lets it wait for the snapshot that it expects."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from agent.collect.gpu.settings import GpuSettings
from agent.collect.gpu.supervisor import GpuReader
from agent.core.gpu_readings import GpuSnapshot

FAST = GpuSettings(interval_seconds=0.2, slow_interval_seconds=1, call_deadline_seconds=1)


class Watch:
    """Snapshots of one reader, in order."""

    def __init__(self) -> None:
        self.snapshots: list[GpuSnapshot] = []
        self.reader: GpuReader
        self._arrival = anyio.Event()

    def add(self, snapshot: GpuSnapshot) -> None:
        self.snapshots.append(snapshot)
        self._arrival.set()
        self._arrival = anyio.Event()

    async def until(self, right: Callable[[GpuSnapshot], bool], seconds: float = 15) -> GpuSnapshot:
        """The next snapshot (the latest one included) that is `right`."""
        seen = max(0, len(self.snapshots) - 1)
        try:
            with anyio.fail_after(seconds):
                while True:
                    for snapshot in self.snapshots[seen:]:
                        if right(snapshot):
                            return snapshot
                    seen = len(self.snapshots)
                    await self._arrival.wait()
        except TimeoutError:
            latest = self.snapshots[-1] if self.snapshots else None
            raise AssertionError(f"no such snapshot within {seconds} s; the latest is {latest}") from None

    async def states(self, wanted: dict[int, str], seconds: float = 15) -> GpuSnapshot:
        """The next snapshot in which the GPUs have these states, by index."""

        def right(snapshot: GpuSnapshot) -> bool:
            found = {gpu.index: gpu.state for gpu in snapshot.gpus}
            return all(found.get(index) == state for index, state in wanted.items())

        return await self.until(right, seconds)


@asynccontextmanager
async def watching(
    command: Sequence[str] | None = None,
    environment: dict[str, str] | None = None,
    settings: GpuSettings = FAST,
) -> AsyncIterator[Watch]:
    watch = Watch()
    watch.reader = GpuReader(settings, watch.add, command, environment)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.reader.run)
        yield watch
        group.cancel_scope.cancel()
