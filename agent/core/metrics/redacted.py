"""A metrics page in, the same page without what it must not tell out: help, comments, exemplars, free label values.

Names of metrics and labels, types, numbers and the order of lines stay, so that the page is read as before. The value
of a label stays only where the label is known to hold no more than a word or a number of the engine's own; every other
value becomes `redacted-N`, the same one for the same value.
"""

import re
from collections.abc import Collection
from typing import Any

MODELS = frozenset({"gen_ai_request_model", "gen_ai_response_model", "model", "model_name"})
NUMBERS = frozenset(
    {"dp_rank", "engine", "gt", "le", "moe_ep_rank", "position", "pp_rank", "quantile", "rank", "tp_rank"}
)
WORDS = frozenset(
    {
        "block_size",
        "cache_dtype",
        "cache_source",
        "calculate_kv_scales",
        "cpu_offload_gb",
        "enable_prefix_caching",
        "engine_type",
        "error_type",
        "finish_reason",
        "finished_reason",
        "gen_ai_operation_name",
        "gen_ai_token_type",
        "gpu_memory_utilization",
        "http_code",
        "is_attention_free",
        "is_streaming",
        "kv_cache_block_type",
        "mode",
        "num_cpu_blocks",
        "num_gpu_blocks",
        "num_gpu_blocks_override",
        "num_pages",
        "page_size",
        "prefix_caching_hash_algo",
        "reason",
        "request_type",
        "sleep_state",
        "sliding_window",
        "source",
        "stage",
        "status",
        "status_code",
        "swap_space",
        "version",
    }
)
PATHS = frozenset({"endpoint", "handler"})
ENDPOINTS = frozenset(
    {
        "/classify",
        "/detokenize",
        "/encode",
        "/generate",
        "/generate_stream",
        "/health",
        "/invocations",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/models",
        "/v1/rerank",
        "/v1/responses",
        "/v1/score",
    }
)
"""Paths of servers, which a capture may tell; any other may be what a client made up."""

PLAIN = frozenset({"build_info", "object", "owned_by", "role", "state", "status", "version"})
"""Fields of JSON bodies that never hold a name."""

MOST_NAME = 200

_TYPES = {"counter", "gauge", "gaugehistogram", "histogram", "info", "stateset", "summary", "unknown", "untyped"}
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_TYPE = re.compile(rf"#\s*TYPE\s+({_NAME})\s+(\w+)\s*")
_UNIT = re.compile(rf"#\s*UNIT\s+({_NAME})\s+([a-z0-9_]+)\s*")
_NUMBER = r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[Ii]nf|[Nn]a[Nn])"
_SAMPLE = re.compile(
    rf"({_NAME})[ \t]*(?:\{{((?:[^\"}}]|\"(?:[^\"\\]|\\.)*\")*)\}})?[ \t]*({_NUMBER})(?:[ \t]+(-?[0-9]+(?:\.[0-9]+)?))?"
    r"[ \t]*(?:#.*)?"
)
_LABEL = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*\"((?:[^\"\\]|\\.)*)\"\s*(?:,|$)")
_A_NUMBER = re.compile(_NUMBER)
_A_WORD = re.compile(r"[A-Za-z0-9_.+%-]{0,40}", re.ASCII)


class Redactor:
    """Takes out of pages and bodies what must not be told. `words`: further labels whose values are an engine's own.

    `redacted` are the labels of which a value was replaced; `left_out` counts lines that could not be understood, of
    which nothing is kept.
    """

    def __init__(self, words: Collection[str] = (), *, hide_names: bool = False) -> None:
        self.redacted: set[str] = set()
        self.left_out = 0
        self._words = WORDS | frozenset(words)
        self._hide_names = hide_names
        self._stand_ins: dict[str, str] = {}

    def page(self, body: bytes) -> bytes:
        """The page as it may be kept."""
        lines = (self._line(line.strip()) for line in body.decode("utf-8", "replace").split("\n"))
        text = "\n".join(line for line in lines if line is not None)
        return (text.rstrip("\n") + "\n").encode()

    def body(self, value: Any, key: str = "") -> Any:
        """A JSON value of which everything is named, with the texts that may be kept: words, and names of models."""
        if isinstance(value, dict):
            return {inner: self.body(item, inner) for inner, item in value.items()}
        if isinstance(value, list):
            return [self.body(item, key) for item in value]
        if not isinstance(value, str) or (key in PLAIN and _A_WORD.fullmatch(value)):
            return value
        return self.name(value)

    def name(self, text: str) -> str:
        """The name of a model: kept if names may be told and it looks like one."""
        if not self._hide_names and len(text) <= MOST_NAME and text.isprintable():
            return text
        return self.stand_in(text)

    def stand_in(self, text: str) -> str:
        """What is written instead of a text; the same for the same."""
        return self._stand_ins.setdefault(text, f"redacted-{len(self._stand_ins) + 1}")

    def _line(self, line: str) -> str | None:
        """None for what is left out."""
        if not line or line == "# EOF":
            return line
        if line.startswith("#"):
            return _declaration(line)
        sample = _SAMPLE.fullmatch(line)
        labels = None if sample is None else self._labels(sample[2] or "")
        if sample is None or labels is None:
            self.left_out += 1
            return None
        braces = f"{{{','.join(labels)}}}" if sample[2] is not None else ""
        return f"{sample[1]}{braces} {sample[3]}" + (f" {sample[4]}" if sample[4] else "")

    def _labels(self, text: str) -> list[str] | None:
        """The labels, written anew; None where they are not well-formed."""
        found, at = [], 0
        while text[at:].strip():
            label = _LABEL.match(text, at)
            if label is None:
                return None
            found.append(f'{label[1]}="{self._value(label[1], label[2])}"')
            at = label.end()
        return found

    def _value(self, label: str, written: str) -> str:
        """The value, as it is written between quotes on the page."""
        if label in MODELS:
            kept = self.name(written) == written
        elif label in NUMBERS:
            kept = _A_NUMBER.fullmatch(written) is not None
        elif label in PATHS:
            kept = written in ENDPOINTS
        else:
            kept = label in self._words and _A_WORD.fullmatch(written) is not None
        if kept or not written:
            return written
        self.redacted.add(label)
        return self.stand_in(written)


def _declaration(line: str) -> str | None:
    declared = _TYPE.fullmatch(line)
    if declared is not None and declared[2] in _TYPES:
        return f"# TYPE {declared[1]} {declared[2]}"
    unit = _UNIT.fullmatch(line)
    # A unit is the end of its metric's name, so that it says nothing that the name does not.
    if unit is not None and unit[1].removesuffix("_total").endswith(f"_{unit[2]}"):
        return f"# UNIT {unit[1]} {unit[2]}"
    return None
