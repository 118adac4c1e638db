"""A stream of server-sent events → the same without the token counts that `usage_option` asked for. Pure.

Every other byte stays as it was, and none waits longer than it takes to tell it apart.
"""

import re

from agent.sidecar.meter.reading import decode
from agent.sidecar.usage.json_text import SPACE, Edit, edited, members, object_begins
from agent.sidecar.usage.option import Asked

MAX_CHUNK_BYTES = 16 << 10  # no chunk with nothing but usage is near so long
MAX_EVENT_BYTES = 1 << 20

_CR, _LF, _COLON = b"\r\n:"
_LINE_END = re.compile(rb"[\r\n]")
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data:([^\r\n]*)")
_EMPTY_LIST = re.compile(rb"\[[ \t]*+\]")
_COMMENT_LINE = re.compile(rb"(?<=[\r\n]):[^\r\n]*(?:\r\n|\r|\n|\Z)")


def usage_strip_for(asked: Asked | None, content_type: str, content_encoding: str) -> "UsageStrip | None":
    """What the answer to a request goes through; None when it is passed on as it is."""
    if asked is None or content_encoding.strip().lower() not in ("", "identity"):
        return None
    if content_type.partition(";")[0].strip().lower() != "text/event-stream":
        return None
    return UsageStrip(continuous=asked.continuous)


_START, _COMMENT, _HELD, _PASSING = range(4)


