"""Sums, rates and words that every finding uses."""

import pytest

from agent.core.cost.evidence import MONTH_NS, hours, money, most_of, per_month, percent
from tests.support.savings import HOUR_NS, NS, facts, place


def test_a_month_is_730_hours() -> None:
    assert MONTH_NS == 730 * HOUR_NS
    assert per_month(7, HOUR_NS) == 7 * 730
    assert per_month(None, HOUR_NS) is per_month(7, HOUR_NS - 1) is None


def test_money_of_rows_of_which_some_have_no_price() -> None:
    assert money([place("request", 1), place("request", 5, priced=False)]) == 10_000_000_000
    assert money([place("request", 5, priced=False)]) is money([]) is None


def test_what_is_covered_is_the_longest_record_of_a_gpu() -> None:
    of = facts([place("request", 5), place("gap", 2), place("broken", 6, gpu="GPU-1"), place("request", 1, gpu="")])
    assert of.covered_ns == 7 * HOUR_NS
    assert facts([]).covered_ns == 0


def test_the_slots_an_engine_has_for_most_of_its_time() -> None:
    of = facts([place("request", 100), place("request", 60, gpu="GPU-1"), place("request", 40, gpu="GPU-2")])
    assert of.gpus_of("chat") == 2
    assert of.gpus_of("nobody") == 0


def test_what_time_costs_at_an_engines_mean_price() -> None:
    of = facts([place("request", 100), place("loaded_idle", 300, priced=False)])
    assert of.cost_of("chat", HOUR_NS) == 10_000_000_000
    assert of.cost_of("nobody", HOUR_NS) is None
    assert facts([place("request", 9, priced=False)]).cost_of("chat", HOUR_NS) is None


@pytest.mark.parametrize(
    ("ns", "told"),
    [(5 * NS, "5 s"), (99 * NS, "99 s"), (100 * NS, "2 min"), (98 * 60 * NS, "98 min"), (HOUR_NS * 1234, "1,234.0 h")],
)
def test_gpu_time_in_words(ns: int, told: str) -> None:
    assert hours(ns) == told


def test_shares_in_words() -> None:
    assert (percent(1, 3), percent(1, 0)) == ("33 %", "0 %")
    assert most_of({"a": 1, "b": 6, "": 2, "c": 1, "d": 0}) == "b 60 %, a 10 %"
