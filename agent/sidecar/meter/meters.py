"""Body bytes of a response → first-token instant, tokens, finish reason, error. Pure.

A stream is fed as it arrives, cut anywhere. Parsing each event would be most of the sidecar's work. So, after the first
token, bytes are only put by. When the stream ends with a usage of its own, its end is parsed and the rest just searched
for what is unusual; when tokens have to be counted, the meter knows what an ordinary token event of this stream looks
like: all bytes before the token's text and all bytes after it. An event that has exactly these ends, and between them
text without a quotation mark, is one token and nothing else; any other event is parsed.
"""

import json
import re
from functools import lru_cache
from typing import Any

from agent.core.requests import Usage
from agent.sidecar.meter.anthropic import AnthropicReading
from agent.sidecar.meter.embeddings import EmbeddingsReading
from agent.sidecar.meter.generate import GenerateReading, TritonReading
from agent.sidecar.meter.lines import LinesMeter
from agent.sidecar.meter.ollama import OllamaReading
from agent.sidecar.meter.reading import MAX_CAPTURE_BYTES, TEXT_KEYS, TOKEN_KEYS, Measured, Meter, Reading, decode
from agent.sidecar.meter.responses import ResponsesReading

TAIL_BYTES = 1 << 16
PUT_BY_BYTES = 8 << 10  # events of a stream that wait unread; 2,000 streams must not need much memory
_UNUSUAL = (b'"error"', b'"abort"')  # what an event in the middle of a stream may say beyond a token
LINES = ("application/x-ndjson", "application/ndjson")
_NAMES = {key: f'"{key}":'.encode() for key in TEXT_KEYS}
_QUOTE = ord('"')
_BACKSLASH = ord("\\")
_NO_FINISH = b'"finish_reason":null'
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


READINGS: tuple[tuple[str, type[Reading]], ...] = (
    ("/completions", Reading),
    ("/v1/messages", AnthropicReading),
    ("/v1/responses", ResponsesReading),
    ("/v1/embeddings", EmbeddingsReading),
    ("/api/chat", OllamaReading),
    ("/api/generate", OllamaReading),
    ("/api/embed", EmbeddingsReading),
)


@lru_cache(maxsize=64)
def reading_for(path: str) -> type[Reading] | None:
    """What reads the responses on this path; None for a path whose responses carry no tokens we understand."""
    for end, reading in READINGS:
        if path.endswith(end):
            return reading
    if path in ("/generate", "/generate_stream") or path.startswith("/mii/"):
        return GenerateReading
    if path.startswith("/v2/models/") and path.endswith(("/generate", "/generate_stream")):
        return TritonReading
    return None


def is_metered(path: str) -> bool:
    """Whether responses on this path carry tokens that the meter understands."""
    return reading_for(path) is not None


@lru_cache(maxsize=64)
def is_stream(content_type: str) -> bool:
    """Whether a body of this type is a stream of events or of lines."""
    return _kind(content_type) in ("text/event-stream", *LINES)


def meter_for(content_type: str, content_encoding: str, path: str = "") -> Meter | None:
    """The meter of one response, or None for what cannot be read (compressed, unknown type)."""
    if content_encoding not in ("", "identity"):
        return None
    kind = _kind(content_type)
    reading = (reading_for(path) or Reading)()
    if kind == "text/event-stream":
        return StreamMeter(reading)
    if kind in LINES:
        return LinesMeter(reading)
    return DocumentMeter(reading) if kind.endswith("json") else None


def meter_of(content_type: str, content_encoding: str, path: str, failed: bool) -> Meter | None:
    """The meter of one response, if its path is one whose responses can be read; of a failure, whatever the path."""
    return meter_for(content_type, content_encoding, path) if failed or is_metered(path) else None


@lru_cache(maxsize=64)
def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def learn(event: bytes, choice: dict[str, Any]) -> tuple[bytes, bytes] | None:
    """The bytes before and after the text of a token event, or None if its text cannot be told apart surely."""
    carrier = choice.get("delta")
    if not isinstance(carrier, dict):
        carrier = choice
    present = [key for key in TOKEN_KEYS if carrier.get(key)]
    name = _NAMES.get(present[0])
    if len(present) != 1 or name is None or event.count(name) != 1:
        return None
    start = event.index(name) + len(name)
    while event[start : start + 1] == b" ":
        start += 1
    end = event.find(b'"', start + 1)
    if event[start] != _QUOTE or end < 0 or event[end - 1] == _BACKSLASH:
        return None
    return event[: start + 1], event[end:]


