"""Read by the `schemathesis` program: how to send msgpack."""

import msgspec
import schemathesis


@schemathesis.serializer("application/msgpack")
def msgpack(_context, value):
    if isinstance(value, bytes):
        return value
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, TypeError, UnicodeEncodeError):  # no msgpack says that: an integer of more than 64 bits, ...
        return repr(value).encode("utf-8", "replace")
