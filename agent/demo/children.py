"""The demo's processes: started with a log file each, replaced when they die unasked, ended in reverse order."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process

ENDING_SECONDS = 10


@dataclass(slots=True)
class Child:
    """One process of the demo; `process` changes when it was replaced, `restarts` says how often."""

    name: str
    process: Process
    restarts: int = 0
    ending: bool = False


async def _start(arguments: Sequence[str], log: Path) -> Process:
    with log.open("ab") as output:
        return await anyio.open_process(
            [sys.executable, "-m", "agent.demo.child", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "NO_COLOR": "1"},
            start_new_session=True,  # Ctrl-C reaches the demo only, which then ends these in order
        )


@asynccontextmanager
async def running(name: str, arguments: Sequence[str], log: Path, say: Callable[[str], None]) -> AsyncIterator[Child]:
    """`python -m ARGUMENTS` while the body runs; SIGTERM at its end, SIGKILL if that is not heeded."""
    child = Child(name, await _start(arguments, log))
    say(f"{name}: process {child.process.pid}, log {log}")
    async with anyio.create_task_group() as group:
        group.start_soon(_replace, child, arguments, log, say)
        try:
            yield child
        finally:
            child.ending = True
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await _end(child.process)


async def _replace(child: Child, arguments: Sequence[str], log: Path, say: Callable[[str], None]) -> None:
    while True:
        status = await child.process.wait()
        if child.ending:
            return
        if status == 2:
            raise RuntimeError(f"{child.name} refused its configuration; see {log}")
        child.restarts += 1
        child.process = await _start(arguments, log)
        say(f"{child.name}: died with status {status}, replaced by process {child.process.pid}")


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(ENDING_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