class StreamMeter:
    """Server-sent events. An event counts at the instant its last byte, the blank line, has arrived."""

    __slots__ = (
        "_after",
        "_before",
        "_by",
        "_by_bytes",
        "_carriage_return",
        "_done",
        "_held",
        "_held_bytes",
        "_learns",
        "_lost",
        "_putting_by",
        "_quotes",
        "counted",
        "first",
        "reading",
    )

    def __init__(self, reading: Reading | None = None) -> None:
        self.reading = Reading() if reading is None else reading
        self.counted = 0
        self.first: int | None = None
        self._held: list[bytes] = []  # pieces of an event that is not whole yet
        self._held_bytes = 0
        self._carriage_return = False  # this stream has CR in its line ends
        self._before = b"\n\n"  # no event can hold a blank line: nothing is learnt yet
        self._after = b""
        self._quotes = 0  # in both ends together
        self._learns = False  # what an ordinary event looks like: not from the first one, most streams need not know
        self._putting_by = False  # the first token has been: what comes is read later, if at all
        self._by: list[bytes] = []  # pieces that were put by, from the beginning of an event on
        self._by_bytes = 0
        self._done = False
        self._lost = False

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take the next piece of the body, of any length."""
        if self._putting_by:
            self._by.append(data)
            self._by_bytes += len(data)
            if self._by_bytes > PUT_BY_BYTES:
                self._read_up()
            return
        self._read(data, now_ns)

    def _read_up(self) -> None:
        """Read what was put by; the instant does not matter any more, as the first token has been."""
        if self._by:
            data = b"".join(self._by)
            self._by.clear()
            self._by_bytes = 0
            self._read(data, 0)

    def _read(self, data: bytes, now_ns: int) -> None:
        if self._lost:
            return
        if b"\r" in data or self._carriage_return:
            data = self._without_carriage_returns(data)
        if self._held:
            if b"\n" not in data and self._held_bytes < MAX_CAPTURE_BYTES:
                self._hold(data)
                return
            data = b"".join((*self._held, data))
            self._held.clear()
            self._held_bytes = 0
        if self.first is None:
            data = self._read_to_first(data, now_ns)
            if self._putting_by:
                self.feed(data, now_ns)
                return
        end = data.rfind(b"\n\n")
        if end < 0:
            self._hold(data)
            return
        if end + 2 < len(data):
            self._hold(data[end + 2 :])
        self._take_events(data[:end].split(b"\n\n"), now_ns)

    def _read_to_first(self, data: bytes, now_ns: int) -> bytes:
        """Take one event after the other until the first token; returns what follows it."""
        at = 0
        while not self._putting_by and (end := data.find(b"\n\n", at)) >= 0:
            self._take_event(data[at:end], now_ns)
            at = end + 2
            self._putting_by = self._learns = self.first is not None and not self._carriage_return
        return data[at:]

    def _take_events(self, events: list[bytes], now_ns: int) -> None:
        """Whole events, in order."""
        if len(events) > 2:
            events = self._without_ordinary(events)
        before, after = self._before, self._after
        for event in events:
            stop = len(event) - len(after)
            if (
                stop > len(before)
                and event.startswith(before)
                and event.endswith(after)
                and event.find(b'"', len(before), stop) < 0
                and event[stop - 1] != _BACKSLASH
            ):
                self.counted += 1
            else:
                self._take_event(event, now_ns)
                before, after = self._before, self._after

    def _without_ordinary(self, events: list[bytes]) -> list[bytes]:
        """Count the ordinary ones among many events with one look at all of them; returns the others."""
        before, after = self._before, self._after
        others = [event for event in events if not event.startswith(before) or not event.endswith(after)]
        ordinary = len(events) - len(others)
        if ordinary < 2 or before + after in events:  # too few, or one without any text
            return events
        together = b"".join(events)
        quotes = together.count(b'"') - sum([event.count(b'"') for event in others])
        if quotes != self._quotes * ordinary or b'\\"' in together:
            return events  # a text with a quotation mark, perhaps an escaped one: look at each
        self.counted += ordinary
        return others

    def _take_event(self, event: bytes, now_ns: int) -> None:
        if event == b"data: [DONE]":
            self._done = True
            return
        if event.startswith(b"data:") and b"\n" not in event:
            payload = event[5:].strip()
        else:
            payload = b"\n".join([line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]).strip()
        if payload == b"[DONE]":
            self._done = True
            return
        said = decode(payload) if payload else None
        if not isinstance(said, dict):
            return
        tokens, plain = self.reading.take(said)
        if tokens == 0:
            return
        self.counted += tokens
        if self.first is None:
            self.first = now_ns
        if plain and self._learns and len(said["choices"]) == 1:
            learnt = learn(event, said["choices"][0])
            if learnt is not None:
                self._before, self._after = learnt
                self._quotes = learnt[0].count(b'"') + learnt[1].count(b'"')

    def _ends_with_usage(self, now_ns: int) -> bool:
        """Whether what was put by could be read by its end alone: nothing unusual, and a usage after the last token."""
        if not self._by:
            return False
        data = b"".join((*self._held, *self._by))
        usage = data.rfind(b'"usage"')
        if usage < 0 or not _USAGE.match(data, usage) or b"\r" in data:
            return False
        # The event of the usage, and the one before it: that is where the finish reason stands.
        last = max(0, data.rfind(b"\n\n", 0, usage))
        end = max(0, data.rfind(b"\n\n", 0, last))
        if any(data.find(word, 0, last) >= 0 for word in _UNUSUAL):
            return False
        if data.find(_NO_FINISH, end, last) >= 0:
            end = last
        before = self.reading.reported
        self._by.clear()
        self._held.clear()
        self._held_bytes = 0
        self._learns = False
        for event in data[end:].split(b"\n\n"):  # the last one may lack its blank line
            if event:
                self._take_event(event, now_ns)
        self._learns = True
        if self.reading.reported is not None and self.reading.reported is not before:
            return True
        self._read(data[:end] + b"\n\n", now_ns)  # it was no usage: the tokens have to be counted
        return False

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_CAPTURE_BYTES:  # no engine writes such an event; the bytes still go to the client
            self._lost = True
            self._held.clear()

    def _without_carriage_returns(self, data: bytes) -> bytes:
        if not self._carriage_return:
            self._carriage_return = self._learns = True
            self._held = [b"".join(self._held)]
        if self._held and self._held[-1].endswith(b"\r"):
            data = b"\r" + data
            self._held[-1] = self._held[-1][:-1]
            self._held_bytes -= 1
        cut = data.endswith(b"\r")  # may be half of CR LF
        data = (data[:-1] if cut else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data + b"\r" if cut else data

    def output_tokens(self) -> int | None:
        """Tokens streamed so far."""
        self._read_up()
        reported = self.reading.reported
        return reported.output_tokens if reported and reported.output_tokens is not None else self.counted

    def finish(self, now_ns: int) -> Measured:
        """The result; an event that lacks only its blank line is taken too."""
        if not self._ends_with_usage(now_ns):
            self._read_up()
        rest = b"".join(self._held)
        self._held.clear()
        if rest:
            self._take_event(rest.replace(b"\r", b"\n").strip(b"\n"), now_ns)
        reading = self.reading
        return reading.measured(
            Usage() if self._lost and reading.reported is None else reading.usage(self.counted),
            first_token_at_ns=self.first,
            complete=reading.ended or (self._done and reading.done_ends),
        )


class DocumentMeter:
    """One JSON document. Of a very long one only the end is kept, where engines write the usage."""

    __slots__ = ("_bytes", "_cut", "_parts", "_reading")

    def __init__(self, reading: Reading | None = None) -> None:
        self._reading = Reading() if reading is None else reading
        self._parts: list[bytes] = []
        self._bytes = 0
        self._cut = False

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take the next piece of the body."""
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes > MAX_CAPTURE_BYTES:
            tail = b"".join(self._parts)[-TAIL_BYTES:]
            self._parts, self._bytes, self._cut = [tail], len(tail), True

    def output_tokens(self) -> int | None:
        """Unknown until the document is whole."""
        return None

    def finish(self, now_ns: int) -> Measured:
        """The result; an unreadable document gives an empty one."""
        body = b"".join(self._parts)
        self._parts.clear()
        reading = self._reading
        if self._cut:
            usage = object_in_tail(body, "usage")
            reading.reported = reading.usage_of(usage) if usage is not None else None
            return Measured(usage=reading.usage(None))
        complete = reading.take_document(reading.decode(body))
        return reading.measured(reading.usage(None), complete=complete)


def object_in_tail(tail: bytes, name: str) -> dict[str, Any] | None:
    """The last object of a name in the end of a document; inside a string its quotation marks would be escaped."""
    text = tail.decode("utf-8", "replace")
    mark = f'"{name}":'
    at = text.rfind(mark)
    if at < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text[at + len(mark) :].lstrip())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
