"""What is known of a request (instants, token counts, progress events) in; how far it was at any instant, out.

A request reads its prompt from when it started to its first token and writes evenly between the instants at which its
output was counted. What nobody told is inferred from what was: see `first_token_ns`.
"""

from bisect import bisect_left

from agent.core.cost.live import Live
from agent.core.cost.prompts import Prompts


def prompt_tokens(live: Live, prompts: Prompts | None = None) -> tuple[int, int]:
    """(tokens the engine had to read, tokens of context with the cached ones).

    Until usage is known: what is expected by `prompts`, without them the estimate. Nothing said of the prompt: (0, 0).
    """
    usage = live.usage
    if usage.input_tokens is None:
        if prompts is not None and usage.input_cached_tokens is None:
            return prompts.expect(live)
        estimate = live.input_estimate or 0
        cached = usage.input_cached_tokens or 0
        return (max(0, estimate - cached), max(estimate, cached))
    return usage.input_tokens, usage.input_tokens + (usage.input_cached_tokens or 0)


def first_token_ns(live: Live, reading_ns: int) -> int:
    """Instant of the first output token: as told, else as it follows from the pace of the output, else the earliest.

    `reading_ns`: engine time that the prompt needs at least, the earliest being the start and that. While only one
    count is known, and for an answer that came in one piece, nothing better can be said.
    """
    if live.first_token_ns is not None:
        return live.first_token_ns
    began, points, ended = live.started_ns, live.points, live.ended_ns
    if not points:
        earliest = began + reading_ns
        return earliest if ended is None or earliest < ended else ended
    at, tokens = points[0]
    if len(points) > 1:
        later, more = points[1]
    else:
        later, more = ended or 0, live.usage.output_tokens or 0
    if more > tokens and later > at:
        return min(max(began, at - tokens * (later - at) // (more - tokens)), at)
    return min(began + reading_ns, at)


def output_at(live: Live, at_ns: int, first_ns: int) -> float:
    """Output tokens by `at_ns`, fractions too: straight lines between first token, progress events and end.

    As `Live.tokens_at`, for work charges: one token is there at `first_ns`, and after the last word nothing is added.
    """
    if at_ns <= first_ns:
        return 0.0
    points, ended = live.points, live.ended_ns
    told = points[-1][1] if points else 0
    if ended is not None:
        total = live.usage.output_tokens or told
        if at_ns >= ended:
            return total
    place = bisect_left(points, (at_ns,))
    if place:
        from_ns, tokens = points[place - 1]
    else:
        from_ns, tokens = 0, 0
    begins, before = (first_ns, 1) if from_ns < first_ns else (from_ns, tokens)
    if place < len(points):
        until, after = points[place]
    elif ended is not None:
        until, after = ended, total
    else:
        return max(before, told) if points else 0.0
    if after <= before or until <= begins:
        return min(before, after)
    return before + (after - before) * (at_ns - begins) / (until - begins)
