from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.explanation import parts_of, remarks
from agent.core.cost.reports import RequestCost


def cost(**changes: Any) -> RequestCost:
    values: dict[str, Any] = {
        "id": "r",
        "engine": "vllm",
        "model": "llama",
        "tenant": "acme",
        "outcome": "ok",
        "started_at_ns": 0,
        "ended_at_ns": 10,
        "gpu_ns": 1_000,
        "cost_nano": 7,
        "currency": "CNY",
        "settled": True,
        "work_ns": 600,
        "input_tokens": 100,
        "input_cached_tokens": 40,
        "output_tokens": 9,
    }
    return RequestCost(**{**values, **changes})


def test_work_and_share():
    work, share = parts_of(cost())
    assert (work.name, work.gpu_ns, work.cost_nano) == ("work", 600, 4)
    assert work.why.startswith("Its own prefill and decode of 60 prompt tokens (40 more came from the cache) and 9 ")
    assert (share.name, share.gpu_ns, share.cost_nano) == ("share", 400, 3)
    assert "weights" in share.why


def test_without_a_shape_all_is_share_and_says_so():
    (share,) = parts_of(cost(work_ns=0))
    assert (share.name, share.gpu_ns, share.cost_nano) == ("share", 1_000, 7)
    assert "nobody knows the model's shape" in share.why


def test_without_a_price_there_is_time_and_no_cost():
    assert [part.cost_nano for part in parts_of(cost(cost_nano=None, currency=None))] == [None, None]
    assert parts_of(cost(gpu_ns=0, cost_nano=0, work_ns=0)) == ()


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 2 * 10**15))
def test_parts_sum_exactly(gpu_ns: int, cost_nano: int, work_ns: int):
    parts = parts_of(cost(gpu_ns=gpu_ns, cost_nano=cost_nano, work_ns=work_ns))
    assert sum(part.gpu_ns for part in parts) == gpu_ns
    if gpu_ns:
        assert sum(part.cost_nano or 0 for part in parts) == cost_nano


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settled": False}, "Not final yet"),
        ({"cost_nano": None}, "No price"),
        ({"waste": "client_abort"}, "client_abort"),
        ({"attempt": 2}, "attempt 2"),
        ({"seen_by": "engine_span"}, "engine_span"),
        ({"precision": "By the second."}, "By the second."),
    ],
)
def test_remarks(changes: dict[str, Any], says: str):
    (remark,) = remarks(cost(**changes))
    assert says in remark


def test_an_ordinary_request_needs_no_remark():
    assert remarks(cost()) == []
