"""Whether a GPU that hung answers again: a reader of its own tries it, so that nobody waits with it."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.abc import TaskGroup

from agent.clock import boot_ns, unix_ns
from agent.collect.gpu.bench import Bench
from agent.collect.gpu.child import Child, ReaderEnded
from agent.collect.gpu.frames import GpuRead, Tick, TickEnded

log = structlog.get_logger()

INDEX_MOST = 256


async def answers_again(child: Child, index: int, patience_seconds: float) -> bool:
    """Whether a fresh reader gets through with this GPU: an answer, or word that it is not there, within the time."""
    others = tuple(other for other in range(INDEX_MOST) if other != index)
    try:
        with anyio.fail_after(patience_seconds):
            await child.send(Tick(unix_ns=unix_ns(), boot_ns=boot_ns(), skip=others))
            while not isinstance(await child.answer(), GpuRead | TickEnded):
                pass
    except (TimeoutError, ReaderEnded):
        return False
    return True


class Trials:
    """One reader for each GPU that is due. Each is killed afterwards and given to `left`: it may be stuck, too."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        bench: Bench,
        patience_seconds: float,
        left: Callable[[Child], None],
    ) -> None:
        self._command = command
        self._environment = environment
        self._bench = bench
        self._patience_seconds = patience_seconds
        self._left = left
        self._going_on: set[int] = set()
        self._group: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Trials take place while the body does."""
        async with anyio.create_task_group() as group:
            self._group = group
            yield
            group.cancel_scope.cancel()

    def begin(self, index: int) -> None:
        """Try this GPU, unless it is being tried."""
        if self._group is not None and index not in self._going_on:
            self._going_on.add(index)
            self._group.start_soon(self._try, index)

    async def _try(self, index: int) -> None:
        child: Child | None = None
        well = False
        try:
            child = await Child.start(self._command, self._environment)
            well = await answers_again(child, index, self._patience_seconds)
        except OSError as error:
            log.warning("gpu_trial_failed", gpu=index, reason=str(error))
        finally:
            self._going_on.discard(index)
            if child is not None:
                self._left(child)
                with anyio.CancelScope(shield=True):
                    await child.abandon()
        log.info("gpu_tried_again", gpu=index, answers=well)
        if well:
            self._bench.admit(index)
        else:
            self._bench.keep(index, boot_ns(), child.pid if child is not None else None)
