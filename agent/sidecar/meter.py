"""Body bytes of an OpenAI-shaped response → first-token instant, tokens, finish reason, error. Pure.

A stream is fed as it arrives, cut anywhere. Parsing each event would be most of the sidecar's work, so the meter learns
what an ordinary token event of this stream looks like: all bytes before the token's text and all bytes after it. An
event that has exactly these ends, and between them text without a quotation mark, is one token and nothing else;
any other event is parsed.
"""

import json
import re
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from agent.core.requests import Usage

MAX_CAPTURE_BYTES = 1 << 20
TAIL_BYTES = 1 << 16
TEXT_KEYS = ("content", "reasoning_content", "reasoning", "text")
TOKEN_KEYS = (*TEXT_KEYS, "tool_calls", "function_call", "refusal")
_NAMES = {key: f'"{key}":'.encode() for key in TEXT_KEYS}
_QUOTE = ord('"')
_BACKSLASH = ord("\\")
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){0,512}")')


class Measured(Struct, frozen=True, kw_only=True):
    """What a response said about itself. `error` is a short reason; `complete` is False when its end is missing."""

    usage: Usage = Usage()
    first_token_at_ns: int | None = None
    finish_reason: str | None = None
    model: str | None = None
    error: str | None = None
    queue_full: bool = False
    complete: bool = True


class Meter(Protocol):
    """Fed the de-chunked body in pieces; `finish` once, when no more comes."""

    def feed(self, data: bytes, now_ns: int) -> None: ...

    def output_tokens(self) -> int | None: ...

    def finish(self, now_ns: int) -> Measured: ...


def is_metered(path: str) -> bool:
    """Whether responses on this path carry tokens that the meter understands."""
    return path.endswith(("/chat/completions", "/completions"))


def meter_for(content_type: str, content_encoding: str) -> Meter | None:
    """The meter of one response, or None for what cannot be read (compressed, unknown type)."""
    if content_encoding not in ("", "identity"):
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return StreamMeter()
    return DocumentMeter() if kind.endswith("json") else None


class RequestSaid(Struct, frozen=True):
    """What the meter needs of a request's body."""

    model: str | None = None
    stream: bool | None = None


_request_decoder = msgspec.json.Decoder(RequestSaid)


def read_request(body: bytes, complete: bool = True) -> RequestSaid:
    """Model and stream flag of a request body; of one that was not kept whole, what looks like its model."""
    if complete:
        try:
            return _request_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return RequestSaid()
    found = _MODEL.search(body)
    try:
        return RequestSaid(json.loads(found[1]) if found else None)
    except ValueError:
        return RequestSaid()


class Reading:
    """Collects what the JSON objects of one response say; shared by both meters."""

    __slots__ = ("error", "finish_reason", "model", "queue_full", "reported", "timed")

    def __init__(self) -> None:
        self.reported: Usage | None = None
        self.timed: Usage | None = None
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.error: str | None = None
        self.queue_full = False

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One object. Returns how many of its choices carry output, and whether it says nothing else of interest."""
        plain = True
        if self.model is None and isinstance(model := said.get("model"), str):
            self.model = model
        if isinstance(usage := said.get("usage"), dict):
            self.reported = usage_of(usage)
            plain = False
        if isinstance(timings := said.get("timings"), dict):
            self.timed = timings_of(timings)
            plain = False
        if (error := said.get("error")) or said.get("object") == "error":
            self._take_error(error or said)
            plain = False
        tokens = 0
        choices = said.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if reason := choice.get("finish_reason"):
                self._take_finish(reason)
                plain = False
            carrier = choice.get("delta")
            if not isinstance(carrier, dict):
                carrier = choice
            for key in TOKEN_KEYS:
                if carrier.get(key):
                    tokens += 1
                    break
        return tokens, plain

    def _take_finish(self, reason: Any) -> None:
        if isinstance(reason, dict):
            reason = reason.get("type")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
            if reason in ("abort", "error"):
                self.error = self.error or f"finish reason {reason}"

    def _take_error(self, error: Any) -> None:
        # Messages of engines may quote the prompt, so a record keeps the kind of an error only.
        fields = error if isinstance(error, dict) else {}
        kinds = (fields.get(key) for key in ("type", "error_type", "code"))
        kind = next((str(k) for k in kinds if isinstance(k, str | int) and k), "")
        self.error = kind[:80] or "error"
        self.queue_full = "queue" in str(fields.get("message", error)).lower()

    def usage(self, counted: int | None) -> Usage:
        """What was reported, else llama.cpp's timings, else the events that were counted."""
        if self.reported is not None:
            return self.reported
        if self.timed is not None:
            return self.timed
        return Usage() if counted is None else Usage(output_tokens=counted, source="counted")


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def usage_of(usage: dict[str, Any]) -> Usage | None:
    """OpenAI's `usage`: its prompt tokens include the cached ones, ours do not."""
    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if prompt is None and output is None:
        return None
    if prompt is not None and cached is not None:
        cached = min(cached, prompt)
        prompt -= cached
    return Usage(input_tokens=prompt, input_cached_tokens=cached, output_tokens=output, source="reported")


