"""A request, a stretch of time and two constants of its engine and model in; the engine time its own work took, out.

    V_i = alpha * prompt tokens read in the stretch + kappa * sum of the context length over tokens written in it

`alpha` and `kappa` (`shapes.py`) come from a roofline of the model on its GPUs. What an engine needs beyond that (its
weights read for all at once, launch gaps, its scheduler) is no request's own work and is shared by time.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from agent.core.cost.live import Live
from agent.core.cost.progress import first_token_ns, output_at, prompt_tokens
from agent.core.cost.prompts import Prompts


class Constants(NamedTuple):
    """What a token costs a whole engine, all its GPUs working together, in nanoseconds of its time.

    `prefill_ns`: for each prompt token that was not cached. `context_ns`: for each output token and token of context
    that it looks back at. `prompts` knows what to expect of a prompt until the engine has told its tokens.
    """

    prefill_ns: float
    context_ns: float
    source: Literal["shape", "fitted"] = "shape"
    prompts: Prompts | None = None


class Work(NamedTuple):
    """What a request did in a stretch: `prefill` prompt tokens read, `context` tokens looked back at while writing."""

    prefill: float
    context: float


NO_WORK = Work(0.0, 0.0)


def work(live: Live, start_ns: int, end_ns: int, constants: Constants) -> Work:
    """Work of a request on [start, end). The prompt is read evenly from the start to the first token.

    Nobody reads more tokens than fit between those two instants: that bounds an estimate which counts tokens of a
    cached prefix.
    """
    return Work(*_work(live, start_ns, end_ns, constants))


def _work(live: Live, start_ns: int, end_ns: int, constants: Constants) -> tuple[float, float]:
    prefill_ns = constants.prefill_ns
    ended, began = live.ended_ns, live.started_ns
    stop = end_ns if ended is None or ended > end_ns else ended
    start = max(began, start_ns)
    if start >= stop or live.outcome == "rejected":
        return NO_WORK
    usage = live.usage
    if usage.input_tokens is None:
        fresh, prompt = prompt_tokens(live, constants.prompts)
    else:  # as there; each call counts here
        fresh = usage.input_tokens
        prompt = fresh + (usage.input_cached_tokens or 0)
    first = live.first_token_ns
    if first is None:
        first = first_token_ns(live, int(fresh * prefill_ns))
    read = 0.0
    if fresh and start < first:
        reading = first - began
        if usage.input_tokens is None and fresh * prefill_ns > reading:
            fresh = int(reading / prefill_ns)
        read = fresh * ((min(first, stop)) - start) / reading
    if stop <= first:
        return read, 0.0
    before = 0.0 if start <= first else output_at(live, start, first)
    after = output_at(live, stop, first)
    if after <= before:
        return read, 0.0
    return read, (after - before) * (prompt + (after + before) / 2)


def charge(live: Live, start_ns: int, end_ns: int, constants: Constants) -> int:
    """V_i: engine time of the request's own work on [start, end), in ns, never negative.

    Less than nothing is known (no token counts at all): 0, the request then has its equal share only.
    """
    prefill, context = _work(live, start_ns, end_ns, constants)
    return int(constants.prefill_ns * prefill + constants.context_ns * context)


def charges(lives: Iterable[Live], start_ns: int, end_ns: int, constants: Constants) -> list[int]:
    """`charge` of each, in their order."""
    prefill_ns, context_ns = constants.prefill_ns, constants.context_ns
    found = []
    for live in lives:
        prefill, context = _work(live, start_ns, end_ns, constants)
        found.append(int(prefill_ns * prefill + context_ns * context))
    return found
