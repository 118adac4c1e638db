"""Body of a request → what it says of itself: model, stream, the most it lets the engine write, its user. Pure."""

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from agent.sidecar.meter.reading import count

BYTES_PER_TOKEN = 4
"""Of a prompt whose tokens nobody has counted yet; what tokenizers of today make of English text."""

_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){0,512}")')
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens", "num_predict")


class RequestSaid(Struct, frozen=True):
    """Fields of OpenAI's, Anthropic's, Ollama's, SGLang's and TGI's bodies; others' values are of any type."""

    model: str | None = None
    stream: bool | None = None
    n: Any = None
    user: Any = None
    metadata: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    max_output_tokens: Any = None
    options: Any = None
    parameters: Any = None
    sampling_params: Any = None

    @property
    def most_output_tokens(self) -> int | None:
        """The most tokens that it lets the engine write, over all choices; None: it does not say."""
        limit = self.max_tokens
        if type(limit) is int and limit >= 0 and self.max_completion_tokens is None and self.n is None:
            return limit  # what most requests say, if they say anything
        limit = _first_count((self.max_completion_tokens, self.max_tokens, self.max_output_tokens))
        if limit is None:  # asked of every request: hardly any has one of these
            for values in (self.options, self.parameters, self.sampling_params):
                if type(values) is dict and (limit := _first_count(map(values.get, _LIMITS))) is not None:
                    break
        return limit if limit is None or self.n is None else limit * max(1, count(self.n) or 1)

    @property
    def shown_user(self) -> str | None:
        """OpenAI's `user`, or Anthropic's `metadata.user_id`."""
        user = self.user
        if user is None and isinstance(self.metadata, dict):
            user = self.metadata.get("user_id")
        return user if isinstance(user, str) and user else None


def _first_count(values: Iterable[Any]) -> int | None:
    for value in values:
        if value is not None and (found := count(value)) is not None:
            return found
    return None


_decoder = msgspec.json.Decoder(RequestSaid)


def read_request(body: bytes, complete: bool = True) -> RequestSaid:
    """What a request's body says; of one that is not whole, or not as it should be, what looks like its model."""
    if complete:
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # some engines take what is only nearly right
    found = _MODEL.search(body)
    try:
        return RequestSaid(json.loads(found[1]) if found else None)
    except (ValueError, RecursionError):
        return RequestSaid()
