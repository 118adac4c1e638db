"""Bytes that cannot be read as frames → copies for people to look at; the segment itself will be used again."""

from pathlib import Path

import structlog

from agent.spool.bounds import Bounds
from agent.spool.files import Files
from agent.spool.segment import WINDOW_BYTES, Damage, Window, slot_name

log = structlog.get_logger()

NAME = "quarantine"
MOST_FILES = 32
MOST_REMEMBERED = 10_000
MOST_BYTES = 2 << 20  # of one copy


class Quarantine:
    """The copies of one stream. `damaged_frames` counts every damaged stretch, copied or not."""

    def __init__(self, folder: Path, stream: str, bounds: Bounds, files: Files) -> None:
        self._folder = folder / NAME
        self._stream = stream
        self._bounds = bounds
        self._files = files
        self._seen: set[tuple[int, int]] = set()
        self.damaged_frames = 0

    def keep(self, slot: int, generation: int, window: Window, damage: Damage) -> None:
        """Count a damaged stretch, once, and copy its beginning while there is room for copies. Raises nothing."""
        if (generation, damage.offset) in self._seen:
            return
        if len(self._seen) < MOST_REMEMBERED:
            self._seen.add((generation, damage.offset))
        self.damaged_frames += 1
        if self.damaged_frames > MOST_FILES:
            return
        name = f"{generation:012d}-{damage.offset:010d}.bad"
        try:
            kept = self._copy(name, window, damage)
        except OSError as error:
            kept = f"none: {error.strerror}"
        more = "only counted" if self.damaged_frames == MOST_FILES else None
        log.error(
            "spool_frame_damaged", stream=self._stream, segment=slot_name(slot), offset=damage.offset,
            bytes=damage.end - damage.offset, copy=kept, more=more,
        )  # fmt: skip

    def _copy(self, name: str, window: Window, damage: Damage) -> str:
        self._folder.mkdir(exist_ok=True)
        if len(self._files.names(self._folder)) >= MOST_FILES:
            return "none: there are enough"
        if self._bounds.under_floor():
            return "none: too little is free on the volume"
        end = min(damage.end, damage.offset + MOST_BYTES)
        fd = self._files.open(self._folder / name, create=True)
        try:
            for at in range(damage.offset, end, WINDOW_BYTES):
                self._files.write(fd, [window.get(at, min(WINDOW_BYTES, end - at))], at - damage.offset)
        finally:
            self._files.close(fd)
        return f"{NAME}/{name}"
