"""Several processes on one address (SO_REUSEPORT): started, replaced when they die, ended in order by a parent.

The parent has nothing on the request path. Worker `i` is the sidecar with its own name (`<name>#<i>`), its own spool
(`<spool_dir>/worker-<i>`: what a worker left is delivered by its successor) and its admin on a unix socket there.
"""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
import structlog
from anyio.abc import Process

from agent.clock import NS, boot_ns
from agent.core.ports import ConfigError
from agent.doors.settings import AuthSettings, LimitSettings, TlsSettings
from agent.sidecar.records.shipping import spool_folder
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import MAX_PATH_BYTES, parse_listen
from agent.sidecar.sockets.listening import open_listening
from agent.sidecar.sockets.settings import ListenSettings

log = structlog.get_logger()

NO_ENGINE = "no engine can be reached"
"""What a sidecar's readiness says first while none of its engines takes connections."""

ADMIN_SOCKET = "admin.sock"
NAME_CHARACTERS = 128
BACKOFF_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 10.0
GOOD_SECONDS = 30.0  # a worker that lived so long is started again at once when it dies
LOOK_SECONDS = 0.05
LOOK_MAX_SECONDS = 1.0
LAST_SECONDS = 5.0  # beyond the settings' own limits, before a worker that does not end is killed
MISCONFIGURED = 2  # exit status

LISTENING = ListenSettings()

Command = Callable[[int, str], Sequence[str]]
"""(worker's index, address to listen on) → the command line of that worker's process."""


def worker_folder(settings: SidecarSettings, index: int) -> Path:
    """The spool of one worker."""
    return spool_folder(settings) / f"worker-{index}"


