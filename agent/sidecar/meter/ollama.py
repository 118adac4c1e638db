"""Objects of Ollama's ``/api/chat`` and ``/api/generate``, streamed or whole → what they say. Pure."""

from typing import Any, ClassVar

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count

MESSAGE_KEYS = ("content", "thinking", "tool_calls")
ANSWER_KEYS = ("response", "thinking")


class OllamaReading(Reading):
    """The last object has ``"done": true`` and the counts; it may carry text too."""

    __slots__ = ()
    done_ends: ClassVar[bool] = False

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One object. Returns its tokens: one that carries output is taken for one."""
        self.take_common(said)
        if said.get("done") is True:
            self.ended = True
            self.take_finish(said.get("done_reason"))
            self.reported = _counts_of(said)
        message = said.get("message")
        if isinstance(message, dict):
            return int(any(message.get(key) for key in MESSAGE_KEYS)), False
        return int(any(said.get(key) for key in ANSWER_KEYS)), False

    def take_error(self, error: Any) -> None:
        """Ollama's errors are bare messages; that of its full queue does not name the queue."""
        super().take_error(error)
        self.queue_full = self.queue_full or "pending requests" in str(error)


def _counts_of(said: dict[str, Any]) -> Usage | None:
    """Counts that are 0 are left out. A prompt's may also be left out when it was cached as a whole: then unknown."""
    prompt, output = count(said.get("prompt_eval_count")), count(said.get("eval_count"))
    if prompt is None and output is None:
        return None
    return Usage(input_tokens=prompt, output_tokens=output or 0, source="reported")
