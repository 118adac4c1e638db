from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.cost.budgets import DEFAULT_LEVELS, Budget
from agent.core.cost.prices import Part, PriceBook, PriceRow
from agent.core.cost.reports import Term
from agent.core.ports import ConfigError
from agent.runners.budgets_settings import BudgetsSettings, load_budgets
from tests.support.budgets import ns

ITEM = {"name": "acme", "amount": "120.50", "currency": "CNY", "period": "month"}
PRICES = PriceBook("CNY", (PriceRow("*", (Part("rent", 1),)),))  # type: ignore[arg-type]


def loaded(**changes: Any) -> Budget:
    return load_budgets(BudgetsSettings.model_validate({"items": [ITEM | changes]}), PRICES)[0]


def test_the_file_becomes_values():
    scope = {"tenant": "acme", "namespace": ["a", "b"], "model": {"starts": ["qwen"], "is_not": "qwen-0.5b"}}
    found = loaded(scope=scope, counts="requests", time_zone="Asia/Shanghai", starts="2026-11-23", levels=[50, 100])
    assert found == Budget(
        name="acme",
        nano=120_500_000_000,
        currency="CNY",
        period="month",
        time_zone="Asia/Shanghai",
        scope=(
            Term("tenant", "is", ("acme",)),
            Term("namespace", "is", ("a", "b")),
            Term("model", "starts", ("qwen",)),
            Term("model", "is_not", ("qwen-0.5b",)),
        ),
        counts="requests",
        levels=(50, 100),
        begins_ns=ns("2026-11-23T00:00:00+08:00"),
    )


def test_nothing_said_is_no_budget_and_the_defaults_are_soft():
    assert load_budgets(BudgetsSettings(), None) == ()
    found = loaded()
    assert (found.mode, found.levels, found.counts, found.scope) == ("observe", DEFAULT_LEVELS, "everything", ())
    assert loaded(amount=0.1).nano == 100_000_000


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"amount": 0}, "amount", "greater than 0"),
        ({"amount": -5}, "amount", "greater than 0"),
        ({"amount": "NaN"}, "amount", "finite"),
        ({"amount": "1e13"}, "amount", "less than"),
        ({"currency": "yuan"}, "currency", "pattern"),
        ({"period": "monthly"}, "period", "day, week, month, quarter, year"),
        ({"period": "400d"}, "period", "366d"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "Europe/Berlin"),
        ({"time_zone": "../etc/passwd"}, "time_zone", "time zone"),
        ({"name": "budget:x"}, "name", "pattern"),
        ({"scope": {"colour": "red"}}, "scope", "tenant"),
        ({"scope": {"state": "request"}}, "scope", "`counts`"),
        ({"scope": {"tenant": []}}, "tenant", "at least 1"),
        ({"scope": {"tenant": {}}}, "tenant", "at least 1"),
        ({"scope": {"tenant": {"like": "x"}}}, "tenant", "contains"),
        ({"levels": [100, 80]}, "levels", "ascending"),
        ({"levels": []}, "levels", "at least 1"),
        ({"starts": "soon"}, "starts", "date"),
        ({"mode": "block", "scope": {"namespace": "x"}}, "", "does not know the namespace"),
        ({"mode": "block", "scope": {"tenant": ["a", "b"]}}, "", "a budget for each"),
        ({"amont": 5}, "amont", "not permitted"),
    ],
)
def test_mistakes_are_told_with_their_key(changes: dict[str, Any], key: str, said: str):
    with pytest.raises(ValidationError) as raised:
        loaded(**changes)
    errors = raised.value.errors()
    assert any(not key or key in error["loc"] for error in errors)
    assert any(said in error["msg"] for error in errors)


def test_names_are_for_one_budget_each():
    with pytest.raises(ValidationError, match="two budgets have the name `acme`"):
        BudgetsSettings.model_validate({"items": [ITEM, ITEM]})


@pytest.mark.parametrize(("prices", "said"), [(None, "no prices"), (PRICES, "prices are in CNY")])
def test_budgets_are_in_the_currency_of_the_prices(prices: PriceBook | None, said: str):
    settings = BudgetsSettings.model_validate({"items": [ITEM | {"currency": "USD"}]})
    with pytest.raises(ConfigError, match=said) as raised:
        load_budgets(settings, prices)
    assert "budgets.items.0.currency" in str(raised.value)


def test_warning_needs_no_scope_that_sidecars_can_tell():
    assert loaded(mode="warn", scope={"namespace": "x"}).mode == "warn"
