"""Work done twice and room kept for nothing: what is estimated, and where nothing may be said of money."""

from typing import Any

import pytest

from agent.core.cost.engine_days import Observed
from agent.core.cost.request_statistics import Counted, RequestCounts
from agent.core.cost.work import Constants
from agent.core.readings import EngineSnapshot, EngineStatus
from tests.support.savings import HOUR_NS, NS, T0, facts, figure, found, hour, outcome, place

BUSY = [place("request", 720, requests=1000)]
MILLION = 1_000_000


def shaped(_engine: str, _model: str) -> Constants:
    """A million prompt tokens are an hour of the engine."""
    return Constants(HOUR_NS / MILLION, 0.0)


def test_requests_that_were_set_back_and_read_again() -> None:
    seen = {"chat": Observed(seen_ns=360 * HOUR_NS, preemptions=500, kv_cache_usage_ratio=0.99)}
    rows = [outcome("ok", 720, 1000, (60 * MILLION, 0, 0))]
    finding = found(facts(BUSY, requests=rows, observed=seen, constants_of=shaped))["preemptions"]
    assert (figure(finding, "mean_prompt"), figure(finding, "kv_cache_peak")) == (60_000, 0.99)
    assert finding.gpu_ns == 30 * HOUR_NS
    assert finding.cost_nano == 300_000_000_000
    assert finding.per_month_nano == 300_000_000_000 * 730 // 360  # from the time that the counter was seen
    assert not finding.is_part
    assert "does not say whose" in finding.limits


def test_two_gpus_that_work_together_cost_both() -> None:
    seen = {"chat": Observed(seen_ns=720 * HOUR_NS, preemptions=500)}
    places = [place("request", 720, gpu=f"GPU-{n}", requests=500) for n in (0, 1)]
    rows = [outcome("ok", 1440, 1000, (60 * MILLION, 0, 0))]
    of = facts(places, requests=rows, observed=seen, constants_of=shaped)
    assert found(of)["preemptions"].gpu_ns == 60 * HOUR_NS


@pytest.mark.parametrize(
    "seen",
    [{}, {"chat": Observed()}, {"chat": Observed(preemptions=0)}, {"chat": Observed(preemptions=9)}],
)
def test_no_and_few_preemptions_are_no_trouble(seen: dict[str, Observed]) -> None:
    rows = [outcome("ok", 720, 1000, (60 * MILLION, 0, 0))]
    assert found(facts(BUSY, requests=rows, observed=seen, constants_of=shaped)) == {}


def test_without_a_shape_there_is_evidence_and_no_money() -> None:
    seen = {"chat": Observed(seen_ns=NS, preemptions=500)}
    rows = [outcome("ok", 720, 1000, (60 * MILLION, 0, 0))]
    finding = found(facts(BUSY, requests=rows, observed=seen))["preemptions"]
    assert (finding.cost_nano, finding.per_month_nano) == (None, None)
    assert "shape" in finding.limits
    assert found(facts([*BUSY, place("unallocated", 100_000, gpu="GPU-1")], requests=rows, observed=seen)).keys() == {
        "unallocated"
    }  # an engine of no weight in the bill


def test_a_cache_that_was_warmer_in_its_best_hour() -> None:
    rows = [outcome("ok", 720, 1000, (100 * MILLION, 20 * MILLION, 0))]
    hours = [
        hour(0, "request", tokens=(MILLION, 600_000), requests=30),
        hour(1, "request", tokens=(MILLION, 900_000), requests=19),  # too few to be the measure
        hour(2, "request", tokens=(1000, 1000), requests=30),  # too small a part of it
        hour(3, "request", tokens=(MILLION, 100_000), requests=30),
        hour(3, "loaded_idle"),
    ]
    finding = found(facts(BUSY, requests=rows, hours=hours, constants_of=shaped))["cold_prefix"]
    assert (figure(finding, "cached_share"), figure(finding, "cached_share_best")) == (0.2, 0.6)
    assert figure(finding, "avoidable") == 40 * MILLION
    assert finding.gpu_ns == 40 * HOUR_NS
    assert "60 % for it in its best hour" in finding.summary
    assert finding.where == {"engine": "chat", "model": "qwen"}


def test_without_hours_the_best_tenant_is_the_measure() -> None:
    rows = [
        outcome("ok", 360, 500, (50 * MILLION, 45 * MILLION, 0), tenant="agent"),
        outcome("ok", 360, 500, (50 * MILLION, 0, 0), tenant="rag"),
        outcome("ok", 0, 1, (1000, 1000, 0), tenant="tiny"),
    ]
    finding = found(facts(BUSY, requests=rows, constants_of=shaped))["cold_prefix"]
    assert figure(finding, "best") == "agent"
    assert figure(finding, "cached_share_best") == 0.9
    assert "At most" in finding.limits


def test_what_is_read_again_costs_no_more_than_the_requests_did() -> None:
    rows = [outcome("ok", 10, 1000, (100_000 * MILLION, 0, 0))]
    hours = [hour(0, "request", tokens=(1000 * MILLION, 900 * MILLION), requests=30)]
    finding = found(facts(BUSY, requests=rows, hours=hours, constants_of=shaped))["cold_prefix"]
    assert finding.gpu_ns == 10 * HOUR_NS


@pytest.mark.parametrize("cached", [0, 50 * MILLION])
def test_a_cache_nobody_tells_of_and_one_that_is_as_warm_as_ever_are_not_told(cached: int) -> None:
    rows = [outcome("ok", 720, 1000, (100 * MILLION, cached, 0))]
    best = hour(0, "request", tokens=(MILLION, cached * 69 // 5000), requests=30)
    assert found(facts(BUSY, requests=rows, hours=[best], constants_of=shaped)) == {}


def limits(kind: str = "tgi", **changes: int) -> dict[str, Any]:
    status = EngineStatus(engine="chat", kind=kind, url="http://e", state="ready")
    numbers = {"requests": 900, "limited": 800, "far_below": 720, "limit_tokens": 800 * 4096, **changes}
    counts = RequestCounts(limited_output_tokens=800 * 100, **numbers)
    return {
        "engines": {"chat": EngineSnapshot(status=status)},
        "statistics": Counted(since_ns=T0, counts={("qwen", "acme"): counts, ("other", ""): RequestCounts()}),
        "requests": [outcome("ok", 720, 900)],
        "observed": {"chat": Observed(requests_waiting=7)},
    }


@pytest.mark.parametrize("kind", ["tgi", "trtllm", "triton", "sglang"])
def test_limits_that_are_never_reached_where_the_engine_keeps_room_for_them(kind: str) -> None:
    finding = found(facts(BUSY, **limits(kind)))["unused_limit"]
    assert (figure(finding, "share_far_below"), figure(finding, "mean_limit")) == (0.9, 4096)
    assert (figure(finding, "mean_output"), figure(finding, "waiting_peak")) == (100, 7)
    assert finding.cost_nano is None
    assert finding.limits.startswith("No money is given")
    assert finding.summary.endswith("Requests waited for room meanwhile.")


@pytest.mark.parametrize(
    "given",
    [limits("vllm"), limits(limited=99, far_below=99), limits(far_below=300), {**limits(), "engines": {}}],
)
def test_limits_that_cost_nothing_or_are_hardly_known(given: dict[str, Any]) -> None:
    assert found(facts(BUSY, **given)) == {}
