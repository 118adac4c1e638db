"""The agent's folder on disk: one agent at a time, and an identity for this node that survives restarts."""

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType

from agent.core.ports import ConfigError

SYSTEM_FOLDER = Path("/var/lib/engineroom")
KEY = "storage.data_dir"


def default_folder(environment: dict[str, str], *, is_root: bool) -> Path:
    """`/var/lib/engineroom` for root, else `engineroom` in the user's state folder (XDG base directories)."""
    if is_root:
        return SYSTEM_FOLDER
    state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "engineroom"


class DataFolder:
    """An open data folder. Holds an exclusive lock until closed; the kernel lets it go when the process dies.

    Raises `ConfigError` when the folder cannot be made or written, or another agent has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            # O_CLOEXEC (Python's default) keeps the lock out of children: a GPU reader stuck in the driver can
            # never be killed, and must not keep a replacement agent from starting.
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(KEY, f"{path} must be a folder that this user can write: {error.strerror}") from error
        self._take_lock()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise ConfigError(
                KEY,
                f"{self.path} is in use by another agent (process {holder}); stop it, or give this one its own folder",
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock itself holds, only the hint for the next one's message is missing

    def node_id(self, machine_id: str) -> str:
        """Stable id of this node: kept in the folder, first made from the machine id (hashed, so it does not leak)."""
        file = self.path / "node-id"
        if file.exists() and (kept := file.read_text().strip()):
            return kept
        made = hashlib.sha256(b"engineroom node " + machine_id.encode()).hexdigest()[:16]
        temporary = file.with_suffix(".new")
        temporary.write_text(made + "\n")
        temporary.replace(file)
        return made

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def __enter__(self) -> "DataFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def machine_id() -> str:
    """The operating system's machine id, or random bytes where there is none (the data folder keeps the result)."""
    for file in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if file.exists() and (text := file.read_text().strip()):
            return text
    return os.urandom(16).hex()
