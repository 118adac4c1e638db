"""How a budget stands in, samples for /metrics and the history out: what `agent.core.catalogue_cost` names."""

from collections.abc import Iterator

from agent.core.cost.budgets import Standing
from agent.core.metrics.published import gauge
from agent.core.metrics.samples import Labels, Sample

NANO = 1_000_000_000


def budget_samples(node: str, standing: Standing) -> Iterator[Sample]:
    """The limit always; the rest as far as it is known. Amounts leave their integers here: samples are floats."""
    budget = standing.budget
    base: Labels = (
        ("node", node), ("budget", budget.name), ("period", budget.period), ("currency", budget.currency)
    )  # fmt: skip
    yield from gauge("engineroom_budget_limit", budget.nano / NANO, base)
    if standing.spent_nano is None:
        return
    yield from gauge("engineroom_budget_spent", standing.spent_nano / NANO, base)
    yield from gauge("engineroom_budget_spent_ratio", standing.spent_ratio, base)
    yield from gauge("engineroom_budget_elapsed_ratio", standing.elapsed_ratio, base)
    yield from gauge("engineroom_budget_level_ratio", max(standing.levels, default=0) / 100, base)
    if standing.forecast is not None:
        yield from gauge("engineroom_budget_forecast_ratio", standing.forecast.nano / budget.nano, base)
        yield from gauge("engineroom_budget_forecast_low_ratio", standing.forecast.low_nano / budget.nano, base)
        yield from gauge("engineroom_budget_forecast_high_ratio", standing.forecast.high_nano / budget.nano, base)
    for burn in standing.burns:
        window: Labels = (*base, ("window", f"{burn.hours}h"))
        yield from gauge("engineroom_budget_burn_ratio", burn.ratio, window)
        yield from gauge("engineroom_budget_usual_burn_ratio", burn.usual, window)
