"""Settings of the one thing the sidecar may add to a request: the wish for token counts. `sidecar.usage`."""

from typing import Literal

from pydantic import Field

from agent.settings import Section


class UsageSettings(Section):
    """Whether the engine is asked for token counts in streams whose client did not ask.

    The client gets the stream it would have got without the question. Leave it off for llama.cpp and for engines that
    send usage unasked (vLLM's `--enable-force-include-usage`, SGLang's `--stream-response-default-include-usage`):
    nothing is gained there, and what they would have sent unasked would be removed.
    """

    ask: Literal["never", "at_end", "continuous"] = Field(
        "never",
        description="`never`: not a byte of any body is changed; tokens of streams without usage are counted by their "
        "events and marked as counted. `at_end`: `stream_options.include_usage` is added to streaming chat and "
        "completion requests that do not ask for usage, and the extra chunk is removed from the answer. `continuous`: "
        "`continuous_usage_stats` is added too (vLLM, SGLang), so that a stream that was cut has exact counts as well; "
        "each event is then passed on when it is whole, and its `usage` is removed.",
    )
    max_body_bytes: int = Field(
        1 << 20,
        ge=1024,
        le=64 * 2**20,
        description="Requests larger than this are passed on unchanged. To ask, a body must be read whole before its "
        "first byte goes to the engine, and be kept in memory for so long.",
    )
