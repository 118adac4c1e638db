"""Bytes of a protobuf message in, its numbers and byte strings out. Pure and strict: damage is an error.

Source: the wire format at protobuf.dev/programming-guides/encoding. A generic reader of forty lines instead of the
protobuf library, which costs 3 MiB beside gRPC; the messages are five flat types.
"""

from msgspec import Struct

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Message(Struct, frozen=True):
    """The fields of one message by number, each with its values in their order. Numbers have no sign here."""

    strings: dict[int, list[bytes]]
    numbers: dict[int, list[int]]

    def texts(self, field: int) -> list[str]:
        """All strings of a field. Raises ValueError where one is no UTF-8."""
        return [value.decode() for value in self.strings.get(field, ())]

    def text(self, field: int) -> str:
        """The string of a field, the last if there are several; '' if there is none."""
        found = self.strings.get(field)
        return found[-1].decode() if found else ""

    def messages(self, field: int) -> list["Message"]:
        """All messages within a field. Raises ValueError where one is none."""
        return [read(value) for value in self.strings.get(field, ())]


def read(data: bytes) -> Message:
    """The fields of a message. Raises ValueError where the bytes are no protobuf message."""
    strings: dict[int, list[bytes]] = {}
    numbers: dict[int, list[int]] = {}
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            numbers.setdefault(field, []).append(value)
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} before byte {at}")
        if size > end - at:
            raise ValueError(f"field {field} ends behind the message")
        strings.setdefault(field, []).append(data[at : at + size])
        at += size
    return Message(strings, numbers)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next field begins."""
    if at < len(data) and data[at] < 0x80:  # nearly all are so short
        return data[at], at + 1
    value = 0
    for index in range(at, min(len(data), at + _MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << (7 * (index - at))
        if byte < 0x80:
            return value, index + 1
    raise ValueError(f"number without an end at byte {at}")
