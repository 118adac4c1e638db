"""JSON objects of one response → what they say: usage, finish reason, model, error. Pure; no framing.

`Reading` knows OpenAI's chat, completions and llama.cpp's timings; the other APIs are subclasses in files beside this.
"""

import json
from typing import Any, ClassVar, Protocol

import msgspec
from msgspec import Struct

from agent.core.requests import Usage

MAX_CAPTURE_BYTES = 1 << 20
TEXT_KEYS = ("content", "reasoning_content", "reasoning", "text")
TOKEN_KEYS = (*TEXT_KEYS, "tool_calls", "function_call", "refusal")
_TOKENS = frozenset(TOKEN_KEYS)


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


def count(value: Any) -> int | None:
    """A count as JSON gives it; None for what is none."""
    return value if type(value) is int and value >= 0 else None


def disjoint(prompt: int | None, cached: int | None, output: int | None) -> Usage | None:
    """Counts of an engine whose prompt tokens include the cached ones; ours do not."""
    if prompt is None and output is None:
        return None
    if prompt is not None and cached is not None:
        cached = min(cached, prompt)
        prompt -= cached
    return Usage(input_tokens=prompt, input_cached_tokens=cached, output_tokens=output, source="reported")


def usage_of(usage: dict[str, Any]) -> Usage | None:
    """OpenAI's `usage` of chat, completions and embeddings."""
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return disjoint(count(usage.get("prompt_tokens")), cached, count(usage.get("completion_tokens")))


def timings_of(timings: dict[str, Any]) -> Usage | None:
    """llama.cpp's `timings`, sent even where no usage was asked for: `prompt_n` is without the cached `cache_n`."""
    prompt, output = count(timings.get("prompt_n")), count(timings.get("predicted_n"))
    if prompt is None or output is None:
        return None
    cached = count(timings.get("cache_n"))
    return Usage(input_tokens=prompt, input_cached_tokens=cached, output_tokens=output, source="reported")


def decode(data: bytes) -> Any:
    """JSON, also with the NaN some engines write; None for what is no JSON."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


class Reading:
    """Collects what the JSON objects of one response say; shared by all meters."""

    __slots__ = ("ended", "error", "finish_reason", "model", "queue_full", "reported", "timed")
    done_ends: ClassVar[bool] = True  # `[DONE]` is an end mark of this API's streams

    def usage_of(self, usage: dict[str, Any]) -> Usage | None:
        """What a `usage` object of this API says."""
        return usage_of(usage)

    def measured(self, usage: Usage, *, first_token_at_ns: int | None = None, complete: bool) -> Measured:
        """The result of a meter that has fed this reading everything."""
        return Measured(
            usage=usage,
            first_token_at_ns=first_token_at_ns,
            finish_reason=self.finish_reason,
            model=self.model,
            error=self.error,
            queue_full=self.queue_full,
            complete=complete,
        )

    def decode(self, body: bytes) -> Any:
        """The JSON of a whole document."""
        return decode(body)

    def __init__(self) -> None:
        self.reported: Usage | None = None
        self.timed: Usage | None = None
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.error: str | None = None
        self.queue_full = False
        self.ended = False  # an end mark other than `[DONE]` was seen

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One object. Returns how many of its choices carry output, and whether it says nothing else of interest."""
        plain = not self.take_common(said)
        if isinstance(usage := said.get("usage"), dict):
            self.reported = usage_of(usage)
            plain = False
        if isinstance(timings := said.get("timings"), dict):
            self.timed = timings_of(timings)
            plain = False
        tokens = 0
        choices = said.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if reason := choice.get("finish_reason"):
                self.take_finish(reason)
                plain = False
            carrier = choice.get("delta")
            if not isinstance(carrier, dict):
                carrier = choice
            for key, value in carrier.items():
                if value and key in _TOKENS:
                    tokens += 1
                    break
        return tokens, plain

    def take_document(self, said: Any) -> bool:
        """A whole document. Returns whether it is one of this API."""
        if isinstance(said, dict):
            self.take(said)
            return True
        return False

    def take_common(self, said: dict[str, Any]) -> bool:
        """The model and an error, which most APIs say alike. Returns whether there is an error."""
        if self.model is None and isinstance(model := said.get("model"), str):
            self.model = model
        if (error := said.get("error")) or said.get("object") == "error":
            self.take_error(error or said)
            return True
        return False

    def take_finish(self, reason: Any) -> None:
        """A finish reason: a word, or an object with a `type`."""
        if isinstance(reason, dict):
            reason = reason.get("type")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
            if reason in ("abort", "error"):
                self.error = self.error or f"finish reason {reason}"

    def take_error(self, error: Any) -> None:
        """An error: an object with a `type` or `code`, or a bare message."""
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
