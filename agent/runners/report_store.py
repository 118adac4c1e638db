"""Report files on disk: written whole or not at all, the oldest deleted; what was made last; what waits to be sent."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

log = structlog.get_logger()

STATE = "reports.state"
OUTBOX = "reports.outbox"
_LABEL = r"\d{4}-(?:\d\d-\d\d|W\d\d|\d\d)"


class State(Struct, kw_only=True):
    """How far each schedule's reports are made: name -> end of the last period, Unix nanoseconds."""

    version: int = 1
    made_through_ns: dict[str, int] = {}


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that nobody ever sees a part of it, also after a crash. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def prune(folder: Path, name: str, suffix: str, keep: int) -> list[Path]:
    """Delete the oldest files of a schedule beyond `keep`; which they were."""
    pattern = re.compile(rf"{re.escape(name)}-{_LABEL}{re.escape(suffix)}")
    mine = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name)) if folder.is_dir() else []
    old = mine[:-keep]
    for path in old:
        path.unlink(missing_ok=True)
    return old


class Store:
    """What survives a restart, in the data folder."""

    def __init__(self, data: Path) -> None:
        self._state = data / STATE
        self._outbox = data / OUTBOX

    def load(self) -> State:
        """How far reports are made. A file that cannot be understood is put aside, and all begins anew."""
        try:
            state = msgspec.json.decode(self._state.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.DecodeError as error:
            aside = self._state.with_name(f"{STATE}.damaged")
            self._state.replace(aside)
            log.error("report_state_damaged", moved_to=str(aside), reason=str(error))
            return State()
        return state

    def save(self, state: State) -> None:
        """Keep it. Raises OSError."""
        write_whole(self._state, [msgspec.json.encode(state)])

    def put(self, name: str, label: str, body: bytes, keep: int) -> None:
        """A report to be sent; of what waits, only the newest `keep`."""
        write_whole(self._outbox / f"{name}-{label}.json", [body])
        for path in prune(self._outbox, name, ".json", keep):
            log.error("report_not_sent", report=path.stem, reason="newer ones wait already; its file is there")

    def waiting(self, name: str) -> list[Path]:
        """What is to be sent for a schedule, oldest first."""
        pattern = re.compile(rf"{re.escape(name)}-{_LABEL}\.json")
        if not self._outbox.is_dir():
            return []
        return sorted(path for path in self._outbox.iterdir() if pattern.fullmatch(path.name))