def timings_of(timings: dict[str, Any]) -> Usage | None:
    """llama.cpp's `timings`, sent even where no usage was asked for: `prompt_n` is without the cached `cache_n`."""
    prompt, output = _count(timings.get("prompt_n")), _count(timings.get("predicted_n"))
    if prompt is None or output is None:
        return None
    cached = _count(timings.get("cache_n"))
    return Usage(input_tokens=prompt, input_cached_tokens=cached, output_tokens=output, source="reported")


def decode(data: bytes) -> Any:
    """JSON, also with the NaN some engines write; None for what is no JSON."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


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
        "_carriage_return",
        "_done",
        "_held",
        "_held_bytes",
        "_lost",
        "_quotes",
        "counted",
        "first",
        "reading",
    )

    def __init__(self) -> None:
        self.reading = Reading()
        self.counted = 0
        self.first: int | None = None
        self._held: list[bytes] = []  # pieces of an event that is not whole yet
        self._held_bytes = 0
        self._carriage_return = False  # this stream has CR in its line ends
        self._before = b"\n\n"  # no event can hold a blank line: nothing is learnt yet
        self._after = b""
        self._quotes = 0  # in both ends together
        self._done = False
        self._lost = False

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take the next piece of the body, of any length."""
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
        end = data.rfind(b"\n\n")
        if end < 0:
            self._hold(data)
            return
        if end + 2 < len(data):
            self._hold(data[end + 2 :])
        self._take_events(data[:end].split(b"\n\n"), now_ns)

    def _take_events(self, events: list[bytes], now_ns: int) -> None:
        """Whole events, in order."""
        if len(events) > 2:
            if self.first is None:
                self._take_event(events.pop(0), now_ns)
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
        if plain and len(said["choices"]) == 1:
            learnt = learn(event, said["choices"][0])
            if learnt is not None:
                self._before, self._after = learnt
                self._quotes = learnt[0].count(b'"') + learnt[1].count(b'"')

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
            self._carriage_return = True
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
        reported = self.reading.reported
        return reported.output_tokens if reported and reported.output_tokens is not None else self.counted

    def finish(self, now_ns: int) -> Measured:
        """The result; an event that lacks only its blank line is taken too."""
        rest = b"".join(self._held)
        self._held.clear()
        if rest:
            self._take_event(rest.replace(b"\r", b"\n").strip(b"\n"), now_ns)
        reading = self.reading
        return Measured(
            usage=Usage() if self._lost and reading.reported is None else reading.usage(self.counted),
            first_token_at_ns=self.first,
            finish_reason=reading.finish_reason,
            model=reading.model,
            error=reading.error,
            queue_full=reading.queue_full,
            complete=self._done,
        )


class DocumentMeter:
    """One JSON document. Of a very long one only the end is kept, where engines write the usage."""

    __slots__ = ("_bytes", "_cut", "_parts")

    def __init__(self) -> None:
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
        reading = Reading()
        if self._cut:
            reading.reported = usage_in_tail(body)
            return Measured(usage=reading.usage(None))
        said = decode(body)
        if isinstance(said, dict):
            reading.take(said)
        return Measured(
            usage=reading.usage(None),
            finish_reason=reading.finish_reason,
            model=reading.model,
            error=reading.error,
            queue_full=reading.queue_full,
            complete=isinstance(said, dict),
        )


def usage_in_tail(tail: bytes) -> Usage | None:
    """The last `usage` object in the end of a document; inside a string its quotation marks would be escaped."""
    text = tail.decode("utf-8", "replace")
    at = text.rfind('"usage":')
    if at < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text[at + len('"usage":') :].lstrip())
    except (ValueError, RecursionError):
        return None
    return usage_of(found) if isinstance(found, dict) else None
