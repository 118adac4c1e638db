"""Targets: how an engine is named, and where it is."""

from agent.collect.engines.settings import EngineSettings
from agent.collect.engines.targets import EngineTarget


def test_from_settings() -> None:
    settings = EngineSettings(url="https://engine.example", gpus=("0",), kind="vllm")
    target = EngineTarget.from_settings(settings)
    assert (target.url, target.gpus, target.kind, target.found_by) == (settings.url, ("0",), "vllm", "config")


def test_named_after_its_address_unless_it_has_a_name() -> None:
    assert EngineTarget(url="https://engine.example").engine == "engine.example:443"
    assert EngineTarget(url="http://[::1]:8000").engine == "[::1]:8000"
    assert EngineTarget(url="http://[::1]:8000", name="mine").engine == "mine"


def test_what_the_config_says_of_page_and_service() -> None:
    settings = EngineSettings(url="http://e:8000", metrics_url="http://e:8002/metrics", service="chat")
    target = EngineTarget.from_settings(settings)
    assert (target.metrics_url, target.service, target.listens) == ("http://e:8002/metrics", "chat", True)


def test_loopback_is_local_by_its_spelling() -> None:
    assert [EngineTarget(url=f"http://{host}:1").is_local for host in ("localhost", "127.0.0.2", "[::1]", "e")] == [
        True,
        True,
        True,
        False,
    ]
