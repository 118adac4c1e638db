"""Bytes of a protobuf message → its fields, without a schema. Pure.

Made for the beginnings of messages: a cut or damaged message yields what can be read of it and then ends.
Source: the wire format at protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """One field: a number, or bytes that lie at `start:stop` of the message."""

    number: int
    value: int  # of a number; of bytes: how many there are in the whole message
    start: int = 0
    stop: int = 0

    @property
    def whole(self) -> bool:
        """Whether all of its bytes are there."""
        return self.stop - self.start == self.value


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that starts at `at`, and where it ends; (0, -1) if it does not end before `end`."""
    value = shift = 0
    for index in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    return 0, -1


def fields(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of a message in `data[start:stop]`, in their order."""
    at = start
    end = len(data) if stop is None else stop
    while 0 <= at < end:
        key = data[at]
        if key < 0x80:  # nearly all are so short
            at += 1
        else:
            key, at = varint(data, at, end)
        number, kind = key >> 3, key & 7
        if at < 0 or number == 0:
            return
        if kind == _VARINT:
            value, at = varint(data, at, end)
            if at < 0:
                return
            yield Field(number, value)
        elif kind == _BYTES:
            if at < end and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = varint(data, at, end)
                if at < 0:
                    return
            stop_at = at + length
            yield Field(number, length, at, min(end, stop_at))
            at = stop_at
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            if at + size > end:
                return
            yield Field(number, int.from_bytes(data[at : at + size], "little"))
            at += size
        else:
            return


def text(data: bytes, field: Field) -> str | None:
    """A field's bytes as text; None when they are cut or not UTF-8."""
    if not field.whole:
        return None
    try:
        return data[field.start : field.stop].decode()
    except UnicodeDecodeError:
        return None
