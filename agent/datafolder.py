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


class FolderLock:
    """A folder that one process at a time may use. Held until closed; the kernel lets it go when the process dies.

    Raises `ConfigError` about `key` when the folder cannot be made or written, or another `owner` has it.
    """

    def __init__(self, path: Path, key: str, owner: str, *, mode: int = 0o777) -> None:
        self.path = path
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            # O_CLOEXEC (Python's default) keeps the lock out of children: a GPU reader stuck in the driver can
            # never be killed, and must not keep a replacement agent from starting.
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(key, f"{path} must be a folder that this user can write: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock_holder(path)
            os.close(self._lock)
            raise ConfigError(
                key, f"{path} is in use by another {owner} (process {holder}); stop it, or give this one its own folder"
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock itself holds, only the hint for the next one's message is missing

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)


def lock_holder(path: Path) -> str:
    """The process that last took the folder's lock, for people."""
    try:
        return (path / "lock").read_text(errors="replace").strip()[:32] or "unknown"
    except OSError:
        return "unknown"


class DataFolder(FolderLock):
    """An open data folder. Raises `ConfigError` when it cannot be used, or another agent has it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, KEY, "agent")

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
