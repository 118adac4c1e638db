"""Budgets as values: what counts towards one, how it stands, in which of three senses it is over. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from agent.core.cost.budget_periods import Span, rolling_seconds
from agent.core.cost.filters import passes_all
from agent.core.cost.forecast import Forecast
from agent.core.cost.reports import SHARED_STATES, Dimension, Term

Counts = Literal["requests", "requests_and_idle", "everything"]
Mode = Literal["observe", "warn", "block"]

STATES_OF: Mapping[Counts, frozenset[str]] = {
    "requests": frozenset(("request", "unattributed")),
    "requests_and_idle": frozenset(("request", "unattributed", *SHARED_STATES)),
    "everything": frozenset(("request", "unattributed", *SHARED_STATES, "other_workload")),
}
"""Requests include those that bypassed the sidecars; idle time all that nobody used, warm-up and faults too."""

DEFAULT_LEVELS = (80, 100, 120)
# Of time that nobody used: these dimensions say nothing about it, so that scopes over them hold none of it.
DIMENSIONS_OF_REQUESTS: frozenset[Dimension] = frozenset(("tenant", "outcome", "waste"))
# Dimensions of places. What everybody together costs there is committed: it does not depend on traffic.
DIMENSIONS_OF_PLACES: frozenset[Dimension] = frozenset(("node", "gpu", "gpu_model", "slot"))
FOLLOWED: frozenset[Dimension] = frozenset(("state", "tenant", "model"))
"""The dimensions of the settlement's counters: budgets over these are up to the second between two reads."""


class Budget(Struct, frozen=True, kw_only=True):
    """At most `nano` nano-units of `currency` in each `period` (see `budget_periods`) of `time_zone`.

    Every term of `scope` must pass. `levels` are percent of the amount. Nothing before `begins_ns` counts.
    """

    name: str
    nano: int
    currency: str
    period: str
    time_zone: str = "UTC"
    scope: tuple[Term, ...] = ()
    counts: Counts = "everything"
    mode: Mode = "observe"
    levels: tuple[int, ...] = DEFAULT_LEVELS
    begins_ns: int | None = None

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """What its scope asks for."""
        return frozenset(term.dimension for term in self.scope)

    @property
    def is_rolling(self) -> bool:
        """Whether its window has no fixed end."""
        return rolling_seconds(self.period) is not None

    @property
    def is_committed(self) -> bool:
        """Whether it is spent whatever the traffic: everything of whole GPUs, idle or not."""
        return self.counts == "everything" and self.dimensions <= DIMENSIONS_OF_PLACES

    @property
    def tenant(self) -> str | None:
        """The only tenant it is about; None when it is about more."""
        for term in self.scope:
            if term.dimension == "tenant" and term.op == "is" and len(set(term.values)) == 1:
                return term.values[0]
        return None


def covers(budget: Budget, labels: Mapping[str, str]) -> bool:
    """Whether what was booked under `labels` (at least `state` and the scope's dimensions) counts."""
    return labels["state"] in STATES_OF[budget.counts] and passes_all(budget.scope, labels)


class Spender(Struct, frozen=True, kw_only=True):
    """One of those who spend most of a budget; without tenant and model it is time in a `state` that nobody used."""

    tenant: str
    model: str
    state: str
    nano: int


class Burn(Struct, frozen=True, kw_only=True):
    """What the period would cost at the rate of the last `hours`, divided by the amount: 1 just holds.

    `usual` is the same for what the history expects of these hours; None where the history is too short.
    """

    hours: int
    ratio: float
    usual: float | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """How a budget stands. `spent_nano` None: it is not known, and `notes` says why.

    `forecast` is for the end of the period; of a rolling window for the one that begins now. `unpriced_ns` is GPU
    time within its scope that no price covers. `ends_ns` of a rolling window is None.
    """

    budget: Budget
    as_of_ns: int
    span: Span
    spent_nano: int | None
    forecast: Forecast | None = None
    burns: tuple[Burn, ...] = ()
    top: tuple[Spender, ...] = ()
    unpriced_ns: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ends_ns(self) -> int | None:
        return None if self.budget.is_rolling else self.span.end_ns

    @property
    def elapsed_ratio(self) -> float:
        """How much of the period has passed; 1 for rolling windows."""
        if self.budget.is_rolling or self.span.end_ns <= self.span.start_ns:
            return 1.0
        passed = (self.as_of_ns - self.span.start_ns) / (self.span.end_ns - self.span.start_ns)
        return min(1.0, max(0.0, passed))

    @property
    def spent_ratio(self) -> float | None:
        return None if self.spent_nano is None else self.spent_nano / self.budget.nano

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that the actual spending has reached, in percent."""
        if self.spent_nano is None:
            return ()
        return tuple(level for level in self.budget.levels if self.spent_nano * 100 >= self.budget.nano * level)

    @property
    def over_nano(self) -> int:
        """How much more than the amount was spent."""
        return max(0, (self.spent_nano or 0) - self.budget.nano)

    def over(self, percent: int = 20) -> dict[str, bool | None]:
        """The three meanings of "over by `percent`"; None: cannot be said.

        `actual`: spent so far. `forecast`: expected by the end of the period. `burn`: at the rate of the last hour.
        """
        limit = self.budget.nano * (100 + percent)
        hour = next((burn.ratio for burn in self.burns if burn.hours == 1), None)
        return {
            "actual": None if self.spent_nano is None else self.spent_nano * 100 > limit,
            "forecast": None if self.forecast is None else self.forecast.nano * 100 > limit,
            "burn": None if hour is None else hour * 100 > 100 + percent,
        }


def dimensions_of(budgets: Iterable[Budget], *more: Dimension) -> tuple[Dimension, ...]:
    """What a report must be grouped by so that it can be told what counts towards which, in a fixed order."""
    found: set[Dimension] = {"state", *more}
    for budget in budgets:
        found |= budget.dimensions
    return tuple(sorted(found))


def remarks(budget: Budget) -> list[str]:
    """What is allowed and yet probably not meant, in words for people."""
    found = []
    blind = sorted(budget.dimensions & DIMENSIONS_OF_REQUESTS)
    if budget.counts == "requests_and_idle" and blind:
        found.append(f"idle time has no {blind[0]}, so this budget holds none of it; count `requests`")
    if any(not term.values for term in budget.scope):
        found.append("a label of its scope has no value, so it holds everything or nothing")
    return found
