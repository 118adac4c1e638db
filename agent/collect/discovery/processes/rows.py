"""A process' files in /proc in, what is known of it out: name, command line, open sockets. Blocks, short."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.attribution.stat import ProcessStat, parse_stat
from agent.core.discovery.command import MAX_COMMAND_BYTES, MAX_ENVIRON_BYTES, variables, words
from agent.engines.contract import ENVIRONMENT, EngineFile, Process, Recognised

_STAT_BYTES = 4096
_ENDED = ("Z", "X")  # states of a process that has ended: a zombie has neither command line nor sockets


@dataclass(slots=True, eq=False)
class Row:
    """A process. `inode` is that of its folder: while it stays the same, so does the process."""

    pid: int
    inode: int
    parent: int
    start_ticks: int
    process: Process
    engine: EngineFile | None = None  # whose command line it is
    recognised: Recognised | None = None
    started_at_ns: int | None = None  # Unix ns, once somebody has asked
    looked_for: set[int] = field(default_factory=set)  # inodes of sockets that were looked for among its open files
    holds: set[int] = field(default_factory=set)  # those that were found
    files_closed: bool = False  # its open files may not be read

    @property
    def key(self) -> tuple[int, int]:
        """Tells it from a later process of the same pid."""
        return self.pid, self.start_ticks


def read_stat(proc: Path, pid: int) -> ProcessStat | None:
    """None for a process that has gone, has ended, or is not shown to us."""
    text = _read_once(f"{proc}/{pid}/stat", _STAT_BYTES).decode(errors="replace")
    if text[text.rfind(")") + 2 :][:1] in _ENDED:
        return None
    return parse_stat(text)


def read_process(proc: Path, pid: int, name: str) -> Process:
    """Its command line now; its environment is read when somebody asks for it."""
    argv = words(_read_once(f"{proc}/{pid}/cmdline", MAX_COMMAND_BYTES))
    return Process(pid=pid, name=name, argv=argv, environ=Environment(proc, pid))


class Environment(Mapping[str, str]):
    """The variables of a process that are in `ENVIRONMENT`, read when first asked for; none where we may not."""

    def __init__(self, proc: Path, pid: int) -> None:
        self._path = f"{proc}/{pid}/environ"
        self._found: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    @property
    def was_read(self) -> bool:
        return self._found is not None

    def _read(self) -> dict[str, str]:
        if self._found is None:
            self._found = variables(read_bytes(self._path, MAX_ENVIRON_BYTES), ENVIRONMENT)
        return self._found


def find_sockets(proc: Path, row: Row, inodes: set[int]) -> set[int]:
    """Those of the sockets `inodes` that the process holds open. Each is looked for once in its life."""
    wanted = inodes - row.looked_for
    if wanted and not row.files_closed:
        links = {f"socket:[{inode}]": inode for inode in wanted}
        try:
            with os.scandir(f"{proc}/{row.pid}/fd") as entries:
                row.holds.update(links[link] for entry in entries if (link := _link(entry.path)) in links)
            row.looked_for |= wanted
        except PermissionError:
            row.files_closed = True
        except OSError:
            return set()  # gone
    return row.holds & inodes


def read_bytes(path: str, most: int) -> bytes:
    """At most so many bytes of a file; empty when it cannot be read."""
    found = bytearray()
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while len(found) < most and (part := os.read(file, most - len(found))):
                found += part
        finally:
            os.close(file)
    except OSError:
        return b""
    return bytes(found)


def _read_once(path: str, most: int) -> bytes:
    """The same by one read, for files that the kernel hands out whole: thousands of them are read in a look."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, most)
        finally:
            os.close(file)
    except OSError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115  # a Path for each open file of a process would double the cost
    except OSError:
        return ""  # the file was closed meanwhile
