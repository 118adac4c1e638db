"""Metrics of budgets. What is not known (nothing priced, a history that is too short) is absent."""

from agent.core.catalogue_types import Metric

BUDGET = ("node", "budget", "period", "currency")

COST: tuple[Metric, ...] = (
    Metric("engineroom_budget_limit", "gauge", "Amount of the budget, in whole units of the currency.", BUDGET),
    Metric(
        "engineroom_budget_spent",
        "gauge",
        "Spent in the period that runs, in whole units of the currency. Begins anew with each period.",
        BUDGET,
    ),
    Metric("engineroom_budget_spent_ratio", "gauge", "Spent in the period that runs, of the amount.", BUDGET, "ratio"),
    Metric(
        "engineroom_budget_level_ratio",
        "gauge",
        "The highest of the budget's levels that the spending has reached, of the amount; 0 below the lowest.",
        BUDGET,
        "ratio",
    ),
    Metric(
        "engineroom_budget_elapsed_ratio", "gauge", "How much of the period has passed; 1 for rolling windows.",
        BUDGET, "ratio",
    ),
    Metric(
        "engineroom_budget_forecast_ratio",
        "gauge",
        "Expected at the end of the period, of the amount; of a rolling window, in the one that begins now.",
        BUDGET,
        "ratio",
    ),
    Metric(
        "engineroom_budget_forecast_low_ratio", "gauge", "Lower end of the forecast's 90 % interval.", BUDGET, "ratio"
    ),
    Metric(
        "engineroom_budget_forecast_high_ratio", "gauge", "Upper end of the forecast's 90 % interval.", BUDGET, "ratio"
    ),
    Metric(
        "engineroom_budget_burn_ratio",
        "gauge",
        "What a whole period would cost at the rate of the last hour or six hours, of the amount: 1 just holds.",
        (*BUDGET, "window"),
        "ratio",
    ),
    Metric(
        "engineroom_budget_usual_burn_ratio",
        "gauge",
        "The burn rate that the history of four weeks leads to expect of these hours.",
        (*BUDGET, "window"),
        "ratio",
    ),
)  # fmt: skip
