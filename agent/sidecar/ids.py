"""Clock and random bits → request ids (UUIDv7), trace and span ids. Pure."""

import re
from typing import NamedTuple

RANDOM_BITS = 74
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)


class RequestId(NamedTuple):
    """A UUIDv7 (RFC 9562 section 5.7) and the ids derived from it."""

    text: str  # 8-4-4-4-12
    hex: str  # 32 digits; serves as the trace id

    @property
    def span_id(self) -> str:
        """16 hex digits, never all zero: the variant bits are among them."""
        return self.hex[16:]


def uuid7(now_ns: int, random_bits: int) -> RequestId:
    """The id of a request that began at `now_ns` (Unix ns); `random_bits` is any integer below 2**74."""
    low = f"{0b10 << 62 | random_bits & 0x3FFF_FFFF_FFFF_FFFF:x}"
    digits = f"{now_ns // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}7{random_bits >> 62:03x}{low}"
    return RequestId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{low[:4]}-{low[4:]}", digits)


def traceparent(request: RequestId) -> str:
    """A sampled W3C `traceparent` whose parent is this request's span."""
    return f"00-{request.hex}-{request.span_id}-01"


def trace_id_of(header: str) -> str | None:
    """The trace id in a `traceparent` that came in, or None if it is not a valid one (W3C Trace Context 3.2)."""
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return trace_id
