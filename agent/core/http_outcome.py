"""What an HTTP answer means for the items that were sent: status and header in, None or one of the port's errors out.

Which status means what: RFC 9110, and reference tables of what shippers got wrong by dropping on 401 or 404. Whoever
speaks HTTP to a destination uses this, so that "wrong key" never becomes "bad item" in one place and not in another.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime

from agent.core.ports import Paused, Rejected, TooLarge, TryLater

NS = 1_000_000_000
REASON_CHARACTERS = 300
RETRY_AFTER_MAX_SECONDS = 3600.0

# Waiting alone does not help, and the items are not to blame: a key, a path, a media type, a right is wrong.
MENDED_BY_PEOPLE = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 415, 421, 426, 451, 501, 505, 511})
PASSES_BY_ITSELF = frozenset({408, 425, 429})


def outcome(status: int, detail: str = "", after_seconds: float | None = None) -> Exception | None:
    """None for 2xx; else `TryLater`, `Paused`, `TooLarge` or `Rejected`, to be raised or kept as a verdict.

    `detail` is what the other side said (never a text that may hold a secret of ours); `after_seconds` its
    `Retry-After`. A redirect is `Paused`: it is not followed, because what we send belongs to the address in the
    settings and nowhere else.
    """
    if 200 <= status < 300:
        return None
    reason = bounded_reason(f"HTTP {status}: {detail}".rstrip(": "))
    if status == 413:
        return TooLarge(reason)
    if status in MENDED_BY_PEOPLE or 300 <= status < 400:
        return Paused(reason, after_seconds)
    if 400 <= status < 500 and status not in PASSES_BY_ITSELF:
        return Rejected(reason)
    return TryLater(reason, after_seconds)


def retry_after_seconds(header: str | None, now_ns: int | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, a number or an HTTP date (RFC 9110, 10.2.3): 0 to one hour.

    `now_ns` is the wall clock, or better the answer's own `Date`. None when there is no header, it says nothing, or it
    is a date and `now_ns` is None.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), RETRY_AFTER_MAX_SECONDS)
    at_ns = http_date_ns(text)
    return None if at_ns is None or now_ns is None else min(max(0.0, (at_ns - now_ns) / NS), RETRY_AFTER_MAX_SECONDS)


def http_date_ns(text: str | None) -> int | None:
    """Unix nanoseconds of an HTTP date; None when it is none."""
    if not text:
        return None
    try:
        at = parsedate_to_datetime(text)
        return int(at.replace(tzinfo=at.tzinfo or UTC).timestamp()) * NS
    except (ValueError, OverflowError):
        return None


def bounded_reason(text: str, limit: int = REASON_CHARACTERS) -> str:
    """One line of at most `limit` characters that can be logged and shown: what others send is not to be trusted."""
    line = "".join(c if c.isprintable() else " " for c in text[: limit * 4])
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
