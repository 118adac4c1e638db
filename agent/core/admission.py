"""Request events as they came in → what may be stored of them, or why not. Pure; the bill trusts what passed here.

Two kinds of text are told apart. What a sidecar writes itself (ids, addresses, tenants) is refused when it is not sane:
a cut tenant would be somebody else's. What clients and engines can choose (model, path, errors) is cut instead: a
request with a long name must not be one that is never paid for.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from agent.core.requests import (
    RefusalKind,
    RefusedEvent,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)

NS = 1_000_000_000
MAX_SEQUENCE = (1 << 53) - 1  # every JSON reader can hold it
MAX_INSTANT_NS = 1 << 62  # in the year 2116; sums of two still fit 64 bits
FUTURE_NS = 3600 * NS  # an event after its batch was sent: the sender's clock was set back in between
PAST_NS = 366 * 24 * 3600 * NS
BACKWARDS_NS = 3600 * NS  # an end before its start: the clock was set back while the request ran
LONGEST_NS = 7 * 24 * 3600 * NS
MAX_TOKENS = 1_000_000_000
MAX_ATTEMPT = 100  # retries of one request; who says more is told of as this many
MAX_BYTES = 1 << 50
MAX_ID = 64
MAX_NAME = 256  # addresses, and the sidecar's own name
MAX_TENANT = 64
MAX_SHOWN = 256  # models, paths, errors: longer ones are cut


def objection_to_batch(sidecar: str, epoch: int, sent_at_ns: int) -> str | None:
    """Why nothing of a batch can be taken, or None."""
    if not (0 < len(sidecar) <= MAX_NAME and sidecar.isprintable()):
        return f"sidecar is no printable name of 1 to {MAX_NAME} characters"
    if not 0 <= epoch <= MAX_INSTANT_NS:
        return f"epoch {epoch} is not in 0..{MAX_INSTANT_NS}"
    if not 0 <= sent_at_ns <= MAX_INSTANT_NS:
        return f"sent_at_ns {sent_at_ns} is not in 0..{MAX_INSTANT_NS}"
    return None


def sifted(
    told: Iterable[RequestEvent | RefusedEvent], sent_at_ns: int, tenant: str | None = None
) -> tuple[tuple[RequestEvent, ...], tuple[RefusedEvent, ...]]:
    """The events of a batch that may be stored, tidied, and those that are refused, in order.

    `told` is the whole batch; what could not be read stands in it as refused already. `sent_at_ns` is when it was sent,
    by its sender's clock. With `tenant`, the sender is limited to it: events of another are refused, events without one
    are its own.
    """
    first, last = max(0, sent_at_ns - PAST_NS), sent_at_ns + FUTURE_NS
    good: list[RequestEvent] = []
    refused: list[RefusedEvent] = []
    for index, event in enumerate(told):
        kind: RefusalKind = "value"
        if isinstance(event, RequestProgressed):
            reason = _objection(event, event.id, event.at_ns, first, last) or _objection_to_progress(event)
            if reason is None:
                good.append(event)
                continue
        elif isinstance(event, RefusedEvent):
            refused.append(event)
            continue
        else:
            value = event.record if isinstance(event, RequestEnded) else event
            reason = _objection(event, value.id, value.started_at_ns, first, last) or _objection_to_request(value)
            if reason is None and isinstance(value, RequestRecord):
                reason = _objection_to_end(value, first, last)
            if reason is None and tenant is not None and (value.tenant or tenant) != tenant:
                kind, reason = "tenant", f"it is of the tenant {value.tenant!r}; its sender may tell of {tenant!r} only"
            if reason is None:
                good.append(_tidied(event, value, tenant))
                continue
        refused.append(RefusedEvent(index=index, kind=kind, reason=reason, sequence=event.sequence))
    return tuple(good), tuple(refused)


def _objection(event: RequestEvent, request_id: str, at_ns: int, first: int, last: int) -> str | None:
    """What cannot be in an event of any kind. `at_ns` is its first instant."""
    if not 1 <= event.sequence <= MAX_SEQUENCE:
        return f"sequence {event.sequence} is not in 1..{MAX_SEQUENCE}"
    if not (0 < len(request_id) <= MAX_ID and request_id.isascii() and request_id.isprintable()) or " " in request_id:
        return _no_word("id", MAX_ID)
    if not first <= at_ns <= last:
        name = "at_ns" if isinstance(event, RequestProgressed) else "started_at_ns"
        return f"{name} {at_ns} is not in {first}..{last}, around sent_at_ns"
    return None


def _objection_to_progress(event: RequestProgressed) -> str | None:
    return None if 0 <= event.output_tokens <= MAX_TOKENS else _count("output_tokens", event.output_tokens, MAX_TOKENS)


def _objection_to_request(told: RequestStarted | RequestRecord) -> str | None:
    if not _is_word(told.upstream, MAX_NAME):
        return _no_word("upstream", MAX_NAME)
    if told.tenant and not (len(told.tenant) <= MAX_TENANT and told.tenant.isprintable()):
        return f"tenant is no printable name of at most {MAX_TENANT} characters"
    if told.input_tokens_estimate is not None and not 0 <= told.input_tokens_estimate <= MAX_TOKENS:
        return _count("input_tokens_estimate", told.input_tokens_estimate, MAX_TOKENS)
    return None


def _objection_to_end(record: RequestRecord, first: int, last: int) -> str | None:
    start, end = record.started_at_ns, record.ended_at_ns
    if not first <= end <= last:
        return f"ended_at_ns {end} is not in {first}..{last}, around sent_at_ns"
    if not -BACKWARDS_NS <= end - start <= LONGEST_NS:
        return f"it ends {(end - start) // NS} s after its start, not in {-BACKWARDS_NS // NS}..{LONGEST_NS // NS}"
    usage = record.usage
    if not 0 <= (usage.output_tokens or 0) <= MAX_TOKENS:
        return _count("output_tokens", usage.output_tokens, MAX_TOKENS)
    if not 0 <= (usage.input_tokens or 0) <= MAX_TOKENS:
        return _count("input_tokens", usage.input_tokens, MAX_TOKENS)
    if not 0 <= (usage.input_cached_tokens or 0) <= MAX_TOKENS:
        return _count("input_cached_tokens", usage.input_cached_tokens, MAX_TOKENS)
    if record.max_output_tokens is not None and record.max_output_tokens < 0:
        return f"max_output_tokens {record.max_output_tokens} is below 0"
    if record.attempt < 0:
        return f"attempt {record.attempt} is below 0"
    if record.status is not None and not 100 <= record.status <= 999:
        return f"status {record.status} is no HTTP status"
    if not (0 <= record.request_bytes <= MAX_BYTES and 0 <= record.response_bytes <= MAX_BYTES):
        return f"request_bytes and response_bytes are not both in 0..{MAX_BYTES}"
    if record.trace_id is not None and not _is_word(record.trace_id, MAX_ID):
        return _no_word("trace_id", MAX_ID)
    return None


def _tidied(event: RequestEvent, told: RequestStarted | RequestRecord, tenant: str | None) -> RequestEvent:
    """The event as it is stored, mostly itself: `tenant` filled in, text of clients cut, instants put in order.

    The end of a request that seems to come before its start is put at its start; a first token (or head of the answer)
    that does not lie between the two is taken as not told.
    """
    changes: dict[str, object] = {}
    if told.tenant is None:
        if tenant is not None:
            changes["tenant"] = tenant
    elif not told.tenant:
        changes["tenant"] = tenant
    if not _is_short(told.path):
        changes["path"] = _shortened(told.path)
    if told.model is not None and not _is_short(told.model):
        changes["model"] = _shortened(told.model)
    if isinstance(told, RequestRecord):
        _tidy_end(told, changes)
    if not changes:
        return event
    if isinstance(event, RequestEnded):
        return replace(event, record=replace(event.record, **changes))
    return replace(event, **changes)


def _tidy_end(record: RequestRecord, changes: dict[str, object]) -> None:
    start, end = record.started_at_ns, record.ended_at_ns
    if end < start:
        changes["ended_at_ns"] = end = start
    if record.first_token_at_ns is not None and not start <= record.first_token_at_ns <= end:
        changes["first_token_at_ns"] = None
    if record.headers_at_ns is not None and not start <= record.headers_at_ns <= end:
        changes["headers_at_ns"] = None
    if record.finish_reason is not None and not _is_short(record.finish_reason):
        changes["finish_reason"] = _shortened(record.finish_reason)
    if record.error is not None and not _is_short(record.error):
        changes["error"] = _shortened(record.error)
    # Both are what a client chose to say: the highest number that is kept is as good as a higher one.
    if record.max_output_tokens is not None and record.max_output_tokens > MAX_TOKENS:
        changes["max_output_tokens"] = MAX_TOKENS
    if record.attempt > MAX_ATTEMPT:
        changes["attempt"] = MAX_ATTEMPT


def _is_word(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isascii() and text.isprintable() and " " not in text


def _is_short(text: str) -> bool:
    return len(text) <= MAX_SHOWN and text.isprintable()


def _shortened(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[:MAX_SHOWN])


def _no_word(name: str, most: int) -> str:
    return f"{name} is not 1 to {most} printable ASCII characters without a space"


def _count(name: str, count: int | None, most: int) -> str:
    return f"{name} {count} is not in 0..{most}"
