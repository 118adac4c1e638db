"""How far a stream is settled ⇄ a small file with two copies, of which a crash can spoil only the older one."""

import errno
import struct
from pathlib import Path
from typing import Literal

import msgspec
from isal.isal_zlib import crc32

from agent.spool.files import Files
from agent.spool.frame import NewerFormat

NAME = "marks"
VERSION = 1
COPY_BYTES = 256 << 10

_MAGIC = b"\xe5RMk"
_HEAD = struct.Struct("<4sHHQII")  # magic, version, reserved, revision, length, CRC of the payload
_CRC = struct.Struct("<I")


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled and how. `committed` is the highest number that was durable when this was written."""

    stream: int  # random, made with the stream
    committed: int = 0
    through: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    results: dict[str, int] = {}


Condition = Literal["newest", "older", "none"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Marks)


class MarksFile:
    """The open file. `save` is durable when it returns. `synced`: whether what was found in it is durable."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._files = files
        self._fd = files.open(folder / NAME, create=True)
        self._revision = 0
        if files.size(self._fd) < 2 * COPY_BYTES:
            try:
                # On a disk that fills up later, settling must still be possible: it is what frees room.
                files.reserve(self._fd, 2 * COPY_BYTES)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self.close()
                    raise
        self.synced = self._sync(folder)

    def _sync(self, folder: Path) -> bool:
        """A process that was killed may have left copies that no power cut would leave: make them last."""
        try:
            self._files.sync(self._fd)
            self._files.sync_folder(folder)
        except OSError:
            return False
        return True

    def load(self) -> tuple[Marks | None, Condition]:
        """The newest readable copy; "older" when a copy is damaged, so that it may not be the last one written.

        Raises `NewerFormat`.
        """
        copies = [self._copy(at * COPY_BYTES) for at in (0, 1)]
        readable = [copy for copy in copies if isinstance(copy, tuple)]
        if not readable:
            return None, "none"
        self._revision, marks = max(readable, key=lambda copy: copy[0])
        return marks, "older" if "damaged" in copies else "newest"

    def _copy(self, offset: int) -> "tuple[int, Marks] | Literal['empty', 'damaged']":
        try:
            return read_copy(self._files.read(self._fd, COPY_BYTES, offset))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return "damaged"

    def save(self, marks: Marks) -> bool:
        """Write over the older copy. False, with nothing written, when the marks have too many holes to fit."""
        payload = _encoder.encode(marks)
        head = _HEAD.pack(_MAGIC, VERSION, 0, self._revision + 1, len(payload), crc32(payload))
        if _HEAD.size + _CRC.size + len(payload) > COPY_BYTES:
            return False
        at = (self._revision + 1) % 2 * COPY_BYTES
        self._files.write(self._fd, [head, _CRC.pack(crc32(head)), payload], at)
        self._files.sync(self._fd)
        self._revision += 1
        return True

    def close(self) -> None:
        self._files.close(self._fd)


def read_copy(data: bytes) -> tuple[int, Marks] | Literal["empty", "damaged"]:
    """(revision, marks) of one copy. Raises `NewerFormat`."""
    if not data.startswith(_MAGIC):
        return "empty" if data == bytes(len(data)) else "damaged"
    if len(data) < _HEAD.size + _CRC.size:
        return "damaged"
    if crc32(data[: _HEAD.size]) != _CRC.unpack_from(data, _HEAD.size)[0]:
        return "damaged"
    _, version, _, revision, length, crc = _HEAD.unpack_from(data)
    if version > VERSION:
        raise NewerFormat(version)
    begin = _HEAD.size + _CRC.size
    payload = data[begin : begin + length]
    if len(payload) != length or crc32(payload) != crc:
        return "damaged"
    try:
        return revision, _decoder.decode(payload)
    except msgspec.DecodeError:
        return "damaged"
