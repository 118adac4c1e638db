"""Settings of budgets: the section `budgets` of engineroom.yaml in, `Budget` values out."""

from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agent.core.cost.budget_periods import FORMS, rolling_seconds
from agent.core.cost.budgets import DEFAULT_LEVELS, Budget
from agent.core.cost.calendar import Calendar
from agent.core.cost.money import exact, to_nano
from agent.core.cost.prices import PriceBook
from agent.core.cost.reports import Dimension, FilterOp, Term
from agent.core.ports import ConfigError
from agent.core.quotas.budget_rules import unknowable
from agent.settings import Section

MAX_BUDGETS = 200
LABELS = tuple(dimension for dimension in get_args(Dimension) if dimension != "state")


def _several(value: Any) -> Any:
    """One name, several names, or names by operator, in the last of these forms."""
    if not isinstance(value, dict):
        value = {"is": value}
    return {op: (names,) if isinstance(names, str) else names for op, names in value.items()}


Names = Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(min_length=1, max_length=100)]
ScopeTerm = Annotated[dict[FilterOp, Names], BeforeValidator(_several), Field(min_length=1)]


class BudgetSettings(Section):
    """One budget. All that match a cost hold, not the first one."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Name in metrics, alerts and refusals; each once."
    )
    amount: Decimal = Field(gt=0, lt=Decimal(10**12), description="Whole units of the currency, such as 120.50.")
    currency: str = Field(pattern="^[A-Z]{3}$", description="Three-letter code; it must be that of the price book.")
    period: str = Field(description=f"One of: {FORMS}.")
    time_zone: str = Field("UTC", description="IANA name of the zone in which periods begin, such as Asia/Shanghai.")
    scope: dict[Dimension, ScopeTerm] = Field(
        {},
        description=f"What counts, by label ({', '.join(LABELS)}): a name, a list of names, or names by operator as in "
        "`{starts: [qwen]}` (is, is_not, contains, contains_not, starts, starts_not, ends, ends_not). All labels must "
        "match. Empty: everything.",
    )
    counts: Literal["requests", "requests_and_idle", "everything"] = Field(
        "everything",
        description="`requests`: what requests cost. `requests_and_idle`: also what nobody used, warm-up and faults. "
        "`everything`: also other workloads such as training.",
    )
    mode: Literal["observe", "warn", "block"] = Field(
        "observe",
        description="`observe` alerts. `warn` adds a header to answers once it is spent, `block` refuses requests then "
        "(402); both need a scope of at most one tenant and one model.",
    )
    levels: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        DEFAULT_LEVELS, min_length=1, max_length=10, description="Percent of the amount that are told when reached."
    )
    starts: date | None = Field(None, description="First day, in `time_zone`. What was spent before does not count.")

    @field_validator("period")
    @classmethod
    def _is_period(cls, value: str) -> str:
        rolling_seconds(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        Calendar(value)
        return value

    @field_validator("scope")
    @classmethod
    def _no_states(cls, value: dict[Dimension, Any]) -> dict[Dimension, Any]:
        if "state" in value:
            raise ValueError("`state` is no label of a scope; say with `counts` which states count")
        return value

    @field_validator("levels")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("expected levels in ascending order, each once, such as [80, 100, 120]")
        return value

    @model_validator(mode="after")
    def _can_be_enforced(self) -> "BudgetSettings":
        why = unknowable(self.to_budget()) if self.mode == "block" else None
        if why is not None:
            raise ValueError(f"budget `{self.name}` cannot block: {why}")
        return self

    def to_budget(self) -> Budget:
        """The budget as a value."""
        terms = [Term(label, op, names) for label, by in self.scope.items() for op, names in by.items()]
        begins = None if self.starts is None else Calendar(self.time_zone).date_start(self.starts)
        return Budget(
            name=self.name,
            nano=max(1, to_nano(exact(self.amount))),
            currency=self.currency,
            period=self.period,
            time_zone=self.time_zone,
            scope=tuple(terms),
            counts=self.counts,
            mode=self.mode,
            levels=self.levels,
            begins_ns=begins,
        )


class BudgetsSettings(Section):
    """What may be spent: by whom or on what, in which period. docs/budgets.md."""

    items: tuple[BudgetSettings, ...] = Field((), max_length=MAX_BUDGETS, description="The budgets.")

    @model_validator(mode="after")
    def _each_once(self) -> "BudgetsSettings":
        twice = [name for name, count in Counter(item.name for item in self.items).items() if count > 1]
        if twice:
            raise ValueError(f"two budgets have the name `{twice[0]}`; give each its own")
        return self


def load_budgets(settings: BudgetsSettings, prices: PriceBook | None) -> tuple[Budget, ...]:
    """The budgets. Raises `ConfigError` where one is not in the currency that costs are counted in."""
    for number, item in enumerate(settings.items):
        if prices is None or item.currency != prices.currency:
            counted = f"prices are in {prices.currency}" if prices else "there are no prices; add them under `prices`"
            raise ConfigError(f"budgets.items.{number}.currency", f"is {item.currency}, but {counted}")
    return tuple(item.to_budget() for item in settings.items)
