"""Actions of administrators in, one durable line of JSON each out. What cannot be recorded must not be done."""

import errno
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import anyio
import structlog
from anyio import to_thread

from agent import clock
from agent.clock import NS
from agent.core.ports import TryLater
from agent.doors.identity import Identity

log = structlog.get_logger()

MAX_CHARACTERS = 1024
MIN_BYTES = 64 * 1024


class AuditLog:
    """A file of at most `max_bytes`, of which one older one, ``<name>.1``, is kept.

    Each line has `at` (RFC 3339, UTC), `name`, `kind`, `source`, `action`, `target` and `result`; everything outside
    printable ASCII is escaped, and a value longer than `MAX_CHARACTERS` is cut and ends in ``...``. The file has mode
    0600 and is opened for each line, so that it may be moved away. One process writes it.
    """

    def __init__(self, path: Path, max_bytes: int = 8 * 2**20, *, unix_ns: Callable[[], int] = clock.unix_ns) -> None:
        self.path = path
        self.older = path.with_name(path.name + ".1")
        self._max_bytes = max(max_bytes, MIN_BYTES)
        self._unix_ns = unix_ns
        self._one_at_a_time = threading.Lock()

    def record(self, *, who: Identity, source: str, action: str, target: str, result: str) -> None:
        """Write one line and wait until it is on the disk. Blocks; for the event loop there is `performing`.

        Raises `TryLater` when that fails; nothing of the line is left in the file then, and the action must not happen.
        """
        values = {"name": who.name, "kind": who.kind, "source": source, "action": action, "target": target}
        entry = {"at": _rfc3339(self._unix_ns())} | {k: _cut(v) for k, v in (values | {"result": result}).items()}
        line = json.dumps(entry).encode("ascii") + b"\n"
        try:
            with self._one_at_a_time:
                self._append(line)
        except OSError as error:
            reason = error.strerror or str(error)
            log.error("audit_not_written", file=str(self.path), reason=reason, action=entry["action"])
            raise TryLater(f"the action is not done, because it cannot be recorded in {self.path}: {reason}") from error
        log.info("admin_action", **{k: v for k, v in entry.items() if k != "at"})

    def performing(self, who: Identity, source: str, action: str, target: str = "") -> "Performing":
        """``async with`` around an action: records that it begins, and how it ended."""

        def note(result: str) -> None:
            self.record(who=who, source=source, action=action, target=target, result=result)

        return Performing(note)

    def _append(self, line: bytes) -> None:
        self._make_room(len(line))
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        number = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(number).st_size
            if size and os.pread(number, 1, size - 1) != b"\n":
                line = b"\n" + line  # a crash has cut the last line short; it must not swallow this one
            try:
                if os.write(number, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(number)
            except OSError:
                with suppress(OSError):  # what is left then is half a line, which the next one takes care of
                    os.ftruncate(number, size)
                raise
        finally:
            os.close(number)
        if is_new:
            self._keep_name()

    def _make_room(self, more_bytes: int) -> None:
        try:
            size = self.path.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return
        if size and size + more_bytes > self._max_bytes:
            self.path.replace(self.older)

    def _keep_name(self) -> None:
        """A new file's name is durable only when its folder is (fsync(2))."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Performing:
    """One action between its two lines, ``begun`` and ``done`` or ``failed: <kind of error>``.

    Raises `TryLater` before the body runs if the beginning cannot be recorded. If the end cannot be, that is only
    logged: the action has taken place, and its beginning is in the file.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    async def __aenter__(self) -> None:
        await to_thread.run_sync(self._note, "begun")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = "done" if kind is None else f"failed: {kind.__name__}"
        with anyio.CancelScope(shield=True):
            try:
                await to_thread.run_sync(self._note, result)
            except TryLater:
                pass  # `record` has logged it


def _cut(value: str) -> str:
    return value if len(value) <= MAX_CHARACTERS else value[: MAX_CHARACTERS - 3] + "..."


def _rfc3339(at_ns: int) -> str:
    whole = datetime.fromtimestamp(at_ns // NS, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at_ns % NS:09d}Z"
