"""A request's id in, the bytes it has on disk out, and back. Pure.

A UUIDv7 in its usual text form is its 16 bytes: they begin with the milliseconds since 1970, so that keys lie in order
of time. Any other id is the byte 0xff, which no UTF-8 holds and no UUIDv7 of this age begins with, and its text.
"""

import re

_OTHER = b"\xff"
_is_uuid7 = re.compile("[0-9a-e][0-9a-f]{7}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


def to_key(request_id: str) -> bytes:
    """The bytes of an id."""
    if _is_uuid7(request_id):
        return bytes.fromhex(request_id.replace("-", ""))
    return _OTHER + request_id.encode("utf-8", "surrogatepass")


def from_key(key: bytes) -> str:
    """The id of some bytes."""
    if key[:1] == _OTHER:
        return key[1:].decode("utf-8", "surrogatepass")
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def born_ms(key: bytes) -> int:
    """The milliseconds since 1970 that a UUIDv7 begins with; 0 for another id."""
    return 0 if key[:1] == _OTHER else int.from_bytes(key[:6], "big")


def first_key(at_ms: int) -> bytes:
    """The lowest key of a UUIDv7 made at `at_ms` or later."""
    return at_ms.to_bytes(6, "big")
