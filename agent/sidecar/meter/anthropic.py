"""Objects of Anthropic's ``/v1/messages``, streamed or whole → what they say. Pure."""

from typing import Any, ClassVar

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count

DELTA_KEYS = ("text", "thinking", "partial_json")  # a signature is no output of the model
BLOCK_KEYS = ("text", "thinking", "name", "data")  # the name is a tool's; data are thoughts that were redacted


class AnthropicReading(Reading):
    """Usage comes in two parts: the prompt's with the first event, the output's with the last but one."""

    __slots__ = ("_cached", "_prompt", "_written")
    done_ends: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._prompt: int | None = None
        self._written: int | None = None
        self._cached: int | None = None

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One event, or the whole message. Returns its tokens: a content delta is taken for one."""
        kind = said.get("type")
        if kind == "content_block_delta":
            return _carries(said.get("delta"), DELTA_KEYS), False
        if not self.take_common(said) and kind == "error":
            self.take_error(said)
        if kind == "content_block_start":
            return _carries(said.get("content_block"), BLOCK_KEYS), False
        if kind == "message_start" and isinstance(message := said.get("message"), dict):
            self.take_common(message)
            self._take_usage(message.get("usage"), whole=False)
        elif kind == "message_delta":
            if isinstance(delta := said.get("delta"), dict):
                self.take_finish(delta.get("stop_reason"))
            self._take_usage(said.get("usage"), whole=True)
        elif kind == "message_stop":
            self.ended = True
        elif kind == "message":
            self.take_finish(said.get("stop_reason"))
            self._take_usage(said.get("usage"), whole=True)
        return 0, False

    def _take_usage(self, usage: Any, *, whole: bool) -> None:
        """`whole`: the output tokens are the final ones; those of the first event are a placeholder."""
        if not isinstance(usage, dict):
            return
        # The last event may repeat the prompt's counts; some servers leave them 0 there, others in the first.
        self._prompt = _later(self._prompt, usage.get("input_tokens"))
        self._written = _later(self._written, usage.get("cache_creation_input_tokens"))
        self._cached = _later(self._cached, usage.get("cache_read_input_tokens"))
        output = count(usage.get("output_tokens"))
        if whole and output is not None:
            self.reported = self._sum(output)

    def _sum(self, output: int) -> Usage:
        """Anthropic's kinds are disjoint; a prompt written to the cache was computed like the rest."""
        prompt = self._prompt
        if prompt is not None and self._written is not None:
            prompt += self._written
        return Usage(input_tokens=prompt, input_cached_tokens=self._cached, output_tokens=output, source="reported")

    def usage_of(self, usage: dict[str, Any]) -> Usage | None:
        """The `usage` of a whole message."""
        self._take_usage(usage, whole=True)
        return self.reported

    def usage(self, counted: int | None) -> Usage:
        """What was reported; of a stream that broke off, the reported prompt and the deltas that were counted."""
        if self.reported is not None or counted is None:
            return self.reported or Usage()
        summed = self._sum(counted)
        return Usage(
            input_tokens=summed.input_tokens,
            input_cached_tokens=summed.input_cached_tokens,
            output_tokens=counted,
            source="counted",
        )


def _later(before: int | None, value: Any) -> int | None:
    """A later count in place of an earlier one, but for a 0 or none at all."""
    return count(value) or (count(value) if before is None else before)


def _carries(part: Any, keys: tuple[str, ...]) -> int:
    return int(isinstance(part, dict) and any(part.get(key) for key in keys))
