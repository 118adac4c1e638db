"""What one request takes of every limit that holds for it: estimates before, the truth at its end."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from agent.core.quotas.policy import Rule
from agent.core.quotas.shares import Bucket, Share
from agent.core.requests import Usage

MILLION = 1_000_000
Price = tuple[int, int]
"""Nano-units for a million input and a million output tokens."""


class Asked(Protocol):
    """What a request wants, as `agent.sidecar.asks.Ask` has it. `tenant` None: nobody knows whose it is."""

    @property
    def tenant(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def max_output_tokens(self) -> int | None: ...


class Wish(Struct, frozen=True, kw_only=True):
    """An `Asked` of its own."""

    tenant: str | None
    model: str | None
    input_tokens: int
    max_output_tokens: int | None = None


class Plan(NamedTuple):
    """The limits that hold for a tenant and a model."""

    buckets: Sequence[Bucket]
    limits: Sequence[tuple[Share, Rule]]


class Reservation:
    """Everything that one admitted request holds. `done` or `undo` ends it; what comes after that does nothing."""

    __slots__ = ("_amounts", "_currency", "_input_tokens", "_mark", "_price", "is_open", "plan")

    def __init__(
        self, plan: Plan, input_tokens: int, amounts: Sequence[int], mark: int, price: Price | None, currency: str
    ) -> None:
        self.plan = plan
        self.is_open = True
        self._input_tokens = input_tokens
        self._amounts = amounts
        self._mark = mark
        self._price = price
        self._currency = currency

    @property
    def buckets(self) -> Sequence[Bucket]:
        return self.plan.buckets

    def done(self, usage: Usage, now_ns: int) -> bool:
        """The request ended, and used this much. False: it was ended before."""
        if not self.is_open:
            return False
        self.is_open = False
        tokens_in, tokens_out = used_tokens(self._input_tokens, usage)
        for (share, rule), amount in zip(self.plan.limits, self._amounts, strict=True):
            kind = share.kind
            if kind == "requests":
                continue
            if kind == "concurrent":
                share.held -= amount
            elif kind == "tokens":
                share.settle(self._mark, amount, tokens_in + tokens_out, now_ns)
            else:
                price = self._price if rule.money is not None and rule.money.currency == self._currency else None
                share.settle(self._mark, amount, cost_nano(price, tokens_in, tokens_out), now_ns)
        for bucket in self.plan.buckets:
            bucket.open -= 1
        return True

    def undo(self, now_ns: int) -> bool:
        """The request never went to the engine: it counts for nothing. False: it was ended before."""
        if not self.is_open:
            return False
        self.is_open = False
        for (share, _), amount in zip(self.plan.limits, self._amounts, strict=True):
            share.settle(self._mark, amount, 0, now_ns)
        for bucket in self.plan.buckets:
            bucket.open -= 1
        return True


def used_tokens(estimated_input: int, usage: Usage) -> tuple[int, int]:
    """Input and output that count at the end. Input nobody told stays as estimated; output nobody told is 0."""
    told = usage.input_tokens is not None or usage.input_cached_tokens is not None
    tokens_in = (usage.input_tokens or 0) + (usage.input_cached_tokens or 0) if told else estimated_input
    return tokens_in, usage.output_tokens or 0


def cost_nano(price: Price | None, tokens_in: int, tokens_out: int) -> int:
    """Nano-units, rounded up; 0 without a price, which is counted apart."""
    if price is None:
        return 0
    return -(-(price[0] * tokens_in + price[1] * tokens_out) // MILLION)


def amount_of(share: Share, rule: Rule, wish: Asked, price: Price | None, currency: str) -> int:
    """What a request reserves of one limit. `price` is in `currency`; a limit in another one has none."""
    if share.kind in ("concurrent", "requests"):
        return 1
    output = rule.default_output_tokens if wish.max_output_tokens is None else wish.max_output_tokens
    if share.kind == "tokens":
        return wish.input_tokens + output
    if rule.money is None or rule.money.currency != currency:
        return 0
    return cost_nano(price, wish.input_tokens, output)
