from agent.core.cost.budget_periods import Span
from agent.core.cost.budgets import Burn, Standing
from agent.core.cost.forecast import Forecast
from agent.runners.budget_samples import budget_samples
from tests.support.budgets import HOUR_NS, budget

SPAN = Span(0, 20 * HOUR_NS, 20 * HOUR_NS)


def values(standing: Standing) -> dict[str, float]:
    found = {}
    for key, value in budget_samples("n", standing):
        labels = dict(key.labels)
        assert [labels.pop(name) for name in ("node", "budget", "period", "currency")] == ["n", "b", "day", "CNY"]
        found["/".join([key.name.removeprefix("engineroom_budget_"), *labels.values()])] = value
    return found


def test_all_that_is_known():
    standing = Standing(
        budget=budget(),
        as_of_ns=5 * HOUR_NS,
        span=SPAN,
        spent_nano=1100,
        forecast=Forecast(nano=1300, low_nano=1200, high_nano=1500, method="", hours=1),
        burns=(Burn(hours=1, ratio=2.0, usual=0.5), Burn(hours=6, ratio=1.0)),
    )
    assert values(standing) == {
        "limit": 1e-6,
        "spent": 1.1e-6,
        "spent_ratio": 1.1,
        "elapsed_ratio": 0.25,
        "level_ratio": 1.0,
        "forecast_ratio": 1.3,
        "forecast_low_ratio": 1.2,
        "forecast_high_ratio": 1.5,
        "burn_ratio/1h": 2.0,
        "usual_burn_ratio/1h": 0.5,
        "burn_ratio/6h": 1.0,
    }


def test_what_is_not_known_is_absent():
    assert values(Standing(budget=budget(), as_of_ns=0, span=SPAN, spent_nano=None)) == {"limit": 1e-6}
    little = values(Standing(budget=budget(), as_of_ns=0, span=SPAN, spent_nano=0))
    assert set(little) == {"limit", "spent", "spent_ratio", "elapsed_ratio", "level_ratio"}
    assert little["level_ratio"] == 0
