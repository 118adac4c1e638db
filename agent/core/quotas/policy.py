"""Who may use how much: rules as values that travel from the agent to its sidecars, and which of them hold for whom."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from agent.core.cost.money import NANO

NS = 1_000_000_000
Mode = Literal["observe", "warn", "block"]
WhenAway = Literal["share", "open", "closed"]
Kind = Literal["concurrent", "requests", "tokens", "money"]

EVERYBODY = "*"
DEFAULT = "default"


class MoneyLimit(Struct, frozen=True, kw_only=True):
    """At most `nano` nano-units of `currency` in each calendar `period` of `time_zone` (IANA name).

    Of a budget's rule `period` is a word for people: only the agent knows when it ends.
    """

    nano: int
    currency: str
    period: str
    time_zone: str = "UTC"

    def shown(self, nano: int) -> str:
        """An amount for people, rounded down to 1/10,000 of a unit."""
        return f"{nano // (NANO // 10_000) / 10_000:.4f} {self.currency}"


class QueuePolicy(Struct, frozen=True, kw_only=True):
    """What does not fit waits up to `deadline_ns`, first class first; who names no class of these is in the last."""

    deadline_ns: int
    classes: tuple[str, ...] = ("default",)
    max_waiting: int = 100

    def rank(self, name: str | None) -> int:
        """Place of a class in the order; 0 goes first."""
        return self.classes.index(name) if name in self.classes else len(self.classes) - 1


class Rule(Struct, frozen=True, kw_only=True):
    """Limits for the requests of a tenant to a model; None: not limited.

    `tenant` is a name, ``*`` (every tenant) or ``default`` (every tenant that no rule names); each tenant has its own
    limit unless `together`. `model` is a name or ``*``: all models count together.

    `budget` names the budget that the rule stands for: its money counts as the agent's budget says, and it leaves open
    which tenants are `default`.
    """

    name: str
    tenant: str = EVERYBODY
    model: str = "*"
    together: bool = False
    mode: Mode = "observe"
    concurrent_requests: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    money: MoneyLimit | None = None
    queue: QueuePolicy | None = None
    default_output_tokens: int = 1024
    when_agent_away: WhenAway = "share"
    budget: str = ""

    def limits(self) -> Iterator[tuple[Kind, int]]:
        """What is limited, and to how much: requests, tokens, nano-units."""
        pairs: tuple[tuple[Kind, int | None], ...] = (
            ("concurrent", self.concurrent_requests),
            ("requests", self.requests_per_minute),
            ("tokens", self.tokens_per_minute),
            ("money", None if self.money is None else self.money.nano),
        )
        for kind, limit in pairs:
            if limit is not None:
                yield kind, limit

    def limit(self, kind: str) -> int | None:
        """The limit of one kind; None when this rule has none."""
        if kind == "money":
            return None if self.money is None else self.money.nano
        if kind == "concurrent":
            return self.concurrent_requests
        if kind == "requests":
            return self.requests_per_minute
        return self.tokens_per_minute if kind == "tokens" else None

    def holder(self, tenant: str) -> str:
        """Under which name a tenant's use is counted."""
        return EVERYBODY if self.together else tenant


class Policy(Struct, frozen=True, kw_only=True):
    """All rules, and how leases of their limits are kept."""

    rules: tuple[Rule, ...] = ()
    lease_ns: int = 5 * NS
    renew_ns: int = NS
    settle_ns: int = 15 * NS  # by then the ledger knows what a request that ended has cost
    patience_ns: int = 1_500_000_000  # longest wait for room that other sidecars may give back
    sidecars: int = 1  # how many share the limits, while no agent has said so
    remaining_headers: bool = True

    @property
    def revision(self) -> str:
        """Name of this content: equal for equal policies."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()[:16] if self.rules else ""

    @property
    def can_refuse(self) -> bool:
        """Whether any rule can refuse a request."""
        return any(rule.mode == "block" for rule in self.rules)


class Matcher:
    """Finds the rules that hold for a request: all that match, not the first."""

    def __init__(self, policy: Policy) -> None:
        self._rules = policy.rules
        self._named = named_tenants(policy.rules)

    def rules_for(self, tenant: str, model: str) -> tuple[Rule, ...]:
        """In the order of the file. '' is the tenant of requests of which nobody knows whose they are."""
        is_named = tenant in self._named
        return tuple(rule for rule in self._rules if rule.model in ("*", model) and _is_about(rule, tenant, is_named))


def named_tenants(rules: Iterable[Rule]) -> frozenset[str]:
    """Those that `default` does not hold for."""
    return frozenset(rule.tenant for rule in rules if not rule.budget) - {EVERYBODY, DEFAULT}


def _is_about(rule: Rule, tenant: str, is_named: bool) -> bool:
    if rule.tenant == EVERYBODY:
        return True
    if rule.tenant == DEFAULT:
        return not is_named
    return rule.tenant == tenant


def visible_to(policy: Policy, tenant: str) -> Policy:
    """The policy without what is about other tenants: for sidecars whose credentials are limited to one."""
    is_named = tenant in named_tenants(policy.rules)
    rules = tuple(rule for rule in policy.rules if _is_about(rule, tenant, is_named) and not rule.together)
    return msgspec.structs.replace(policy, rules=rules)
