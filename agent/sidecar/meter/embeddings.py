"""Answer of ``/v1/embeddings`` or Ollama's ``/api/embed`` → its prompt tokens; the vectors are skipped unread. Pure."""

from typing import Any

import msgspec
from msgspec import Struct

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count, decode


class EmbeddingsSaid(Struct, frozen=True):
    """All that is read of an answer."""

    model: Any = None
    usage: Any = None
    prompt_eval_count: Any = None
    error: Any = None
    object: Any = None
    message: Any = None
    type: Any = None
    code: Any = None


_decoder = msgspec.json.Decoder(EmbeddingsSaid)


class EmbeddingsReading(Reading):
    """Embeddings have a prompt and no output."""

    __slots__ = ()

    def decode(self, body: bytes) -> Any:
        """What is of interest in the answer, without building its vectors."""
        try:
            return msgspec.structs.asdict(_decoder.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decode(body)

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """The answer. It has no tokens of its own."""
        super().take(said)
        prompt = count(said.get("prompt_eval_count"))
        if prompt is not None:
            self.reported = Usage(input_tokens=prompt, source="reported")
        return 0, False