class UsageStrip:
    """Takes usage out of one stream of server-sent events, which it is fed cut anywhere.

    An event whose data is an object with no choices in `choices` and with an object in `usage` is removed, up to and
    with its blank line. Everything else comes out as it went in. An event's beginning is held only while it could
    still be such a chunk: until its data is seen to be no object, or its first `choices` to be not empty, or its end
    has come, or it is longer than `MAX_CHUNK_BYTES`. Comments between events are never held.

    With `continuous`, `usage` is also removed from chunks with choices; an event is then held until it is whole, or
    longer than `MAX_EVENT_BYTES`.
    """

    __slots__ = ("_continuous", "_held", "_mode", "_most", "_swallow", "_tail", "removed")

    def __init__(self, *, continuous: bool = False) -> None:
        self.removed = 0  # chunks
        self._continuous = continuous
        self._most = MAX_EVENT_BYTES if continuous else MAX_CHUNK_BYTES
        self._mode = _START
        self._held = b""  # the beginning of an event that is not decided yet
        self._tail = b""  # the end of what has passed of an event: half a blank line, perhaps
        self._swallow = False  # a removed chunk ended in CR: a LF that follows belongs to it

    def feed(self, data: bytes) -> bytes:
        """The next piece of the body; returns what can be passed on now, perhaps nothing."""
        if (
            self._mode != _HELD
            and not self._swallow
            and data.endswith(b"\n\n")
            and b"usage" not in data
            and b"\\u" not in data
        ):
            self._mode = _START
            return data
        out: list[bytes] = []
        at = 0
        if self._mode == _HELD:
            seen = len(self._held) - 2
            data, self._held = self._held + data, b""
            at = self._event(data, 0, max(0, seen), out)
        while at < len(data):
            if self._swallow:
                self._swallow = False
                at += data[at] == _LF
            elif self._mode == _START:
                at = self._start(data, at, out)
            elif self._mode == _COMMENT:
                end = _LINE_END.search(data, at)
                stop = end.end() if end else len(data)
                out.append(data[at:stop])
                at = stop
                self._mode = _START if end else _COMMENT
            else:
                at = self._pass(data, at, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def finish(self) -> bytes:
        """No more comes; returns what was held. A last chunk without its blank line is judged like any other."""
        held, self._held = self._held, b""
        self._mode = _START
        return self._judged(held) if held else b""

    def _start(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Between two events. Returns how far it went."""
        first = data[at]
        if first in (_CR, _LF):
            out.append(data[at : at + 1])
            return at + 1
        if first == _COLON:
            self._mode = _COMMENT
            return at
        return self._event(data, at, at, out)

    def _event(self, data: bytes, at: int, search_at: int, out: list[bytes]) -> int:
        """An event from its first byte on, as far as it has come."""
        end = _EVENT_END.search(data, search_at)
        if end is not None:
            self._mode = _START
            event = data[at : end.end()]
            removed = self.removed
            out.append(self._judged(event))
            self._swallow = self.removed > removed and event[-1] == _CR
            return end.end()
        event = data[at:]
        if len(event) > self._most or (not self._continuous and _is_other(event)):
            self._mode = _PASSING
            self._tail = event[-2:]
            out.append(event)
        else:
            self._mode = _HELD
            self._held = event
        return len(data)

    def _pass(self, data: bytes, at: int, out: list[bytes]) -> int:
        """The rest of an event that is passed on."""
        before = len(self._tail)
        joined = self._tail + data[at:]
        end = _EVENT_END.search(joined)
        if end is None:
            self._tail = joined[-2:]
            out.append(data[at:])
            return len(data)
        self._mode = _START
        stop = at + end.end() - before
        out.append(data[at:stop])
        return stop

    def _judged(self, event: bytes) -> bytes:
        """What of a whole event is passed on."""
        if len(event) > self._most or (b"usage" not in event and b"\\u" not in event):
            return event
        if not self._continuous and (_has_no_empty_list(event) or _is_other(event)):
            return event
        said = decode(_data(event))
        if not isinstance(said, dict) or not isinstance(said.get("usage"), dict):
            return event
        choices = said.get("choices")
        if choices == []:
            self.removed += 1
            return b"".join(_COMMENT_LINE.findall(event))
        return _without_usage(event) if self._continuous and isinstance(choices, list) else event


def _data(event: bytes) -> bytes:
    """The event's data; JSON does not mind the space that may come before each line of it."""
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return event[5:]
    return b"\n".join(_DATA_LINE.findall(event))


def _has_no_empty_list(event: bytes) -> bool:
    """Whether that is plain to see: a quick look at the usual event, of one line. Some engines say `usage` in each."""
    return event.find(b"\n") == len(event) - 2 and b"\r" not in event and _EMPTY_LIST.search(event) is None


def _is_other(event: bytes) -> bool:
    """Whether an event, or its beginning, is surely no chunk with nothing but usage."""
    data = _data(event)
    at = object_begins(data)
    if at is None:
        return bool(data.strip(b" \t\r\n"))
    return any(m.name == "choices" and _is_something(data, m.value_at) for m in members(data, at))


def _is_something(text: bytes, at: int) -> bool:
    """Whether the value that begins here is surely not an empty list."""
    if at >= len(text):
        return False
    if text[at : at + 1] != b"[":
        return True
    space = SPACE.match(text, at + 1)
    at = space.end() if space else at + 1
    return at < len(text) and text[at : at + 1] != b"]"


def _without_usage(event: bytes) -> bytes:
    """A whole event without the objects named `usage` of its data."""
    lines = [match.span(1) for match in _DATA_LINE.finditer(event)]
    data = b"\n".join([event[start:end] for start, end in lines])
    cuts = _usage_spans(data)
    edits: list[Edit] = []
    base = 0  # of the line in the data
    for start, end in lines:
        size = end - start
        for cut_from, cut_to in cuts:
            first, last = max(cut_from - base, 0), min(cut_to - base, size)
            if first < last:
                edits.append((start + first, start + last, b""))
        base += size + 1
    return edited(event, edits)


def _usage_spans(data: bytes) -> list[tuple[int, int]]:
    """From where to where each of them goes, with the comma that parts it from the member before, or after."""
    spans = []
    kept_end: int | None = None  # of the last member that stays
    first_at: int | None = None  # of the members from the first on that go
    for member in members(data, object_begins(data) or 0):
        end = member.end or member.value_at
        if member.name != "usage" or data[member.value_at : member.value_at + 1] != b"{":
            if first_at is not None and kept_end is None:
                spans.append((first_at, member.at))
            kept_end = end
        elif kept_end is not None:
            comma = data.rindex(b",", 0, member.at)
            spans.append((comma, end))
        elif first_at is None:
            first_at = member.at
    return spans
