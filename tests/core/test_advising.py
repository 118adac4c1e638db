from typing import get_args

from msgspec.structs import replace

from agent.core.advising import OF_THE_PLACE, TOLD_BY_SIDECAR, WORTH_A_NOTE, open_advice
from agent.core.readings import Advice, EngineReading, EngineStatus
from agent.core.requests import Outcome


def status(*signals: str, reason: str = "") -> EngineStatus:
    advice = tuple(Advice(signal=signal, text=f"why no {signal}") for signal in signals)
    return EngineStatus(engine="e", kind="vllm", url="u", state="ready", reason=reason, advice=advice)


def signals(of: EngineStatus, *, has_sidecar: bool = False) -> list[str]:
    return [signal for signal, _ in open_advice(of, has_sidecar=has_sidecar)]


def test_what_the_reason_says_already_is_not_said_again() -> None:
    assert signals(status("timeout", "address", reason="why no address")) == ["timeout"]


def test_what_a_sidecar_tells_is_not_missing() -> None:
    some = status("timeout", "request_duration_seconds", "input_cached")
    assert signals(some) == ["timeout", "request_duration_seconds", "input_cached"]
    assert signals(some, has_sidecar=True) == ["input_cached"]


def test_of_an_engine_that_is_down_only_that_is_known() -> None:
    down = replace(status("processes", "address"), state="down")
    assert signals(down) == []
    assert signals(replace(down, url="")) == ["processes", "address"]  # nobody can ask it, and it may well be up


def test_without_a_page_the_page_is_what_is_missing() -> None:
    assert signals(status("metrics", "timeout", "processes", "queue_seconds")) == ["metrics", "processes"]
    assert signals(status("metrics", "timeout", reason="404: why no metrics")) == []


def test_the_signals_are_those_of_readings() -> None:
    known = {*EngineReading.__struct_fields__, *get_args(Outcome), "input", "input_cached", "output"}
    assert known >= (TOLD_BY_SIDECAR | WORTH_A_NOTE)
    assert not OF_THE_PLACE & known
