"""How one request's cost was found, and how exact that is: its figures in, sentences for people out."""

from msgspec import Struct

NS = 1_000_000_000
SHORTEST_NS = 1000  # instants of settled requests are kept to the microsecond


class Told(Struct, frozen=True, kw_only=True):
    """What is known of a request. Instants in Unix nanoseconds; `seen_ns`: in flight while its GPUs were known."""

    started_ns: int
    ended_ns: int | None
    outcome: str | None
    seen_by: str
    gpu_ns: int
    work_ns: int
    seen_ns: int
    metered_ns: int
    is_priced: bool  # all of its GPU time
    input_tokens: int | None
    output_tokens: int | None
    input_estimate: int | None
    settled: bool


def precision(told: Told) -> str:
    """One to a few sentences, the most important first."""
    if told.outcome == "rejected":
        return "It was turned away before it ran: it used no GPU time."
    return " ".join([*_method(told), *_missing(told)])


def _method(told: Told) -> list[str]:
    if not told.gpu_ns:
        if not told.settled:
            return ["Nothing is booked for it yet."]
        if told.seen_by == "span":
            why = (
                "Known from a span only, after it had ended, so it was to have a share of the time that its engine "
                "spent on requests nobody had announced; none of that was booked while it ran, or other spans have it."
            )
            return [why]
        return ["No GPU of its engine was known while it ran, so no GPU time is booked for it."]
    if told.seen_by == "span" and told.seen_ns >= SHORTEST_NS:
        how = (
            "Known from a span only, while its time was open: its share of its engine's active time by time in flight."
        )
    elif told.seen_by == "span":
        how = (
            "Known from a span only, after it had ended: a share of the time that its engine spent on requests nobody "
            "had announced, by time in flight."
        )
    elif told.work_ns:
        how = (
            "Seen by the sidecar: its own prefill and decode work by its model's constants, and its share of its "
            "engine's common time by time in flight."
        )
    else:
        how = (
            "Seen by the sidecar: its share of its engine's active time by time in flight, equal for all; nothing is "
            "known of the work that its model's shape makes."
        )
    return [how] if told.settled else [how, "It is not settled: the figures are up to now and will grow or move."]


def _missing(told: Told) -> list[str]:
    found = []
    if told.ended_ns is not None:
        unseen = told.ended_ns - told.started_ns - told.seen_ns
        is_shared_later = told.seen_by == "span" and told.seen_ns < SHORTEST_NS  # out of what was booked then
        if told.gpu_ns and unseen > 0 and not is_shared_later:
            found.append(
                f"For {unseen / NS:.3g} s of the {(told.ended_ns - told.started_ns) / NS:.3g} s that it ran, nobody "
                "watched its GPUs; that time is booked as a gap, not to it."
            )
        if told.outcome == "lost_record":
            found.append("Its sidecar ended before it did: when it ended and how many tokens it had is not known.")
        elif told.input_tokens is None or told.output_tokens is None:
            found.append("Its engine did not report how many tokens it had.")
            if told.input_estimate is not None:
                found.append(f"Its prompt was taken for {told.input_estimate} tokens, by its length.")
    if told.gpu_ns and not told.is_priced:
        found.append("A part of its GPU time has no price, so its cost is not known.")
    if 0 < told.metered_ns < told.gpu_ns:
        found.append("Only a part of its GPU time has an energy reading.")
    return found
