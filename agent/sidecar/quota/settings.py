"""Settings of quotas: limits by tenant and model. Written once at the agent (`quotas`), or at a sidecar without one."""

from collections import Counter
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from agent.core.cost.money import exact, to_nano
from agent.core.quotas.policy import MoneyLimit, Policy, QueuePolicy, Rule
from agent.settings import Section

NS = 1_000_000_000


class QuotaMoneySettings(Section):
    """Money that requests may cost in each calendar period."""

    amount: Decimal = Field(gt=0, lt=Decimal(10**12), description="Whole units of the currency, such as 120.50.")
    currency: str = Field(pattern="^[A-Z]{3}$", description="Three-letter code; it must be that of the price book.")
    period: Literal["day", "week", "month"] = Field(description="Calendar period; weeks begin on Monday.")
    time_zone: str = Field("UTC", description="IANA name of the time zone in which days begin, such as Asia/Shanghai.")

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("is no time zone that this machine knows; expected a name such as Europe/Berlin") from None
        return value

    def to_limit(self) -> MoneyLimit:
        """The limit as a value."""
        nano = to_nano(exact(self.amount))
        return MoneyLimit(nano=nano, currency=self.currency, period=self.period, time_zone=self.time_zone)


class QuotaQueueSettings(Section):
    """Let requests that do not fit wait for room instead of refusing them at once."""

    deadline_seconds: float = Field(gt=0, le=600, description="Longest wait; after it the request is refused.")
    classes: tuple[str, ...] = Field(
        ("default",),
        min_length=1,
        max_length=16,
        description="Priority classes, the first goes first. A request that names none of them is in the last one.",
    )
    max_waiting: int = Field(100, ge=1, le=10_000, description="Most requests of one tenant that wait at one sidecar.")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a class twice")
        return value

    def to_policy(self) -> QueuePolicy:
        """The queue as a value."""
        deadline_ns = int(self.deadline_seconds * NS)
        return QueuePolicy(deadline_ns=deadline_ns, classes=self.classes, max_waiting=self.max_waiting)


class QuotaRuleSettings(Section):
    """One rule. Every rule that matches a request holds; leave out what is not limited."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Name in messages, headers and metrics; each once."
    )
    tenant: str = Field(
        "*",
        min_length=1,
        max_length=64,
        description="A tenant's name; `*` for every tenant; `default` for every tenant that no rule names.",
    )
    model: str = Field(
        "*", min_length=1, max_length=256, description="A model's name as requests give it; `*`: all, counted together."
    )
    together: bool = Field(
        False, description="Whether all tenants that match share one limit. Otherwise each has it for itself."
    )
    mode: Literal["observe", "warn", "block"] = Field(
        "observe",
        description="What happens to a request that does not fit: `observe` counts it, `warn` adds a header to its "
        "answer as well, `block` refuses it (429, for money 402).",
    )
    concurrent_requests: int | None = Field(None, ge=1, lt=2**31, description="Requests at the same time.")
    requests_per_minute: int | None = Field(None, ge=1, lt=2**31, description="Requests in any 60 seconds.")
    tokens_per_minute: int | None = Field(
        None, ge=1, lt=2**53, description="Input and output tokens of the requests that begin in any 60 seconds."
    )
    money: QuotaMoneySettings | None = Field(None, description="Cost of the requests in a calendar period.")
    queue: QuotaQueueSettings | None = Field(None, description="Wait for room before refusing. Only with mode `block`.")
    default_output_tokens: int = Field(
        1024, ge=0, lt=2**31, description="Output tokens to reserve for a request that names no limit of its own."
    )
    when_agent_away: Literal["share", "open", "closed"] = Field(
        "share",
        description="When the last lease has ended and the agent does not answer: `share` gives each sidecar its part "
        "of the limit, `open` does not limit, `closed` lets nothing pass.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> "QuotaRuleSettings":
        limits = (self.concurrent_requests, self.requests_per_minute, self.tokens_per_minute, self.money)
        if all(limit is None for limit in limits):
            raise ValueError(
                f"rule `{self.name}` limits nothing; expected at least one of concurrent_requests, "
                "requests_per_minute, tokens_per_minute and money"
            )
        if self.queue is not None and self.mode != "block":
            raise ValueError(
                f"rule `{self.name}` has a queue, but mode `{self.mode}` keeps nobody waiting; use `block`"
            )
        return self

    def to_rule(self) -> Rule:
        """The rule as a value."""
        return Rule(
            **self.model_dump(exclude={"money", "queue"}),
            money=None if self.money is None else self.money.to_limit(),
            queue=None if self.queue is None else self.queue.to_policy(),
        )


class QuotasSettings(Section):
    """What tenants may use. The agent's rules go to its sidecars and hold there instead of their own."""

    rules: tuple[QuotaRuleSettings, ...] = Field((), max_length=200, description="The limits.")
    lease_seconds: float = Field(
        5.0,
        ge=1,
        le=60,
        description="How long a sidecar may go on with its part of a limit without a word of the agent.",
    )
    renew_seconds: float = Field(1.0, ge=0.1, le=20, description="Time between two words with the agent.")
    patience_seconds: float = Field(
        1.5,
        ge=0,
        le=10,
        description="How long a request that does not fit waits for room that other sidecars hold and do not use.",
    )
    settle_seconds: float = Field(
        15.0,
        ge=5,
        le=600,
        description="How long after its end a request counts with its estimated cost; by then the ledger must know it.",
    )
    sidecars: int = Field(
        1, ge=1, le=256, description="How many sidecars (and workers of them) share the limits while no agent says so."
    )
    remaining_headers: bool = Field(
        True, description="Whether answers carry `x-ratelimit-*` headers, for rules in the modes `warn` and `block`."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "QuotasSettings":
        twice = [name for name, count in Counter(rule.name for rule in self.rules).items() if count > 1]
        if twice:
            raise ValueError(f"two rules have the name `{twice[0]}`; give each its own")
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError("renew_seconds must be at most half of lease_seconds, or one lost word ends the lease")
        return self

    def to_policy(self) -> Policy:
        """The policy as a value."""
        return Policy(
            rules=tuple(rule.to_rule() for rule in self.rules),
            lease_ns=int(self.lease_seconds * NS),
            renew_ns=int(self.renew_seconds * NS),
            settle_ns=int(self.settle_seconds * NS),
            patience_ns=int(self.patience_seconds * NS),
            sidecars=self.sidecars,
            remaining_headers=self.remaining_headers,
        )