def worker_settings(settings: SidecarSettings, index: int, count: int) -> SidecarSettings:
    """What worker `index` of `count` does differently. The spool's bytes are shared out.

    Raises `ConfigError` when the name or the path of the admin socket becomes too long.
    """
    folder = worker_folder(settings, index)
    admin = folder.absolute() / ADMIN_SOCKET
    if len(os.fsencode(admin)) > MAX_PATH_BYTES:
        expected = f"{admin} is too long for a unix socket ({MAX_PATH_BYTES} bytes); choose a shorter folder"
        raise ConfigError("sidecar.spool_dir", expected)
    name = f"{settings.shown_name}#{index}"
    if len(name) > NAME_CHARACTERS:
        expected = f"{name} is longer than {NAME_CHARACTERS} characters; leave room for the worker's number"
        raise ConfigError("sidecar.name", expected)
    spool = settings.spool.model_copy(update={"max_bytes": settings.spool.max_bytes // count})
    changed = {
        "name": name,
        "spool_dir": folder,
        "spool": spool,
        "admin_listen": f"unix:{admin}",  # the folder is the user's own (0700); the parent has the doors
        "admin_auth": AuthSettings(),
        "admin_tls": TlsSettings(),
        "admin_limits": LimitSettings(requests_per_second=1e6, burst=10**6),
    }
    return settings.model_copy(update=changed)


@contextmanager
def reserved(listen: str, listening: ListenSettings) -> Iterator[str]:
    """Hold the address for our workers, without taking connections; gives it with the real port where `listen` says 0.

    Unless `listening.reuse_port`, nobody else may listen there now: two sidecars by mistake on one address would share
    its clients. Raises `ConfigError`.
    """
    if parse_listen(listen).path is not None:
        raise ConfigError("sidecar.workers", f"only one process can listen on {listen}; use 1, or listen on host:port")
    if not listening.reuse_port:
        open_listening(listen, listening).close()
    held = open_listening(listen, listening.model_copy(update={"reuse_port": True}))
    try:
        yield held.shown
    finally:
        held.close()


async def end_with_parent(descriptor: int = 0) -> None:
    """In a worker: wait until the parent is gone, however it went, then ask this process to end as by SIGTERM.

    The worker's standard input is a pipe that only the parent holds, and that nothing is ever written to.
    """
    await anyio.wait_readable(descriptor)
    signal.raise_signal(signal.SIGTERM)
    log.warning("parent_gone")


@dataclass(slots=True, eq=False)
class Worker:
    """One worker's place; its processes follow each other in it."""

    index: int
    admin: Path
    session: aiohttp.ClientSession
    process: Process | None = None
    restarts: int = 0
    served: bool = False  # whether one of its processes has been ready

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def ask(self, path: str, seconds: float, body: bytes | None = None) -> tuple[int, str] | None:
        """Status and text of its admin's answer to a GET, or a POST of this JSON; None when there is none in time."""
        try:
            async with self.session.request(
                "GET" if body is None else "POST",
                f"http://localhost{path}",
                data=body,
                headers={} if body is None else {"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
            return None


@dataclass(slots=True)
class Workers:
    """All workers. Made by `running_workers`."""

    address: str
    places: list[Worker]
    command: Command
    end_seconds: float  # longest wait for all to end after SIGTERM
    on_replaced: Callable[[Worker], None] = lambda _: None
    ending: anyio.Event = field(default_factory=anyio.Event)

    async def keep(self, worker: Worker) -> None:
        """Processes of this place, one after the other, until the end.

        Raises `ConfigError` when the first one refuses its settings; it has told why on standard error.
        """
        failures = 0
        while not self.ending.is_set():
            began = boot_ns()
            process = await self._start(worker)
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_ready, worker)
                status = await process.wait()
                group.cancel_scope.cancel()
            await process.aclose()
            if self.ending.is_set():
                return
            if status == MISCONFIGURED and not worker.served:
                raise ConfigError("sidecar.workers", f"worker {worker.index} cannot start; its message stands above")
            failures = 0 if boot_ns() - began > GOOD_SECONDS * NS else failures + 1
            seconds = min(BACKOFF_SECONDS * 2 ** min(failures - 1, 16), BACKOFF_MAX_SECONDS) if failures else 0.0
            log.error("worker_died", worker=worker.index, status=status, again_after_seconds=seconds)
            worker.restarts += 1
            self.on_replaced(worker)
            with anyio.move_on_after(seconds):
                await self.ending.wait()

    async def _start(self, worker: Worker) -> Process:
        with anyio.CancelScope(shield=True):  # a process that was begun is known
            process = worker.process = await anyio.open_process(
                list(self.command(worker.index, self.address)),
                stdin=subprocess.PIPE,
                stdout=None,
                stderr=None,
                start_new_session=True,  # Ctrl-C reaches the parent only, which then ends these in order
            )
            if self.ending.is_set():  # `end` has not seen this one, which has not begun to serve
                process.kill()
                await process.aclose()
        return process

    async def _until_ready(self, worker: Worker) -> None:
        seconds = LOOK_SECONDS
        while not _serves(await worker.ask("/readyz", 1.0)):
            await anyio.sleep(seconds)
            seconds = min(1.2 * seconds, LOOK_MAX_SECONDS)
        worker.served = True
        log.info("worker_ready", worker=worker.index, process=worker.process.pid if worker.process else None)

    async def end(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after `end_seconds`."""
        self.ending.set()
        processes = [worker.process for worker in self.places if worker.process is not None]
        for process in processes:
            _signal(process, signal.SIGTERM)
        with anyio.move_on_after(self.end_seconds):
            for process in processes:
                await process.wait()
        for process in processes:
            if process.returncode is None:
                log.error("worker_killed", process=process.pid, after_seconds=self.end_seconds)
                _signal(process, signal.SIGKILL)
            await process.aclose()


def _serves(answer: tuple[int, str] | None) -> bool:
    """Whether a worker takes connections, by its readiness; it does also while no engine is there."""
    return answer is not None and (answer[0] == 200 or answer[1].startswith(f"not ready: {NO_ENGINE}"))


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            pass  # it has just ended


@asynccontextmanager
async def running_workers(
    settings: SidecarSettings, count: int, command: Command, listening: ListenSettings = LISTENING
) -> AsyncIterator[Workers]:
    """`count` workers for the length of the body; at its end they drain, and what does not end in time is killed.

    Raises `ConfigError` when the address or the spool's folder cannot be used, or a worker refuses its settings.
    """
    folder = spool_folder(settings)
    admins = [worker_settings(settings, index, count).admin_listen.removeprefix("unix:") for index in range(count)]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        expected = f"{folder} must be a folder that this user can write: {error.strerror}"
        raise ConfigError("sidecar.spool_dir", expected) from error
    with reserved(settings.listen, listening) as address:
        places = [Worker(index, Path(admin), _session(admin)) for index, admin in enumerate(admins)]
        limit = settings.drain_seconds + settings.ship_drain_seconds + LAST_SECONDS
        workers = Workers(address, places, command, limit)
        try:
            async with anyio.create_task_group() as group:
                for worker in places:
                    group.start_soon(workers.keep, worker)
                try:
                    yield workers
                finally:
                    with anyio.CancelScope(shield=True):
                        await workers.end()
        finally:
            with anyio.CancelScope(shield=True):
                for worker in places:
                    await worker.session.close()


def _session(path: str) -> aiohttp.ClientSession:
    """Requests to one worker's admin, a new connection for each: processes come and go behind the path."""
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path, force_close=True), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    )
