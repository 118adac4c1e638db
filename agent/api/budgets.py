"""``/api/v1/cost/budgets``: how each budget stands → JSON. Money is integer nano-units and an exact decimal text."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from agent.api.access import caller
from agent.api.cost import Nothing
from agent.api.numbers import money
from agent.api.times import rfc3339
from agent.core.cost.budgets import Standing

NANO = 1_000_000_000


class SpenderView(BaseModel):
    """One of those who spend most."""

    tenant: str = Field(description="Empty for time that no request used, and where nobody knows.")
    model: str
    state: str = Field(description="State of the GPU time, such as request or loaded_idle.")
    cost_nano: int
    cost: str | None
    share: float | None = Field(description="Of what is spent of the budget.")


class ForecastView(BaseModel):
    """What is expected."""

    cost_nano: int
    cost: str | None
    low_nano: int = Field(description="The truth is above this in 95 of 100 cases like this one.")
    high_nano: int = Field(description="The truth is below this in 95 of 100 cases like this one.")
    ratio: float = Field(description="Of the amount.")
    low_ratio: float
    high_ratio: float
    method: str = Field(description="How it was made.")
    history_hours: int = Field(description="Complete hours of history that it rests on.")


class BurnView(BaseModel):
    """The rate of the last hours."""

    hours: int
    ratio: float = Field(description="What a whole period would cost at this rate, of the amount: 1 just holds.")
    usual: float | None = Field(description="The same for what the history leads to expect of these hours.")


class OverView(BaseModel):
    """The three meanings of "over by 20 %". null: it cannot be said."""

    actual: bool | None = Field(description="More than 120 % of the amount is spent.")
    forecast: bool | None = Field(description="More than 120 % of it is expected by the end of the period.")
    burn: bool | None = Field(description="At the rate of the last hour a whole period would cost more than 120 %.")


class TermView(BaseModel):
    """One condition of a scope."""

    label: str
    op: str
    values: list[str]


class BudgetView(BaseModel):
    """One budget and how it stands."""

    name: str
    currency: str
    amount_nano: int
    amount: str | None
    period: str = Field(description="day, week, month, quarter, year, or a rolling window such as 7d.")
    time_zone: str
    scope: list[TermView]
    counts: str
    mode: str
    start: str
    end: str = Field(description="Of a rolling window: now, to the minute.")
    as_of: str
    elapsed_ratio: float
    spent_nano: int | None = Field(description="null: it is not known; `notes` says why.")
    spent: str | None
    ratio: float | None
    left_nano: int | None
    over_nano: int
    levels: list[int] = Field(description="All levels, percent of the amount.")
    levels_reached: list[int]
    over_by_20_percent: OverView
    forecast: ForecastView | None = Field(description="null while the history is too short.")
    burn: list[BurnView]
    top: list[SpenderView] = Field(description="Who spent most of it, as of the last reading of the ledger.")
    unpriced_gpu_seconds: float = Field(description="GPU time in its scope that no price covers.")
    notes: list[str]


class BudgetsView(BaseModel):
    """All budgets that the caller may see."""

    budgets: list[BudgetView]


def budgets_router(standings: Callable[[], Sequence[Standing]]) -> APIRouter:
    """The path ``/api/v1/cost/budgets``."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])

    @router.get("/budgets", summary="Budgets: spent, forecast with its interval, burn rate, who spends most.")
    async def budgets(request: Request, _none: Annotated[Nothing, Query()]) -> BudgetsView:
        return BudgetsView(budgets=[view(standing) for standing in visible(standings(), caller(request).tenant)])

    return router


def visible(standings: Sequence[Standing], tenant: str | None) -> list[Standing]:
    """Those that are about one tenant alone, for callers that are limited to one."""
    return [standing for standing in standings if tenant is None or standing.budget.tenant == tenant]


def view(standing: Standing) -> BudgetView:
    """One budget as JSON."""
    budget, spent = standing.budget, standing.spent_nano
    return BudgetView(
        name=budget.name,
        currency=budget.currency,
        amount_nano=budget.nano,
        amount=money(budget.nano),
        period=budget.period,
        time_zone=budget.time_zone,
        scope=[TermView(label=term.dimension, op=term.op, values=list(term.values)) for term in budget.scope],
        counts=budget.counts,
        mode=budget.mode,
        start=rfc3339(standing.span.start_ns),
        end=rfc3339(standing.span.end_ns),
        as_of=rfc3339(standing.as_of_ns),
        elapsed_ratio=standing.elapsed_ratio,
        spent_nano=spent,
        spent=money(spent),
        ratio=standing.spent_ratio,
        left_nano=None if spent is None else max(0, budget.nano - spent),
        over_nano=standing.over_nano,
        levels=list(budget.levels),
        levels_reached=list(standing.levels),
        over_by_20_percent=OverView(**standing.over(20)),
        forecast=_forecast(standing),
        burn=[BurnView(hours=burn.hours, ratio=burn.ratio, usual=burn.usual) for burn in standing.burns],
        top=[
            SpenderView(
                tenant=spender.tenant,
                model=spender.model,
                state=spender.state,
                cost_nano=spender.nano,
                cost=money(spender.nano),
                share=spender.nano / spent if spent else None,
            )
            for spender in standing.top
        ],
        unpriced_gpu_seconds=standing.unpriced_ns / NANO,
        notes=list(standing.notes),
    )


def _forecast(standing: Standing) -> ForecastView | None:
    found, amount = standing.forecast, standing.budget.nano
    if found is None:
        return None
    return ForecastView(
        cost_nano=found.nano,
        cost=money(found.nano),
        low_nano=found.low_nano,
        high_nano=found.high_nano,
        ratio=found.nano / amount,
        low_ratio=found.low_nano / amount,
        high_ratio=found.high_nano / amount,
        method=found.method,
        history_hours=found.hours,
    )
