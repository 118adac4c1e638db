"""DATA of one direction of a gRPC call → its messages: how many, how long, and the beginning of each. Pure.

Each message follows one byte of flags (1: compressed) and its length in four bytes, whatever the frames are
(grpc/doc/PROTOCOL-HTTP2.md).
"""

from typing import NamedTuple

PREFIX_BYTES = 5


class Message(NamedTuple):
    """One message, or as much of it as has come. `head` is its beginning, at most what the reader keeps."""

    head: bytes
    length: int
    compressed: bool

    @property
    def whole(self) -> bool:
        """Whether `head` is all of it."""
        return len(self.head) == self.length


class MessageReader:
    """Counts messages as they pass; keeps at most `capture` bytes."""

    __slots__ = ("_capture", "_compressed", "_head", "_left", "_length", "_prefix", "count")

    def __init__(self, capture: int) -> None:
        self._capture = capture
        self._prefix = b""
        self._head = b""
        self._length: int | None = None  # of the message that is coming
        self._left = 0
        self._compressed = False
        self.count = 0  # of whole messages

    @property
    def amid(self) -> bool:
        """Whether a message has begun and is not whole yet."""
        return self._length is not None or bool(self._prefix)

    @property
    def coming(self) -> Message | None:
        """The message that has begun and is not whole yet, if its length is known."""
        return None if self._length is None else Message(self._head, self._length, self._compressed)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole with this piece."""
        size = len(data)
        if size >= PREFIX_BYTES and not self.amid and size - PREFIX_BYTES == int.from_bytes(data[1:PREFIX_BYTES]):
            self.count += 1
            return [Message(data[PREFIX_BYTES : PREFIX_BYTES + self._capture], size - PREFIX_BYTES, bool(data[0] & 1))]
        done: list[Message] = []
        at = 0
        while at < size:
            at = self._piece(data, at, size, done)
        return done

    def _piece(self, data: bytes, at: int, size: int, done: list[Message]) -> int:
        if self._length is None:
            take = min(PREFIX_BYTES - len(self._prefix), size - at)
            self._prefix += data[at : at + take]
            at += take
            if len(self._prefix) < PREFIX_BYTES:
                return at
            self._compressed = bool(self._prefix[0] & 1)
            self._length = self._left = int.from_bytes(self._prefix[1:])
        take = min(self._left, size - at)
        room = min(take, self._capture - len(self._head))
        if room > 0:
            self._head += data[at : at + room]
        self._left -= take
        if self._left == 0:
            done.append(Message(self._head, self._length, self._compressed))
            self.count += 1
            self._prefix = self._head = b""
            self._length = None
        return at + take
