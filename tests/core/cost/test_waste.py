"""What failed requests cost, by cause, and which of it was sent again."""

import pytest

from agent.core.cost.request_statistics import Counted, RequestCounts
from agent.core.cost.waste import waste_of
from tests.support.savings import HOUR_NS, T0, facts, figure, found, outcome, place

BUSY = [place("request", 720, requests=10_000)]


@pytest.mark.parametrize(
    ("of", "waste"),
    [("ok", ""), ("in_flight", ""), ("rejected", ""), ("error", "error"), ("timeout", "timeout"),
     ("client_abort", "client_abort"), ("lost_record", "lost"), ("lost", "lost")],
)  # fmt: skip
def test_which_outcomes_are_waste(of: str, waste: str) -> None:
    assert waste_of(of) == waste


def test_what_was_left_by_clients_and_whose_it_was() -> None:
    rows = [
        outcome("ok", 600, 9000),
        outcome("client_abort", 90, 800, (0, 0, 5000), tenant="acme"),
        outcome("client_abort", 30, 200, tenant="zeta"),
    ]
    finding = found(facts(BUSY, requests=rows))["client_abort"]
    assert (finding.gpu_ns, finding.cost_nano, finding.is_part) == (120 * HOUR_NS, 1_200_000_000_000, True)
    assert (figure(finding, "requests"), figure(finding, "share_of_requests")) == (1000, 0.1)
    assert figure(finding, "output_tokens") == 5000
    assert finding.where == {"model": "qwen"}
    assert "by tenant: acme 75 %, zeta 25 %" in finding.summary


@pytest.mark.parametrize("cause", ["error", "timeout", "client_abort", "lost_record"])
def test_each_cause_has_its_advice(cause: str) -> None:
    rows = [outcome("ok", 600, 9000), outcome(cause, 120, 1000)]
    (finding,) = found(facts(BUSY, requests=rows)).values()
    assert finding.kind == waste_of(cause)
    assert finding.where == {"model": "qwen", "tenant": "acme"}
    assert finding.advice


def test_waste_below_a_hundredth_of_the_bill_is_not_told() -> None:
    assert found(facts(BUSY, requests=[outcome("ok", 713, 9000), outcome("error", 7, 100)])) == {}


def test_requests_that_name_no_model_are_told_too() -> None:
    finding = found(facts(BUSY, requests=[outcome("error", 120, 10, model="", tenant="")]))["error"]
    assert finding.where == {}
    assert "10 requests (100 %) ended in an error" in finding.summary


def test_what_runs_past_the_sidecar_is_nobodys_failure() -> None:
    assert found(facts(BUSY, requests=[outcome("", 720, 0, state="unattributed", tenant="")])) == {}


def counted(**by_tenant: tuple[int, int]) -> Counted:
    counts = {("qwen", tenant): RequestCounts(requests=n, retries=again) for tenant, (n, again) in by_tenant.items()}
    return Counted(since_ns=T0, counts=counts)


def test_retries_and_what_the_attempts_before_them_cost() -> None:
    rows = [
        outcome("ok", 600, 9000),
        outcome("error", 40, 400),
        outcome("timeout", 60, 100),
        outcome("rejected", 0, 500),
        outcome("error", 20, 50, tenant="zeta"),  # which never tries again
    ]
    of = facts(BUSY, requests=rows, statistics=counted(acme=(10_000, 250), zeta=(50, 0)))
    finding = found(of)["retries"]
    assert (figure(finding, "retries"), finding.where) == (250, {"model": "qwen", "tenant": "acme"})
    assert finding.gpu_ns == 100 * HOUR_NS * 250 // 1000
    assert finding.cost_nano == 1_000_000_000_000 * 250 // 1000
    assert not finding.is_part  # it is in the findings about errors and timeouts
    assert "x-stainless-retry-count" in finding.limits


def test_more_retries_than_failures_cost_no_more_than_those() -> None:
    of = facts(BUSY, requests=[outcome("error", 72, 10)], statistics=counted(acme=(100, 90)))
    assert found(of)["retries"].gpu_ns == 72 * HOUR_NS


def test_retries_of_what_cost_nothing_are_not_told() -> None:
    of = facts(
        BUSY, requests=[outcome("ok", 720, 900), outcome("rejected", 0, 100)], statistics=counted(acme=(1000, 99))
    )
    assert found(of) == {}


def test_where_nobody_counted_there_are_no_retries() -> None:
    assert "retries" not in found(facts(BUSY, requests=[outcome("error", 72, 10)]))
