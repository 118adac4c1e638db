"""What people and clients are told of quotas: what is short → refusals, warnings, headers with what remains."""

import math
from collections.abc import Iterable, Sequence

from agent.core.quotas.book import Book, Short
from agent.core.quotas.policy import EVERYBODY, NS
from agent.core.quotas.shares import Bucket
from agent.sidecar.asks import Refusal

UNITS = {"concurrent": "concurrent requests", "requests": "requests per minute", "tokens": "tokens per minute"}
RETRY_CONCURRENT_SECONDS = 1.0  # nobody knows when a request will end
RETRY_MONEY_SECONDS = 60.0  # where the end of the period is not known


def refusal(book: Book, short: Sequence[Short], now_ns: int, *, queued: str = "") -> Refusal:
    """The answer for a request that does not fit; `queued` says what became of its waiting."""
    waits = [retry_seconds(book, one, now_ns) for one in short]
    never = next((one for one, wait in zip(short, waits, strict=True) if wait is None), None)
    if never is not None:
        return _refusal(never, too_large(never), None)
    longest = max(range(len(short)), key=lambda at: waits[at] or 0.0)
    # Money comes first: waiting for a minute's window does not help whoever has no budget left.
    at = next((i for i, one in enumerate(short) if one.share.kind == "money"), longest)
    wait = waits[at] or 0.0
    text = f"{queued}{used_up(book, short[at], now_ns)} Try again in {max(1, math.ceil(wait))} s."
    return _refusal(short[at], text, wait)


def _refusal(one: Short, text: str, wait: float | None) -> Refusal:
    if one.share.kind == "money":
        return Refusal(402, "budget_exceeded", text, wait)
    return Refusal(429, "rate_limit_exceeded", text, wait)


def whose(bucket: Bucket) -> str:
    """Whose limit it is."""
    if bucket.tenant == EVERYBODY:
        return "All tenants together have"
    return f"Tenant {bucket.tenant} has" if bucket.tenant else "Requests without a tenant have"


def used_up(book: Book, one: Short, now_ns: int) -> str:
    """Which limit, whose, used and limit."""
    bucket, share = one.bucket, one.share
    rule = bucket.rule
    used = one.used + share.elsewhere
    if share.kind == "money" and rule.money is not None:
        spent = rule.money.nano - share.limit + used
        period = f"{rule.money.shown(rule.money.nano)} a {rule.money.period}"
        text = f"{whose(bucket)} spent {rule.money.shown(spent)} of {period}, running requests included"
    elif share.kind == "concurrent":
        text = f"{whose(bucket)} {used} of {share.limit} concurrent requests running"
    else:
        text = f"{whose(bucket)} used {used} of {share.limit} {UNITS[share.kind]}"
    if share.kind == "tokens":
        text += f", and this request may take {one.amount}"
    if one.ceiling < share.limit and not (book.in_touch(now_ns) and share.leased):
        part = max(0, one.ceiling)
        shown = rule.money.shown(part) if share.kind == "money" and rule.money else str(part)
        text += f"; while the quota service is away, {shown} of it may be used here"
    return f"{text} (rule {rule.name})."


def too_large(one: Short) -> str:
    """For what will never fit."""
    return (
        f"This request may take {one.amount} tokens, more than the {one.share.limit} tokens per minute of the limit "
        f"(rule {one.bucket.rule.name}). Send a shorter input or a smaller max_tokens."
    )


def retry_seconds(book: Book, one: Short, now_ns: int) -> float | None:
    """When it is worth trying again; None: never, as it is."""
    share = one.share
    if share.kind == "money":
        end_ns = book.period_ends_ns.get(one.bucket.rule.name)
        return RETRY_MONEY_SECONDS if end_ns is None else max(1.0, (end_ns - now_ns) / NS)
    if one.amount > share.limit > 0:
        return None
    if share.kind == "concurrent":
        return RETRY_CONCURRENT_SECONDS
    wait = share.wait_ns(one.used + one.amount - one.ceiling, now_ns) if one.amount <= one.ceiling else None
    return (book.policy.renew_ns if wait is None else max(wait, 1)) / NS


def warning_lines(ignored: Iterable[Short]) -> bytes:
    """A header for each limit in mode `warn` that the request does not fit into."""
    lines = [
        f"x-engineroom-quota-warning: rule={one.bucket.rule.name}; limit={one.share.kind}; "
        f"used={one.used + one.share.elsewhere}; of={one.share.limit}\r\n"
        for one in ignored
        if one.bucket.rule.mode == "warn"
    ]
    return "".join(lines).encode()


def remaining_lines(buckets: Iterable[Bucket], now_ns: int) -> bytes:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` as OpenAI names them.

    They tell of the limit of which least is left. `reset` is when the window would be empty, in the form 6m0s.
    """
    tightest: dict[str, tuple[int, int, int]] = {}
    for bucket in buckets:
        if bucket.rule.mode == "observe":
            continue
        for share in bucket.shares:
            if share.kind not in ("requests", "tokens"):
                continue
            used = share.used(now_ns)
            left = max(0, share.limit - share.elsewhere - used)
            if share.kind not in tightest or left < tightest[share.kind][0]:
                tightest[share.kind] = (left, share.limit, share.wait_ns(used, now_ns) or 0)
    lines = []
    for kind, (left, limit, reset_ns) in tightest.items():
        seconds = -(-reset_ns // NS)
        reset = f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"
        lines.append(
            f"x-ratelimit-limit-{kind}: {limit}\r\nx-ratelimit-remaining-{kind}: {left}\r\n"
            f"x-ratelimit-reset-{kind}: {reset}\r\n"
        )
    return "".join(lines).encode()
