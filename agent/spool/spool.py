"""A folder with the streams of one process: settings in, open streams that share one budget out."""

import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from agent.core.ports import ConfigError
from agent.datafolder import FolderLock
from agent.lifecycle import running
from agent.spool.batch import StreamState
from agent.spool.bounds import Bounds
from agent.spool.files import Files
from agent.spool.frame import NewerFormat
from agent.spool.inspect import LOCK_NAME
from agent.spool.log import Log
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.stream import Stream

log = structlog.get_logger()

LEAST_SEGMENTS = 2  # for each stream: a segment can be let go of when the next one has begun


class Spool:
    """Open streams by name. Made by `open_spool`."""

    def __init__(self, folder: Path, streams: Mapping[str, Stream], bounds: Bounds) -> None:
        self.folder = folder
        self.streams = streams
        self.bounds = bounds

    def states(self) -> list[StreamState]:
        """Every stream's numbers at this instant."""
        return [stream.state() for stream in self.streams.values()]


@asynccontextmanager
async def open_spool(
    folder: Path,
    settings: SpoolSettings,
    streams: Mapping[str, StreamLimits],
    *,
    key: str,
    files: Callable[[], Files] = Files,
) -> AsyncIterator[Spool]:
    """The spool for the length of the body; at its end everything that was put is durable and the marks are saved.

    Raises `ConfigError` about `key`: the folder cannot be used, another process has it, it is of a newer version, or
    `max_bytes` is too small for the streams.
    """
    least = LEAST_SEGMENTS * settings.segment_bytes
    if settings.max_bytes < least * len(streams):
        raise ConfigError(
            f"{key}.max_bytes",
            f"{settings.max_bytes} is too small; {len(streams)} streams need {least * len(streams)} at least",
        )
    with closing(FolderLock(folder, key, "process", mode=0o700)):
        disk = files()
        weights = {name: limits.weight for name, limits in streams.items()}
        bounds = Bounds(
            folder,
            disk,
            max_bytes=settings.max_bytes,
            min_free_bytes=settings.min_free_bytes,
            weights=weights,
            least_bytes=least,
        )
        opened = {}
        for name, limits in streams.items():
            make = partial(_open_stream, folder / name, name, bounds, disk, settings, limits, key)
            opened[name] = Stream(await anyio.to_thread.run_sync(make), limits, bounds.limit(name))
        for name in sorted(set(_folders(folder)) - set(streams)):
            log.warning("spool_stream_unused", stream=name, folder=str(folder / name))
        async with running() as group:
            for stream in opened.values():
                group.start_soon(stream.run)
            yield Spool(folder, opened, bounds)


def _open_stream(
    folder: Path, name: str, bounds: Bounds, disk: Files, settings: SpoolSettings, limits: StreamLimits, key: str
) -> Log:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for parent in (folder.parent, folder.parent.parent):
            _keep_names(parent, disk)
        return Log(folder, name, bounds, disk, segment_bytes=settings.segment_bytes, max_segments=limits.max_segments)
    except NewerFormat as error:
        raise ConfigError(
            key, f"{folder} was written by a newer engineroom ({error}); use that one, or move the folder away"
        ) from error
    except OSError as error:
        raise ConfigError(key, f"{folder} cannot be used: {error.strerror}") from error


def _keep_names(folder: Path, disk: Files) -> None:
    """A folder that was just made is only there after a power cut if its parent is durable."""
    try:
        disk.sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):  # a parent may be somebody else's to read
            raise


def _folders(folder: Path) -> list[str]:
    """Those in it, but for spools of their own, such as workers'."""
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not (entry / LOCK_NAME).exists()]
