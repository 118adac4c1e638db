from typing import get_args

import pytest

from agent.core.cost.budget_periods import Span
from agent.core.cost.budgets import Burn, Standing, covers, dimensions_of, remarks
from agent.core.cost.forecast import Forecast
from agent.core.cost.reports import SlotState
from tests.support.budgets import HOUR_NS, budget, term

LABELS = {"state": "request", "tenant": "acme", "model": "qwen-3", "namespace": "chat"}


def test_all_terms_must_pass_and_only_states_that_count_do():
    one = budget(scope=(term("tenant", "acme"), term("model", "qwen", op="starts")))
    assert covers(one, LABELS)
    assert not covers(one, LABELS | {"tenant": "zeta"})
    assert not covers(one, LABELS | {"model": "llama"})
    states = ("request", "unattributed", "loaded_idle", "gap", "other_workload")
    covered = {
        counts: [state for state in states if covers(budget(counts=counts), {"state": state})]
        for counts in ("requests", "requests_and_idle", "everything")
    }
    assert covered == {"requests": [*states[:2]], "requests_and_idle": [*states[:4]], "everything": [*states]}


def test_every_state_of_the_bill_counts_towards_everything():
    assert all(covers(budget(), {"state": state}) for state in get_args(SlotState))


def test_what_is_committed_and_whose_a_budget_is():
    assert budget().is_committed
    assert budget(scope=(term("gpu_model", "H100", op="contains"),)).is_committed
    assert not budget(counts="requests_and_idle").is_committed
    assert not budget(scope=(term("model", "m"),)).is_committed
    assert budget(scope=(term("tenant", "a"), term("model", "m"))).tenant == "a"
    assert budget(scope=(term("tenant", "a", "b"),)).tenant is None
    assert budget(scope=(term("tenant", "a", op="starts"),)).tenant is None
    assert dimensions_of([budget(scope=(term("pod", "p"),)), budget()], "tenant") == ("pod", "state", "tenant")


def test_remarks():
    assert remarks(budget(counts="requests_and_idle", scope=(term("tenant", "a"),)))
    assert remarks(budget(scope=(term("tenant"),)))
    assert not remarks(budget(scope=(term("tenant", "a"),)))


def standing(spent: int | None, **changes: object) -> Standing:
    values = {"budget": budget(), "as_of_ns": 5 * HOUR_NS, "span": Span(0, 20 * HOUR_NS, 20 * HOUR_NS)} | changes
    return Standing(spent_nano=spent, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spent", "levels", "over"),
    [(799, (), 0), (800, (80,), 0), (1000, (80, 100), 0), (1199, (80, 100), 199), (1200, (80, 100, 120), 200)],
)
def test_levels_are_reached_exactly(spent: int, levels: tuple[int, ...], over: int):
    found = standing(spent)
    assert (found.levels, found.over_nano) == (levels, over)


def test_the_three_meanings_of_over_by_20_percent():
    none = {"actual": False, "forecast": None, "burn": None}
    assert standing(1200).over() == none
    assert standing(1201).over() == none | {"actual": True}
    assert standing(None).over() == none | {"actual": None}
    forecast = Forecast(nano=1201, low_nano=900, high_nano=1500, method="", hours=1)
    found = standing(10, forecast=forecast, burns=(Burn(hours=1, ratio=1.3), Burn(hours=6, ratio=0.1))).over()
    assert found == {"actual": False, "forecast": True, "burn": True}
    assert standing(1101).over(10)["actual"] is True


def test_how_much_of_the_period_has_passed():
    assert standing(0).elapsed_ratio == 0.25
    assert standing(0, budget=budget(period="7d")).elapsed_ratio == 1.0
    assert standing(0, budget=budget(period="7d")).ends_ns is None
    assert standing(0, span=Span(5, 5, 10)).elapsed_ratio == 1.0
    assert (standing(None).spent_ratio, standing(500).spent_ratio, standing(0).ends_ns) == (None, 0.5, 20 * HOUR_NS)
