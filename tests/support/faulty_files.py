"""The real disk, on which chosen calls fail once, some times or until told otherwise."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.spool.files import Files

FOR_EVER = 1 << 60


@dataclass
class Fault:
    """`times` more calls fail with this error. `part` of a write still reaches the file."""

    code: int
    times: int
    part: float = 0.0
    only: Callable[[str], bool] | None = None  # which names


class FaultyFiles(Files):
    """Kinds of calls: open, create, open_to_read, reserve, write, read, sync, sync_folder, remove, free_bytes."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.calls: dict[str, int] = {}
        self.free: int | None = None  # what the volume seems to have free
        self._paths: dict[int, str] = {}

    def fail(
        self, kind: str, code: int, times: int = FOR_EVER, part: float = 0.0, only: Callable[[str], bool] | None = None
    ) -> None:
        self.faults[kind] = Fault(code, times, part, only)

    def heal(self) -> None:
        self.faults.clear()

    def _fault(self, kind: str, name: str) -> Fault | None:
        self.calls[kind] = self.calls.get(kind, 0) + 1
        fault = self.faults.get(kind)
        if fault is None or fault.times <= 0 or (fault.only is not None and not fault.only(name)):
            return None
        fault.times -= 1
        return fault

    def _check(self, kind: str, name: str) -> None:
        if fault := self._fault(kind, name):
            raise OSError(fault.code, os.strerror(fault.code), name)

    def open(self, path: Path, *, create: bool = False) -> int:
        self._check("create" if create else "open", path.name)
        fd = super().open(path, create=create)
        self._paths[fd] = path.name
        return fd

    def open_to_read(self, path: Path) -> int:
        self._check("open_to_read", path.name)
        fd = super().open_to_read(path)
        self._paths[fd] = path.name
        return fd

    def reserve(self, fd: int, size: int) -> None:
        self._check("reserve", self._paths[fd])
        super().reserve(fd, size)

    def write(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        if fault := self._fault("write", self._paths[fd]):
            data = b"".join(buffers)
            super().write(fd, [data[: int(len(data) * fault.part)]], offset)
            raise OSError(fault.code, os.strerror(fault.code))
        super().write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._check("read", self._paths[fd])
        return super().read(fd, size, offset)

    def sync(self, fd: int) -> None:
        self._check("sync", self._paths[fd])
        super().sync(fd)

    def sync_folder(self, folder: Path) -> None:
        self._check("sync_folder", folder.name)
        super().sync_folder(folder)

    def remove(self, path: Path) -> None:
        self._check("remove", path.name)
        super().remove(path)

    def free_bytes(self, folder: Path) -> int:
        self._check("free_bytes", folder.name)
        return super().free_bytes(folder) if self.free is None else self.free
