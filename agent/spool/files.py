"""The few things that the spool does to a disk, in one place: tests fail them, record them and replay them."""

import os
from collections.abc import Sequence
from pathlib import Path


class Files:
    """The real disk. Every method may raise `OSError`; a write that returns has taken every byte."""

    def names(self, folder: Path) -> list[str]:
        """Names in the folder, sorted."""
        return sorted(os.listdir(folder))  # noqa: PTH208 names are all that is wanted

    def open(self, path: Path, *, create: bool = False) -> int:
        """A descriptor to read and write. With `create` the file is made where it is missing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)

    def open_to_read(self, path: Path) -> int:
        # A named pipe in the place of a file would hold up whoever opens it.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def reserve(self, fd: int, size: int) -> None:
        """Take the blocks now, so that a full disk shows here and not in the middle of a write."""
        os.posix_fallocate(fd, 0, size)

    def write(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        written = os.pwritev(fd, buffers, offset)
        wanted = sum(map(len, buffers))
        if written < wanted:
            rest = memoryview(b"".join(buffers))
            while written < wanted:
                written += os.pwrite(fd, rest[written:], offset + written)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """At most `size` bytes; fewer at the end of the file."""
        return os.pread(fd, size, offset)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """Make creations and removals in the folder durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def free_bytes(self, folder: Path) -> int:
        """What an ordinary user may still take of the volume."""
        volume = os.statvfs(folder)
        return volume.f_bavail * volume.f_frsize
