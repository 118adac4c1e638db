"""How a cost was found, in words: each thing that is known or not known of a request."""

from typing import Any

import pytest

from agent.core.cost.explain import Told, precision

NS = 1_000_000_000
KNOWN: dict[str, Any] = {
    "started_ns": 0,
    "ended_ns": 10 * NS,
    "outcome": "ok",
    "seen_by": "sidecar",
    "gpu_ns": 5 * NS,
    "work_ns": 2 * NS,
    "seen_ns": 10 * NS,
    "metered_ns": 5 * NS,
    "is_priced": True,
    "input_tokens": 3,
    "output_tokens": 4,
    "input_estimate": None,
    "settled": True,
}


@pytest.mark.parametrize(
    ("fields", "begin", "parts"),
    [
        ({}, "Seen by the sidecar: its own prefill and decode work", []),
        ({"work_ns": 0}, "Seen by the sidecar: its share of its engine's active time", ["equal for all"]),
        ({"seen_by": "span", "work_ns": 0}, "Known from a span only, while its time was open", []),
        ({"seen_by": "span", "work_ns": 0, "seen_ns": 0}, "Known from a span only, after it had ended: a share", []),
        ({"seen_by": "span", "gpu_ns": 0, "metered_ns": 0}, "Known from a span only, after it had ended, so", []),
        ({"outcome": "rejected", "gpu_ns": 0}, "It was turned away before it ran", []),
        ({"gpu_ns": 0, "metered_ns": 0}, "No GPU of its engine was known", []),
        ({"gpu_ns": 0, "metered_ns": 0, "settled": False, "ended_ns": None}, "Nothing is booked for it yet.", []),
        ({"seen_ns": 7 * NS}, "Seen", ["For 3 s of the 10 s that it ran, nobody watched its GPUs"]),
        ({"is_priced": False}, "Seen", ["has no price"]),
        ({"metered_ns": NS}, "Seen", ["Only a part of its GPU time has an energy reading."]),
        ({"metered_ns": 0}, "Seen", []),
        ({"output_tokens": None}, "Seen", ["did not report how many tokens"]),
        ({"input_tokens": None, "input_estimate": 512}, "Seen", ["taken for 512 tokens"]),
        ({"outcome": "lost_record", "output_tokens": None}, "Seen", ["Its sidecar ended before it did"]),
        ({"settled": False, "ended_ns": None, "seen_ns": NS, "input_tokens": None}, "Seen", ["It is not settled"]),
    ],
)
def test_what_is_said(fields: dict[str, Any], begin: str, parts: list[str]) -> None:
    said = precision(Told(**{**KNOWN, **fields}))
    assert said.startswith(begin)
    for part in parts:
        assert part in said
    assert said.count(". ") == len([part for part in parts if "equal for all" not in part]) + ("512" in said)
