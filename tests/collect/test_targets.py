"""Targets: how an engine is named, and where it is."""

from agent.collect.settings import EngineSettings
from agent.collect.targets import EngineTarget


def test_from_settings() -> None:
    settings = EngineSettings(url="https://engine.example", gpus=("0",), kind="vllm")
    target = EngineTarget.from_settings(settings)
    assert (target.url, target.gpus, target.kind, target.found_by) == (settings.url, ("0",), "vllm", "config")


def test_named_after_its_address_unless_it_has_a_name() -> None:
    assert EngineTarget(url="https://engine.example").engine == "engine.example:443"
    assert EngineTarget(url="http://[::1]:8000").engine == "[::1]:8000"
    assert EngineTarget(url="http://[::1]:8000", name="mine").engine == "mine"
