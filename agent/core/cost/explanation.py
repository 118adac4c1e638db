"""The cost of one request → its parts, which sum to it exactly, each with the reason in words."""

from msgspec import Struct

from agent.core.cost.money import split
from agent.core.cost.reports import RequestCost


class CostPart(Struct, frozen=True, kw_only=True):
    """A part of a request's GPU time and cost. `cost_nano` is None where nothing has a price."""

    name: str
    gpu_ns: int
    cost_nano: int | None
    why: str


def parts_of(found: RequestCost) -> tuple[CostPart, ...]:
    """Its own work first, then its share of the common time; none for a request that has no GPU time."""
    if found.gpu_ns <= 0:
        return ()
    work = min(max(found.work_ns, 0), found.gpu_ns)
    times = [work, found.gpu_ns - work]
    moneys: list[int | None] = [None, None]
    if found.cost_nano is not None and found.cost_nano >= 0:
        moneys = list(split(found.cost_nano, times))
    parts = (
        CostPart(name="work", gpu_ns=times[0], cost_nano=moneys[0], why=_work(found)),
        CostPart(name="share", gpu_ns=times[1], cost_nano=moneys[1], why=_share(found)),
    )
    return tuple(part for part in parts if part.gpu_ns)


def remarks(found: RequestCost) -> list[str]:
    """What else there is to know of the price, in sentences."""
    said = []
    if found.precision:
        said.append(found.precision)
    else:
        if not found.settled:
            said.append("Not final yet: what is booked so far; it can change until the request is over and settled.")
        if found.cost_nano is None:
            said.append("No price covers its GPU, so there is GPU time and no cost.")
        if found.seen_by != "sidecar":
            said.append(f"No sidecar saw it: it is known from {found.seen_by} only.")
    if found.waste:
        said.append(f"It counts as waste ({found.waste}): it was paid for, and nobody got an answer.")
    if found.attempt > 1:
        said.append(f"It was attempt {found.attempt} of the same request.")
    return said


def _work(found: RequestCost) -> str:
    told = []
    if found.input_tokens is not None:
        fresh = found.input_tokens - (found.input_cached_tokens or 0)
        cached = f" ({found.input_cached_tokens} more came from the cache)" if found.input_cached_tokens else ""
        told.append(f"{_tokens(fresh, 'prompt')}{cached}")
    if found.output_tokens is not None:
        told.append(_tokens(found.output_tokens, "output"))
    of = f" of {' and '.join(told)}" if told else ""
    return f"Its own prefill and decode{of}, by the model's constants."


def _tokens(count: int, kind: str) -> str:
    return f"{count} {kind} token{'' if count == 1 else 's'}"


def _share(found: RequestCost) -> str:
    if found.work_ns > 0:
        return (
            "Its share of the time that is nobody's own (reading weights, launching, scheduling), split by how long "
            "each request was in flight."
        )
    return (
        "Its share of the time the engine worked, split by how long each request was in flight: what its own tokens "
        "took is not known, because nobody knows the model's shape."
    )
