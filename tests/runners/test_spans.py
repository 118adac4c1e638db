"""When a request that only a span tells of can be priced."""

from agent.core.cost.live import Live
from agent.runners.spans import GRACE_NS, UNKNOWN_NS, Spans, minutes_among

NS = 1_000_000_000
MINUTE = 60 * NS
T0 = 1_800_000_000 * NS


def span(name: str, start_ns: int, end_ns: int, engine: str = "vllm") -> Live:
    return Live(name, "", engine, start_ns, ended_ns=end_ns, outcome="ok", seen_by="span")


def test_it_waits_until_its_time_is_closed_and_others_of_that_time_had_a_chance() -> None:
    spans = Spans([span("a", T0, T0 + NS)])
    assert spans.due(None) == []
    assert spans.due(T0 + MINUTE + GRACE_NS - 1, {"vllm"}) == []
    assert [live.id for live in spans.due(T0 + MINUTE + GRACE_NS, {"vllm"})] == ["a"]


def test_it_waits_for_the_name_of_its_engine_and_not_for_ever() -> None:
    spans = Spans()
    spans.add(span("a", T0, T0 + NS, "127.0.0.1:8000"), T0 + MINUTE)
    assert spans.due(T0 + MINUTE + UNKNOWN_NS - 1, {"vllm"}) == []
    assert [live.id for live in spans.due(T0 + MINUTE + UNKNOWN_NS, {"vllm"})] == ["a"]
    spans.rename_engine(lambda _upstream: "vllm")
    assert [live.engine for live in spans.due(T0 + MINUTE + GRACE_NS, {"vllm"})] == ["vllm"]


def test_those_that_end_in_the_same_minute_are_priced_together() -> None:
    spans = Spans([span("a", T0, T0 + NS), span("b", T0, T0 + MINUTE), span("c", T0, T0 + MINUTE + 1)])
    assert [live.id for live in spans.due(T0 + MINUTE + GRACE_NS, {"vllm"})] == ["a", "b"]
    assert [live.id for live in spans.due(T0 + 2 * MINUTE + GRACE_NS, {"vllm"})] == ["a", "b", "c"]


def test_what_is_priced_does_not_come_again() -> None:
    spans = Spans()
    spans.add(span("a", T0, T0 + NS), T0 + NS)
    spans.add(span("b", T0, T0 + NS), T0 + NS)
    later = T0 + MINUTE + GRACE_NS
    spans.priced([live for live in spans.due(later, {"vllm"}) if live.id == "a"])
    assert [live.id for live in spans.due(later, {"vllm"})] == ["b"]


def test_the_minutes_of_each_engine_are_those_of_any_of_its_requests() -> None:
    lives = [span("a", T0, T0 + MINUTE + 1), span("b", T0 + 30 * NS, T0 + 40 * NS), span("c", T0, T0 + 1, "sglang")]
    assert minutes_among(lives) == {"vllm": [T0, T0 + MINUTE], "sglang": [T0]}
