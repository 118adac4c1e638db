"""Files in, what they mean out: read again when they change, so that keys and certificates rotate without a restart."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from agent import clock
from agent.clock import NS
from agent.core.ports import ConfigError

log = structlog.get_logger()

MAX_BYTES = 1 << 20
CHECK_NS = NS

T = TypeVar("T")


def read_small(file: Path, key: str) -> bytes:
    """The content of a regular file of at most `MAX_BYTES`. Raises `ConfigError` about `key`."""
    try:
        # Without O_NONBLOCK a named pipe would stop the process until somebody writes into it.
        number = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise ConfigError(key, f"{file} is not a regular file")
            parts = []
            left = MAX_BYTES + 1
            while left > 0 and (part := os.read(number, left)):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(number)
    except OSError as error:
        raise ConfigError(key, f"{file} cannot be read: {error.strerror or error}") from None
    if left == 0:
        raise ConfigError(key, f"{file} is larger than {MAX_BYTES} bytes; it is hardly the right file")
    return b"".join(parts)


class Watched(Generic[T]):
    """The meaning of some files, which may change at any time.

    `files` maps the setting that names each file to its path; `parse` makes the value of their contents, in that
    order, and raises `ConfigError` without any of the content in it. The first reading raises such an error. Later,
    files that cannot be read or parsed leave the last good value in force, with the reason in `error`, logged once;
    with `lapse`, (seconds, value), that value takes over when this has lasted so long.

    Files are looked at when somebody asks, at most once a second. They are read rather than only asked for their
    times: they are small, and a file that was rewritten within one tick of the file system's clock looks unchanged.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        parse: Callable[..., T],
        *,
        lapse: tuple[float, T] | None = None,
        boot_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        self._files = dict(files)
        self._parse = parse
        self._lapse = lapse
        self._boot_ns = boot_ns
        self._error = ""
        self._contents = self._read()
        self._value = parse(*self._contents)
        now = boot_ns()
        self._good_at_ns = now
        self._check_at_ns = now + CHECK_NS

    @property
    def error(self) -> str:
        """Why the files as they are now do not count; empty while they do. Names a setting and a file, no content."""
        self.current()
        return self._error

    def current(self) -> T:
        """The value now in force. The same object for as long as nothing changed."""
        now = self._boot_ns()
        if now >= self._check_at_ns:
            self._check_at_ns = now + CHECK_NS
            self._look(now)
        return self._value

    def _read(self) -> tuple[bytes, ...]:
        return tuple(read_small(file, key) for key, file in self._files.items())

    def _look(self, now: int) -> None:
        try:
            contents = self._read()
            if contents != self._contents or self._error:
                value = self._parse(*contents)
                log.info("file_taken", settings=list(self._files), files=[str(file) for file in self._files.values()])
                self._value, self._contents, self._error = value, contents, ""
            self._good_at_ns = now
        except ConfigError as error:
            if self._error != str(error):
                log.error("file_refused", setting=error.key, reason=error.expected)
            self._error = str(error)
            if self._lapse is not None and now - self._good_at_ns >= self._lapse[0] * NS:
                self._value = self._lapse[1]
